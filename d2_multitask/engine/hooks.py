"""Hooks of the training loop: progress in time, pictures, and the report of data problems."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from detectron2.engine import HookBase
from detectron2.utils.events import EventWriter
from torch import nn

from d2_multitask.data.problems import DATA_REPORT, ProblemReport

logger = logging.getLogger(__name__)

Batch = list[dict[str, Any]]
# (model, batch) -> {name: RGB picture (H, W, 3) uint8}; must leave the model as it was
DrawPictures = Callable[[nn.Module, Batch], dict[str, np.ndarray]]


class TimedProgress(HookBase):
    """Writes a progress line whenever none was written for some seconds.

    Detectron2 writes one every so many iterations: minutes apart, where a step takes seconds.
    """

    def __init__(self, printer: EventWriter, period: int, seconds: float = 10.0) -> None:
        """
        Args:
            printer: writes the line.
            period: iterations between the lines that Detectron2 writes already.
            seconds: the longest silence.
        """
        self._printer = printer
        self._period = period
        self._seconds = seconds
        self._last = 0.0

    def before_train(self) -> None:
        """Start the clock."""
        self._last = time.monotonic()

    def after_step(self) -> None:
        """Write a line if it is time for one."""
        next_iter = self.trainer.iter + 1
        written_anyway = next_iter % self._period == 0 or next_iter == self.trainer.max_iter
        now = time.monotonic()
        if not written_anyway and now - self._last < self._seconds:
            return
        self._last = now
        if not written_anyway:
            self._printer.write()


class PicturesHook(HookBase):
    """Puts pictures of the last batch's targets and predictions into TensorBoard.

    A picture that cannot be drawn is a warning: it must not end a training.
    """

    def __init__(self, period: int, draw: DrawPictures) -> None:
        """
        Args:
            period: ``VIS_PERIOD``, iterations between two pictures.
            draw: makes the pictures of a batch.
        """
        self._period = period
        self._draw = draw

    def after_step(self) -> None:
        """Draw, if it is time to."""
        if (self.trainer.iter + 1) % self._period:
            return
        try:
            pictures = self._draw(self.trainer.model, self.trainer.last_batch)
        except Exception:
            logger.exception("Pictures for TensorBoard cannot be drawn:")
            return
        for name, picture in pictures.items():
            chw = np.ascontiguousarray(picture.transpose(2, 0, 1))
            self.trainer.storage.put_image(name, chw)


class DataReportHook(HookBase):
    """Says at the end of training, and after a failure too, what was wrong with the data."""

    def __init__(self, report: ProblemReport = DATA_REPORT) -> None:
        self._report = report

    def after_train(self) -> None:
        """Log the counts."""
        self._report.log_totals()
