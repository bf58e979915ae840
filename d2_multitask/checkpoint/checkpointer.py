"""Detectron2's checkpointer with safe reading, one readable report, and no silent loss."""

from __future__ import annotations

import logging
import os
from typing import Any
from urllib.parse import parse_qs, urlparse

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from torch import nn

from d2_multitask.checkpoint.matching import check_architecture, match_weights
from d2_multitask.checkpoint.reading import read_checkpoint
from d2_multitask.checkpoint.report import LoadReport

logger = logging.getLogger(__name__)


class MultitaskCheckpointer(DetectionCheckpointer):
    """Saves and loads models; see `read_checkpoint` for the kinds of files.

    Two ways of loading:

    - `load(path)` initialises: what fits is taken, and `report` says what did and what did not.
      Weights of another architecture are an error.
    - `resume_or_load(path, resume=True)` with a checkpoint in `save_dir` continues a training:
      every tensor must be there and fit, or it is an error.

    Args:
        model: The model.
        save_dir: Folder of the checkpoints.
        save_to_disk: Whether this process saves; None = only the main process does.
        use_ema: Take the moving average of the weights, if the file has one, when initialising
            (for evaluation and fine-tuning, these are the better weights). Never when resuming.
        **checkpointables: What else to save and load, such as `trainer`.

    Attributes:
        report: The `LoadReport` of the last load, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        use_ema: bool = True,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.report: LoadReport | None = None
        self._use_ema = use_ema
        self._resuming = False
        self._source = ""

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a weight file into the model.

        Args:
            path: A local file or a URL that Detectron2 knows (`detectron2://...`, `https://...`).
                "" = none; the model stays as it is.
            checkpointables: Names of the other objects to load; None = all that the file has.

        Returns:
            What else the file holds.

        Raises:
            FileNotFoundError: The file does not exist or cannot be downloaded.
            ValueError: The file is damaged, of another architecture, or wants to run code; when
                resuming, also if any tensor is missing, left over, or of another shape.
        """
        self.report = None
        self._source = path
        if path:
            _find_file(path)
        try:
            return super().load(path, checkpointables=checkpointables)
        finally:
            self._parsed_url_during_load = None  # the parent forgets to after an error

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Continue from the last checkpoint in `save_dir`, if wanted and there; else `load`.

        Args:
            path: The weights to start from if there is nothing to continue.
            resume: Whether to continue.

        Returns:
            As `load`.

        Raises:
            FileNotFoundError: As `load`.
            ValueError: As `load`.
        """
        self._resuming = resume and self.has_checkpoint()
        try:
            return super().resume_or_load(path, resume=resume)
        finally:
            self._resuming = False

    def _load_file(self, filename: str) -> dict[str, Any]:
        checkpoint = read_checkpoint(filename, prefer_ema=self._use_ema and not self._resuming)
        queries = parse_qs(self._parsed_url_during_load.query)
        if queries.pop("matching_heuristics", None) == ["True"]:
            checkpoint["matching_heuristics"] = True
        if queries:
            raise ValueError(
                f"{self._source} asks for {sorted(queries)}; expected at most "
                "'?matching_heuristics=True'"
            )
        return checkpoint

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        matched, self.report = match_weights(
            self.model, checkpoint, self._source, adapt=not self._resuming
        )
        if self._resuming:
            self._check_complete(checkpoint)
        check_architecture(self.report)
        checkpoint["model"] = matched
        for key in ("matching_heuristics", "skipped", "ema_used"):
            checkpoint.pop(key, None)
        return super()._load_model(checkpoint)

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        """The report says it, once."""
        _log(self.report)

    def _check_complete(self, checkpoint: dict[str, Any]) -> None:
        report = self.report
        absent = [key for key in self.checkpointables if key not in checkpoint]
        problems = {
            "missing in the file": report.fresh,
            "of another shape": [str(mismatch) for mismatch in report.mismatched],
            "unknown to the model": report.unused,
            "training state missing in the file": absent,
        }
        found = [f"{what}: {', '.join(names)}" for what, names in problems.items() if names]
        if found:
            raise ValueError(
                f"{report.file} cannot be resumed, because it is the checkpoint of another model. "
                f"{'; '.join(found)}. Train with the config it was made with, or use it as "
                "MODEL.WEIGHTS without --resume (in another OUTPUT_DIR)"
            )


def load_weights(module: nn.Module, path: str) -> LoadReport:
    """Initialise a part of a model from a weight file of its own.

    Args:
        module: The part, for example a feature network.
        path: A local file or a URL that Detectron2 knows.

    Returns:
        What matched; it is logged too.

    Raises:
        FileNotFoundError: The file does not exist or cannot be downloaded.
        ValueError: The file is damaged, of another architecture, or wants to run code.
    """
    checkpoint = read_checkpoint(_find_file(path), prefer_ema=True)
    matched, report = match_weights(module, checkpoint, path)
    check_architecture(report)
    module.load_state_dict(matched, strict=False)
    _log(report)
    return report


def _find_file(path: str) -> str:
    """The local path of a file or URL."""
    bare = urlparse(path)._replace(query="").geturl()
    try:
        local = PathManager.get_local_path(bare)
    except Exception as error:  # no network, unknown name, ...: by handler
        raise FileNotFoundError(
            f"The weights {path} cannot be had ({type(error).__name__}: {error}). Without a "
            "network connection, download the file elsewhere and name the local file"
        ) from error
    if not os.path.isfile(local):
        raise FileNotFoundError(
            f"There is no weight file {path} (looked for {os.path.abspath(local)}). Check the "
            "path; to resume without it, name another checkpoint in the file last_checkpoint, or "
            "delete that file to start anew"
        )
    return local


def _log(report: LoadReport) -> None:
    """Log the report; as a warning if a part of the feature network got nothing."""
    lost = [*report.fresh, *(mismatch.name for mismatch in report.mismatched)]
    lost = [
        name
        for name in lost
        if name.startswith("backbone.bottom_up.") and not name.endswith("num_batches_tracked")
    ]
    logger.log(logging.WARNING if lost else logging.INFO, "%s", report)
    if lost:
        logger.warning(
            "%d tensors of the feature network keep their initial values, for example %s.",
            len(lost),
            lost[:3],
        )
