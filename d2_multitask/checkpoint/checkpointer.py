"""Detectron2's checkpointer with safe reading, a report of what was loaded, and strict resuming."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn

from d2_multitask.checkpoint.matching import check_architecture, match_weights
from d2_multitask.checkpoint.reading import DESCRIPTION_KEY, check_zip, read_checkpoint
from d2_multitask.checkpoint.report import LoadReport
from d2_multitask.data.whole_files import UNFINISHED, whole_file

logger = logging.getLogger(__name__)

_TAG = "last_checkpoint"
_AVERAGES = ("ema",)
# Key of a training state: the optimizer's name in SOLVER.OPTIMIZER.
OPTIMIZER_NAME = "optimizer_name"
# Options in which optimizers differ; other options differ between releases of PyTorch.
_OPTIMIZER_KINDS = {"momentum", "dampening", "betas", "eps", "alpha", "rho", "lambd"}
_MOMENTS = {"exp_avg", "exp_avg_sq", "momentum_buffer"}  # of the shape of their parameter
_START_ANEW = (
    "Train with the config it was made with, or use it as MODEL.WEIGHTS without --resume (in "
    "another OUTPUT_DIR)"
)


class MultitaskCheckpointer(DetectionCheckpointer):
    """Saves and loads models; see `read_checkpoint` for the kinds of files.

    - `load(path)` initialises: tensors that match are loaded, and `report` lists all. Weights of
      another architecture are an error.
    - `resume_or_load(path, resume=True)` with a checkpoint in `save_dir` continues a training:
      every tensor must match, or it is an error. If the checkpoint that was saved last is broken,
      the newest good one is loaded.

    Files are written atomically: a stopped process leaves no incomplete checkpoint.

    Args:
        model: The model.
        save_dir: Folder of the checkpoints.
        save_to_disk: Whether this process saves; None = only the main process does.
        use_ema: When initialising, load the moving average of the weights, if the file has one
            (better for evaluation and fine-tuning). Never when resuming.
        description: Text that is saved in every checkpoint, see `Description.to_json`.
        **checkpointables: Other objects to save and load, such as `trainer`.

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
        description: str = "",
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.report: LoadReport | None = None
        self._use_ema = use_ema
        self._description = {DESCRIPTION_KEY: description} if description else {}
        self._resuming = False
        self._source = ""

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a weight file into the model.

        Args:
            path: A local file or a URL that Detectron2 knows; "" = none.
            checkpointables: Names of the other objects to load; None = all that the file has.

        Returns:
            The file's other content.

        Raises:
            FileNotFoundError: The file does not exist or cannot be downloaded.
            ValueError: The file is damaged, of another architecture, or would have to run code;
                when resuming, also if any tensor is missing, left over, or of another shape.
        """
        self.report = None
        self._source = path
        if path:
            _find_file(path)
        try:
            content = super().load(path, checkpointables=[])
        finally:
            self._parsed_url_during_load = None  # which the parent does not after an error
        for key in self.checkpointables if checkpointables is None else checkpointables:
            if key not in content:
                continue
            self.logger.info("Loading %s from %s ...", key, path)
            try:
                self.checkpointables[key].load_state_dict(content.pop(key))
            except Exception as error:  # which one depends on the object
                raise ValueError(
                    f"{path}: its training state {key!r} does not fit this training "
                    f"({type(error).__name__}: {' '.join(str(error).split())}). {_START_ANEW}"
                ) from error
        return content

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """With `resume`, continue from the last checkpoint in `save_dir`, if any; else `load`.

        Returns and raises as `load`; other objects than the model are loaded only to continue.
        """
        last = self.get_checkpoint_file() if resume else ""
        self._resuming = bool(last)
        try:
            return self.load(last) if last else self.load(path, checkpointables=[])
        finally:
            self._resuming = False

    def save(self, name: str, **kwargs: Any) -> None:
        """Save the model, the other objects and `kwargs` as `save_dir`/`name`.pth.

        Raises:
            FloatingPointError: A weight is NaN or infinite; nothing is saved.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        content = {key: item.state_dict() for key, item in self.checkpointables.items()}
        content = {"model": self.model.state_dict(), **self._description, **content, **kwargs}
        _check_finite(
            {key: content[key] for key in ("model", *_AVERAGES) if key in content},
            name,
            buffers=tuple(f".{key}" for key, _ in self.model.named_buffers()),
        )
        path = Path(self.save_dir, f"{name}.pth")
        for leftover in path.parent.glob(f"*.pth{UNFINISHED}"):  # of a process that was killed
            leftover.unlink(missing_ok=True)
        self.logger.info("Saving checkpoint to %s", path)
        with whole_file(path, durable=True) as unfinished:
            _write(content, unfinished)
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write the name of the checkpoint to resume from, a file in `save_dir`."""
        with whole_file(Path(self.save_dir, _TAG), durable=True) as unfinished:
            unfinished.write_text(last_filename_basename)

    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self) -> str:
        """The checkpoint to resume from; "" = no training has saved anything here.

        It is the file that `last_checkpoint` names; if this is broken or missing, the newest good
        one in `save_dir`, with a warning; if there is none either, the file as named.
        """
        tag = Path(self.save_dir, _TAG)
        name = tag.read_text(errors="replace").strip() if tag.is_file() else ""
        named = os.path.join(self.save_dir, name) if name else ""
        problem = _problem(named) if name else f"{tag} is {'empty' if tag.is_file() else 'missing'}"
        if not problem:
            return named
        found = self._newest_good(named) if self.save_dir else ""
        if found:
            logger.warning("%s. The newest good checkpoint is loaded instead, %s", problem, found)
        return found or named

    def _newest_good(self, known_bad: str) -> str:
        """The newest file in `save_dir` that has the training state; "" = none."""
        files = sorted(Path(self.save_dir).glob("*.pth"), key=os.path.getmtime, reverse=True)
        for file in map(str, files):
            if file == known_bad:
                continue
            try:
                content = read_checkpoint(file)
            except (ValueError, OSError) as error:
                logger.warning("%s", error)
                continue
            # Pre-trained weights may be in this folder too.
            if "iteration" in content and all(key in content for key in self.checkpointables):
                return file
        return ""

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
        """Log the report instead."""
        _log(self.report)

    def _check_complete(self, checkpoint: dict[str, Any]) -> None:
        report = self.report
        absent = [key for key in self.checkpointables if key not in checkpoint]
        problems = {
            "missing in the file": report.fresh,
            "of another shape": [str(mismatch) for mismatch in report.mismatched],
            "unknown to the model": report.unused,
            "training state missing in the file": absent,
            "another optimizer or other frozen layers": self._other_optimizers(checkpoint),
        }
        found = [f"{what}: {', '.join(names)}" for what, names in problems.items() if names]
        if found:
            raise ValueError(
                f"{report.file} cannot be resumed, because it is the checkpoint of another model. "
                f"{'; '.join(found)}. {_START_ANEW}"
            )

    def _other_optimizers(self, checkpoint: Mapping[str, Any]) -> list[str]:
        """Differences of the file's optimizers to ours; PyTorch finds some of them, steps later."""
        problems = []
        for key, item in self.checkpointables.items():
            found = list(_optimizers(checkpoint.get(key)))
            expected = list(_optimizers(item.state_dict()))
            for (name, file), (own_name, own) in zip(found, expected, strict=False):
                if name and own_name and name != own_name:
                    problems.append(
                        f"SOLVER.OPTIMIZER: found {own_name!r}, expected {name!r} as in the file"
                    )
                elif _describe(file) != _describe(own):
                    problems.append(f"found {_describe(file)}, expected {_describe(own)}")
            if not problems and len(found) == 1 and hasattr(item, "optimizer"):
                problems += _other_shapes(found[0][1], item.optimizer)
        return problems


def load_weights(module: nn.Module, path: str) -> LoadReport:
    """Initialise a part of a model, such as a feature network, from a weight file of its own.

    Path and errors as of `MultitaskCheckpointer.load`; the report is logged too.
    """
    checkpoint = read_checkpoint(_find_file(path), prefer_ema=True)
    matched, report = match_weights(module, checkpoint, path)
    check_architecture(report)
    module.load_state_dict(matched, strict=False)
    _log(report)
    return report


def _write(content: Mapping[str, Any], path: Path) -> None:
    try:
        with path.open("wb") as file:  # PyTorch's own file hides the OSError
            torch.save(content, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _check_finite(content: Mapping[str, Any], name: str, buffers: tuple[str, ...]) -> None:
    for key, value in _tensors(content):
        broken = ~torch.isfinite(value)
        if key.endswith(buffers):  # masks of attention are -inf
            broken &= ~torch.isneginf(value)
        if bad := int(broken.sum()):
            raise FloatingPointError(
                f"{name}.pth is not saved: {bad} of the {value.numel()} numbers of {key} are NaN "
                "or infinite; expected finite numbers. Resume from the checkpoint before it "
                "(--resume), with a lower SOLVER.BASE_LR"
            )


def _tensors(content: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Names and values of all floating-point tensors, however deep."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _tensors(value, f"{prefix}{key}.")
        elif isinstance(value, Tensor) and value.is_floating_point():
            yield f"{prefix}{key}", value


def _problem(path: str) -> str:
    """Why a checkpoint cannot be read, as far as its checksums tell; "" = it can."""
    try:
        if not check_zip(path):
            read_checkpoint(path)
    except (ValueError, OSError) as error:
        return str(error)
    return ""


def _optimizers(state: Any, name: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Names, as far as they are said, and states of optimizers in a training state."""
    if isinstance(state, Mapping):
        if "param_groups" in state:
            yield name, state
        else:
            for value in state.values():
                yield from _optimizers(value, state.get(OPTIMIZER_NAME, ""))


def _describe(optimizer: Mapping[str, Any]) -> str:
    """Numbers of parameters per group, and the options that tell the kind."""
    groups = optimizer["param_groups"]
    sizes = [len(group["params"]) for group in groups]
    kind = sorted(_OPTIMIZER_KINDS.intersection(*groups)) if groups else []
    shown = f"{sizes[:5]}".replace("]", ", ...]" if len(sizes) > 5 else "]")
    return f"{sum(sizes)} parameters in {len(sizes)} groups {shown} with the options {kind}"


def _other_shapes(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> list[str]:
    """The first parameter whose moments in a file have another shape."""
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    for number, parameter in enumerate(parameters):
        for name in _MOMENTS & state["state"].get(number, {}).keys():
            moment = state["state"][number][name]
            if isinstance(moment, Tensor) and moment.shape != parameter.shape:
                found, expected = tuple(moment.shape), tuple(parameter.shape)
                return [f"{name} of parameter {number}: found {found}, expected {expected}"]
    return []


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
            "path: MODEL.WEIGHTS, or with --resume what the file last_checkpoint names. Without "
            "--resume, a training starts anew"
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
