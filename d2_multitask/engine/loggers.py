"""Weights & Biases and MLflow as Detectron2's `EventWriter`, beside its log, JSON and TensorBoard.

A run of theirs gets the config, the numbers of ``metrics.json``, the pictures and, at the end, the
final and the best checkpoint. Where, their own environment variables say (``WANDB_PROJECT``,
``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME``, ...). No failure of theirs ends a training.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import tempfile
import time
from abc import abstractmethod
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import yaml
from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, get_event_storage

from d2_multitask.data.whole_files import write_text
from d2_multitask.engine.setup import flat

logger = logging.getLogger(__name__)

Send = Callable[[], Any]
_FINAL, _BEST, _TAG = "model_final.pth", "model_best.pth", "last_checkpoint"
_FIRST_PAUSE, _LONGEST_PAUSE = 30.0, 600.0  # seconds without a try after a failure
_TRIES = 3


class RunWriter(EventWriter):
    """Sends what it gets in order; after a failure it waits, and tries again later.

    What cannot be sent in three tries is given up, a picture and a file at once, and the number of
    failures is said at the end. Pictures of a time without tries are not kept. The run's id is kept
    in ``OUTPUT_DIR``, so that a resumed training goes on with the same run.
    """

    library: ClassVar[str]
    """The package to import, and the name in ``LOGGERS``."""
    limits: ClassVar[dict[str, str]]
    """Environment variables of the library that are set unless they are: it must not wait long."""

    def __init__(self, cfg: CfgNode, is_resumed: Callable[[], bool]) -> None:
        """
        Args:
            cfg: the config of the training.
            is_resumed: asked at the first writing.

        Raises:
            ValueError: the library is not installed.
        """
        self._module = self.imported()
        self._cfg = cfg
        self._folder = Path(cfg.OUTPUT_DIR)
        self._id_file = self._folder / f"{self.library}_run_id"
        self._is_resumed = is_resumed
        with tempfile.TemporaryFile(dir=self._folder) as now:  # the clock of the disk
            self._began = os.fstat(now.fileno()).st_mtime
        self._run: Any = None
        self._last_write = -1
        self._waiting: deque[tuple[Send, int]] = deque()
        self._failures = self._lost = 0
        self._pause, self._next_try = _FIRST_PAUSE, 0.0

    @classmethod
    def imported(cls) -> Any:
        """The library; raises ValueError if it is not installed."""
        for name, value in cls.limits.items():
            os.environ.setdefault(name, value)
        try:
            return importlib.import_module(cls.library)
        except ImportError as error:
            raise ValueError(
                f"LOGGERS: found {cls.library!r}, which cannot be imported ({error}). Type: "
                f"python -m pip install {cls.library}"
            ) from None

    @abstractmethod
    def _start_run(self, run_id: str | None) -> str:
        """Start a run, or go on with one; returns its id."""

    @abstractmethod
    def _send_config(self, is_new: bool) -> Iterable[Send]:
        """What sends the config to a run that is new or goes on."""

    @abstractmethod
    def _send_scalars(self, scalars: dict[str, float], iteration: int) -> None:
        """Send the numbers of an iteration."""

    @abstractmethod
    def _send_picture(self, name: str, picture: np.ndarray, iteration: int) -> None:
        """Send a picture, (H, W, 3) uint8 RGB."""

    @abstractmethod
    def _send_file(self, path: Path) -> None:
        """Send a checkpoint."""

    @abstractmethod
    def _finish(self, is_complete: bool) -> None:
        """End the run."""

    def write(self) -> None:
        """Send what is new in the storage: the numbers that `JSONWriter` writes."""
        storage = get_event_storage()
        new: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, when) in storage.latest_with_smoothing_hint(20).items():
            if when > self._last_write:
                new[when][name] = value
        self._last_write = max([self._last_write, *new])
        for when, scalars in sorted(new.items()):
            self._waiting.append((partial(self._send_scalars, scalars, when), _TRIES))
        # TensorBoard's writer, which comes later, clears the pictures. They need memory.
        pictures = [] if time.monotonic() < self._next_try else storage._vis_data
        self._lost += len(storage._vis_data) - len(pictures)
        for name, image, when in pictures:
            picture = np.asarray(image).transpose(1, 2, 0)
            if picture.dtype != np.uint8:
                picture = (255 * picture).astype(np.uint8)
            self._waiting.append((partial(self._send_picture, name, picture, when), 1))
        self._send()

    def close(self) -> None:
        """Send the checkpoints of a complete training, end the run, and say what failed."""
        complete = self._is_complete()
        for path in (self._folder / name for name in (_FINAL, _BEST)):
            if complete and self._is_of_this_run(path):
                self._waiting.append((partial(self._send_file, path), 1))
        self._next_try = 0.0
        self._send()
        if self._run is not None:
            self._try(partial(self._finish, complete))
        self._lost += len(self._waiting)
        if self._failures:
            logger.warning(
                f"{self.library}: {self._failures} failures in this training; {self._lost} records "
                f"were not sent. All numbers are in {self._folder / 'metrics.json'}"
            )

    def _is_complete(self) -> bool:
        tag = self._folder / _TAG
        if not tag.is_file() or tag.read_text() != _FINAL:
            return False
        return self._is_of_this_run(self._folder / _FINAL)

    def _is_of_this_run(self, path: Path) -> bool:
        """Whether it is newer than the beginning of the training."""
        files = (path, self._id_file)
        if not all(file.is_file() for file in files):
            return False
        return path.stat().st_mtime >= self._id_file.stat().st_mtime

    def _send(self) -> None:
        """Send what waits, in order, up to the first failure."""
        if time.monotonic() < self._next_try:
            return
        if self._run is None and not self._try(self._start):
            return
        while self._waiting:
            send, tries = self._waiting.popleft()
            if self._try(send):
                continue
            if tries > 1:
                self._waiting.appendleft((send, tries - 1))
            else:
                self._lost += 1
            return

    def _start(self) -> None:
        known = self._is_resumed() and self._id_file.is_file()
        run_id = self._start_run(self._id_file.read_text().strip() if known else None)
        if not known:
            write_text(self._id_file, run_id)
            since = 0.0 if self._is_resumed() else self._began
            os.utime(self._id_file, (since, since))  # for _is_of_this_run
        for send in reversed(list(self._send_config(not known))):
            self._waiting.appendleft((send, _TRIES))

    def _try(self, send: Send) -> bool:
        try:
            send()
        except Exception as error:  # which ones, depends on the library and its server
            self._failures += 1
            self._next_try = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            if self._failures == 1:
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                logger.warning(
                    f"{self.library} failed ({reason[:400]}). The training goes on; it is tried "
                    "again later, and further failures are counted."
                )
            return False
        self._pause = _FIRST_PAUSE
        return True


class MLflowWriter(RunWriter):
    """A run of MLflow: at ``MLFLOW_TRACKING_URI``, in ``MLFLOW_EXPERIMENT_NAME``."""

    library = "mlflow"
    limits: ClassVar = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    }

    def _start_run(self, run_id: str | None) -> str:
        name = None if run_id else self._folder.name
        self._run = self._module.start_run(run_id=run_id, run_name=name)
        return self._run.info.run_id

    def _send_config(self, is_new: bool) -> Iterable[Send]:
        yield partial(self._module.log_text, self._cfg.dump(), "config.yaml")
        if is_new:  # later MLflow allows no other values
            yield partial(self._module.log_params, flat(self._cfg))

    def _send_scalars(self, scalars: dict[str, float], iteration: int) -> None:
        # MLflow refuses some characters of names, such as parentheses.
        allowed = {re.sub(r"[^\w/.\- ]", "_", name): value for name, value in scalars.items()}
        self._module.log_metrics(allowed, step=iteration)

    def _send_picture(self, name: str, picture: np.ndarray, iteration: int) -> None:
        self._module.log_image(picture, key=name, step=iteration)

    def _send_file(self, path: Path) -> None:
        self._module.log_artifact(str(path))

    def _finish(self, is_complete: bool) -> None:
        self._module.end_run("FINISHED" if is_complete else "KILLED")


class WandbWriter(RunWriter):
    """A run of Weights & Biases: in ``WANDB_PROJECT``; ``WANDB_MODE=offline`` needs no network."""

    library = "wandb"
    limits: ClassVar = {
        "WANDB_INIT_TIMEOUT": "20",
        "WANDB_LOGIN_TIMEOUT": "20",
        "WANDB_FINISH_TIMEOUT": "300",
    }

    def _start_run(self, run_id: str | None) -> str:
        self._run = self._module.init(
            dir=str(self._folder),
            id=run_id,
            resume="allow" if run_id else None,
            name=self._folder.name,
            config=yaml.safe_load(self._cfg.dump()),
        )
        # A resumed training may repeat iterations; W&B's own step only grows.
        self._run.define_metric("*", step_metric="iteration")
        return self._run.id

    def _send_config(self, is_new: bool) -> Iterable[Send]:
        return ()  # it is sent at the start

    def _send_scalars(self, scalars: dict[str, float], iteration: int) -> None:
        self._run.log({**scalars, "iteration": iteration})

    def _send_picture(self, name: str, picture: np.ndarray, iteration: int) -> None:
        self._run.log({name: self._module.Image(picture), "iteration": iteration})

    def _send_file(self, path: Path) -> None:
        artifact = self._module.Artifact(f"{self._run.id}-{path.stem}", type="model")
        artifact.add_file(str(path), policy="immutable")  # not copied
        self._run.log_artifact(artifact)

    def _finish(self, is_complete: bool) -> None:
        self._run.finish(exit_code=0 if is_complete else 1)


WRITERS: dict[str, type[RunWriter]] = {w.library: w for w in (WandbWriter, MLflowWriter)}


def check_loggers(cfg: CfgNode) -> None:
    """Raises ValueError for a name in ``LOGGERS`` that there is not, or is not installed."""
    for name in cfg.LOGGERS:
        if name not in WRITERS:
            raise ValueError(f"LOGGERS: found {name!r}, expected some of {sorted(WRITERS)}")
        WRITERS[name].imported()


def build_loggers(cfg: CfgNode, is_resumed: Callable[[], bool]) -> list[EventWriter]:
    """The writers of ``LOGGERS``; arguments as of `RunWriter`, errors as of `check_loggers`."""
    check_loggers(cfg)
    return [WRITERS[name](cfg, is_resumed) for name in cfg.LOGGERS]
