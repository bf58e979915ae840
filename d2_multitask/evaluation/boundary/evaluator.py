"""Boundary and occlusion metrics: F-measures over all images, directions at matched pixels."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm

from d2_multitask.data.labels.edges import BoundaryLabel, OcclusionLabel
from d2_multitask.evaluation.base import LabelEvaluator
from d2_multitask.evaluation.boundary.precision_recall import (
    EdgeCounts,
    EdgeJob,
    PixelCounts,
    count_edges,
    even_thresholds,
    occlusion_metrics,
    percent,
    summarize,
)
from d2_multitask.evaluation.worker_pool import BackgroundJobs

BOUNDARY, OCCLUSION = "boundary", "occlusion"
CURVES_FILE = "boundary_curves.json"

Labels = dict[str, np.ndarray]


class EdgeEvaluator(LabelEvaluator):
    """Counts boundary and occlusion pixels in worker processes; see `count_edges`.

    Both tasks use the predicted boundary map: it says where an occlusion boundary is, the occlusion
    field which side is in front. Without a boundary map, occlusion has
    ``orientation-accuracy-at-labels`` only.

    Attributes:
        curves: of the last evaluation, in the first process: as in ``boundary_curves.json``.
    """

    output_name = BOUNDARY
    task = BOUNDARY

    @property
    def tasks(self) -> tuple[str, ...]:
        """What is measured: boundary, occlusion or both."""
        return self._tasks

    def __init__(
        self,
        dataset_name: str,
        records: Sequence[dict[str, Any]],
        *,
        tasks: Sequence[str] = (BOUNDARY, OCCLUSION),
        num_thresholds: int = 33,
        max_distance: float = 0.0075,
        num_workers: int = -1,
        output_dir: str | None = None,
        distributed: bool = True,
    ) -> None:
        """
        Args:
            dataset_name: registered name, for messages.
            records: the dataset's dicts.
            tasks: ``"boundary"``, ``"occlusion"`` or both, as the model predicts them.
            num_thresholds: T; BSDS has 99, and 33 is close to it in a third of the time.
            max_distance: of matched pixels, as a share of the image's diagonal.
            num_workers: processes that count; 0 = this one, below 0 = as many as processors.
            output_dir: folder for ``boundary_curves.json``, ``None`` to write none.
            distributed: gather the counts of all processes.

        Raises:
            ValueError: an unknown task, or a number out of range.
        """
        if not tasks or not {BOUNDARY, OCCLUSION}.issuperset(tasks):
            raise ValueError(f"tasks: found {tasks}, expected some of {(BOUNDARY, OCCLUSION)}")
        if not 0 <= max_distance < 1:
            raise ValueError(f"max_distance: found {max_distance}, expected 0 to 1 diagonals")
        self._tasks = tuple(tasks)
        self._thresholds = even_thresholds(num_thresholds)
        self._max_distance = max_distance
        self._output_dir = output_dir
        self._jobs = BackgroundJobs(count_edges, num_workers)
        super().__init__(dataset_name, records, distributed=distributed)

    def metric_names(self) -> list[str]:
        """What `evaluate` will give, as ``TEST.BEST_METRIC`` can name it."""
        names = []
        if BOUNDARY in self._tasks:
            names += [f"{BOUNDARY}/{name}" for name in summarize(PixelCounts(*_stack([], 3, 1)))]
        if OCCLUSION in self._tasks:
            names.append(f"{OCCLUSION}/orientation-accuracy-at-labels")
        if len(self._tasks) == 2:
            names += [f"{OCCLUSION}/{name}" for name in occlusion_metrics(_stack([], 5, 1))]
        return names

    def reset(self) -> None:
        """Forget the counts of an earlier round."""
        super().reset()
        self._jobs.results()
        self.curves: dict[str, Any] = {}

    def labels(self, record: dict[str, Any]) -> Labels | None:
        """What the image has of both labels."""
        maps = {}
        # The boundary label also says where occlusion is not labelled.
        if (boundary := BoundaryLabel().read(record)) is not None:
            maps[BOUNDARY] = boundary
        if OCCLUSION in self._tasks and (occlusion := OcclusionLabel().read(record)) is not None:
            maps[OCCLUSION] = occlusion
        return maps if set(maps) & set(self._tasks) else None

    def add(self, record: dict[str, Any], labels: Labels, output: dict[str, Any]) -> None:
        """Start counting one image: probability (H, W), field (2, H, W)."""
        shape = next(iter(labels.values())).shape[-2:]
        probability = field = None
        if BOUNDARY in self._tasks:
            probability = self._array(self.prediction(record, output, shape))
        if OCCLUSION in self._tasks:
            field = self.prediction(record, output, (2, *shape), OCCLUSION, OCCLUSION)
            field = self._array(field)
        maps = (probability, field, labels.get(BOUNDARY), labels.get(OCCLUSION))
        self._jobs.submit(EdgeJob(self._thresholds, self._max_distance, *maps))

    def _array(self, tensor: torch.Tensor) -> np.ndarray:
        """On the CPU in single precision; NaN and infinity are counted and become 0."""
        tensor = tensor.float()
        if not bool(tensor.sum().isfinite()):
            self._num_not_finite += 1
            tensor = tensor.nan_to_num(0.0, 0.0, 0.0)
        return tensor.cpu().numpy()

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Score what was processed, in 0-100; ``None`` in all processes but the first.

        Returns:
            ``boundary``: see `summarize`; ``occlusion``: see `occlusion_metrics`.
        """
        counts: list[EdgeCounts] | None = self.gather(self._jobs.results())
        if counts is None:
            return None
        results, curves = {}, {"thresholds": self._thresholds.tolist()}
        if BOUNDARY in self._tasks:
            stacked = _stack([c.boundary for c in counts], 3, len(self._thresholds))
            total = PixelCounts(*stacked)
            results[BOUNDARY] = summarize(total)
            curves[BOUNDARY] = _curve(total.over_images())
        if OCCLUSION in self._tasks:
            directions = _stack([c.directions for c in counts], 2)
            results[OCCLUSION] = {"orientation-accuracy-at-labels": percent(*directions.sum(1))}
            if BOUNDARY in self._tasks:
                stacked = _stack([c.occlusion for c in counts], 5, len(self._thresholds))
                results[OCCLUSION] = {**occlusion_metrics(stacked), **results[OCCLUSION]}
                curves[OCCLUSION] = _occlusion_curve(stacked)
        self.curves = curves
        if self._output_dir and comm.is_main_process():
            os.makedirs(self._output_dir, exist_ok=True)
            with open(os.path.join(self._output_dir, CURVES_FILE), "w", encoding="utf-8") as file:
                json.dump(curves, file)
        return results


def _stack(counts: list[np.ndarray | None], *shape: int) -> np.ndarray:
    """Counts of the images that have some, (k, N, T) or (k, N)."""
    known = [count for count in counts if count is not None]
    if not known:
        return np.zeros((shape[0], 0, *shape[1:]), dtype=np.int64)
    return np.stack(known, axis=1)


def _curve(total: PixelCounts) -> dict[str, list[float]]:
    return {"precision": total.precision.tolist(), "recall": total.recall.tolist()}


def _occlusion_curve(counts: np.ndarray) -> dict[str, list[float]]:
    right, matched, labelled, _, known = counts
    accuracy = right.sum(axis=0) / np.maximum(matched.sum(axis=0), 1)
    return {
        **_curve(PixelCounts(right, labelled, known).over_images()),
        "accuracy": accuracy.tolist(),
        "matched_recall": PixelCounts(matched, labelled, known).over_images().recall.tolist(),
    }
