"""Boxes, masks and keypoints in a report, by hotcoco from the predictions of an evaluator."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, BoxMode, pairwise_iou

from d2_multitask.evaluation.coco.backends import HotcocoBackend
from d2_multitask.evaluation.coco.evaluator import MultitaskCOCOEvaluator
from d2_multitask.reports.charts import line_chart
from d2_multitask.reports.page import Section, Table, shown
from d2_multitask.runtime.model_info import DrawInfo

NAMES = {"bbox": "Boxes", "segm": "Instance masks", "keypoints": "Keypoints"}
# What a user of the network would see: objects that score less are not drawn either.
CONFIDENCE = DrawInfo.confidence_threshold
# Tables of confusion and curves of more classes could not be read.
MAX_CLASSES = 20
MAX_CURVES = 6
MAX_PAIRS = 20
TIDE = {
    "Cls": "class wrong",
    "Loc": "place wrong",
    "Both": "class and place wrong",
    "Dupe": "found twice",
    "Bkg": "nothing is there",
    "Miss": "not found",
}
LABEL_ERRORS = {"wrong_label": "other class", "missing_annotation": "no label"}
# Objects in an image, and largest IoU of two boxes in it: from, up to (exclusive).
COUNTS = ((1, 2), (2, 4), (4, 8), (8, 16), (16, math.inf))
OVERLAPS = ((0.0, 0.01), (0.01, 0.2), (0.2, 0.5), (0.5, math.inf))


class ObjectAnalysis:
    """The predictions of one evaluator, compared with its labels.

    Args:
        evaluator: evaluated.

    Attributes:
        backend: with the labels.
        names: of the categories, in the order of the backend's numbers.
        image_ids: number of an image in the backend -> its id.
        confident: the predictions that are drawn.

    Raises:
        ImportError: hotcoco is not installed.
    """

    def __init__(self, evaluator: MultitaskCOCOEvaluator) -> None:
        self.evaluator = evaluator
        self.backend = HotcocoBackend(evaluator.ground_truth)
        names = {c["id"]: c["name"] for c in evaluator.ground_truth["categories"]}
        self.names = [names[i] for i in self.backend.category_numbers]
        self.image_ids = {number: i for i, number in self.backend.image_numbers.items()}
        # What is drawn; it is compared with the labels for several tables.
        self.confident = [found for found in evaluator.found if found["score"] >= CONFIDENCE]
        self._known: dict[tuple[str, bool], Any] = {}

    def evaluated(
        self,
        metric: str,
        predictions: Sequence[Mapping[str, Any]] | None = None,
        thresholds: Sequence[float] = (),
    ) -> Any:
        """hotcoco's object for all predictions, or for others."""
        return self.backend.evaluated(
            self.evaluator.found if predictions is None else predictions,
            metric,
            max_dets=self.evaluator.max_dets,
            oks_sigmas=self.evaluator.oks_sigmas,
            thresholds=thresholds,
        )

    def once(self, metric: str, *, confident: bool = False) -> Any:
        """`evaluated` of all predictions, or of those that are drawn, computed once."""
        key = metric, confident
        if key not in self._known:
            self._known[key] = self.evaluated(metric, self.confident if confident else None)
        return self._known[key]

    def section(self, metric: str) -> Section:
        """All tables and curves of ``"bbox"``, ``"segm"`` or ``"keypoints"``."""
        evaluation = self.once(metric)
        overlap = "OKS" if metric == "keypoints" else "IoU"
        section = Section(
            NAMES[metric],
            "AP and AR are COCO's, in 0-100. Confusion, errors and calibration count a prediction "
            f"as right from {overlap} 0.5 on. Pictures: labels on the left, predictions that score "
            f"at least {CONFIDENCE} on the right.",
        )
        section.tables.append(self._per_class(evaluation, metric))
        section.charts += self._curves(evaluation, overlap)
        if metric == "bbox":
            section.tables.append(self._confusion())
        section.tables += [_tide(evaluation), *self._slices(evaluation)]
        calibration = evaluation.calibration()
        section.tables.append(_calibration_table(calibration))
        bins = [b for b in calibration["bins"] if b["count"]]
        curve = [b["avg_confidence"] for b in bins], [b["avg_accuracy"] for b in bins]
        chart = line_chart({"predictions": curve}, "score", "share that is right", diagonal=True)
        section.charts.append(("Calibration: on the dashed line scores are probabilities", chart))
        if metric == "bbox" and (table := self._label_errors(evaluation)).rows:
            section.tables.append(table)
        return section

    def _per_class(self, evaluation: Any, metric: str) -> Table:
        """AP and AR of each class, and how many there are of it."""
        precision = evaluation.eval["precision"][..., -1]  # (T, R, K, areas), all of an image
        recall = evaluation.eval["recall"][..., -1]  # (T, K, areas)
        labels, found = (
            Counter(entry["category_id"] for entry in entries)
            for entries in (
                [a for a in self.evaluator.ground_truth["annotations"] if not a["iscrowd"]],
                self.evaluator.found,
            )
        )
        areas = {"small": 1, "medium": 2, "large": 3}
        if metric == "keypoints":  # has no small ones
            areas = {"medium": 1, "large": 2}
        rows = []
        for k, category_id in enumerate(self.backend.category_numbers):
            values = [precision[..., k, 0], precision[0, :, k, 0], precision[5, :, k, 0]]
            values += [precision[..., k, area] for area in areas.values()]
            values.append(recall[:, k, 0])
            counts = labels[category_id], found[category_id]
            rows.append([self.names[k], *map(_mean, values), *counts])
        headers = ["class", "AP", "AP50", "AP75", *(f"AP {name}" for name in areas)]
        return Table("Each class", [*headers, "AR", "objects", "predictions"], rows)

    def _curves(self, evaluation: Any, overlap: str) -> list[tuple[str, str]]:
        """Precision by recall: at several thresholds, and of each class."""
        precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (T, R, K)
        precision = np.where(precision < 0, np.nan, precision)
        recall = np.linspace(0, 1, precision.shape[1])
        occurs = ~np.isnan(precision[0, 0])
        if not occurs.any():
            return []
        mean = precision[:, :, occurs].mean(2)
        thresholds = {f"{overlap} {0.5 + t / 20:.2f}": (recall, mean[t]) for t in (0, 2, 5, 7, 9)}
        charts = [("Precision and recall", line_chart(thresholds, "recall", "precision"))]
        if 1 < occurs.sum():
            worst = np.flatnonzero(occurs)
            worst = worst[np.argsort(precision[0][:, worst].mean(0), kind="stable")][:MAX_CURVES]
            curves = {self.names[k]: (recall, precision[0, :, k]) for k in worst}
            caption = f"Classes with the lowest AP50, at {overlap} 0.50"
            charts.append((caption, line_chart(curves, "recall", "precision")))
        return charts

    def _confusion(self) -> Table:
        """Labelled class by predicted class, of the predictions that are drawn."""
        evaluation = self.once("bbox", confident=True)
        counts = evaluation.confusion_matrix(iou_thr=0.5)["matrix"].astype(int)
        return confusion_table(
            counts,
            [*self.names, "nothing"],
            f"Labelled (rows) and predicted (columns) class of boxes, scores from {CONFIDENCE}",
        )

    def _label_errors(self, evaluation: Any) -> Table:
        """Confident predictions that speak against a label, as hotcoco finds them."""
        errors = evaluation.image_diagnostics(score_thr=0.5)["label_errors"][:MAX_PAIRS]
        caption = "Labels that may be wrong, by predictions that score at least 0.5"
        rows = [
            [
                str(self.image_ids[error["image_id"]]),
                LABEL_ERRORS[error["type"]],
                self._name(error["gt_category_id"]),
                self._name(error["dt_category_id"]),
                100 * float(error["dt_score"]),
            ]
            for error in errors
        ]
        return Table(caption, ["image id", "kind", "labelled", "predicted", "score"], rows)

    def _slices(self, evaluation: Any) -> list[Table]:
        """AP by the number of objects in an image, and by how much they overlap."""
        boxes: dict[int, list[list[float]]] = {}
        for annotation in self.evaluator.ground_truth["annotations"]:
            if annotation["iscrowd"]:
                continue
            number = self.backend.image_numbers[annotation["image_id"]]
            boxes.setdefault(number, []).append(annotation["bbox"])
        counts = {number: len(of_image) for number, of_image in boxes.items()}
        overlaps = {number: _largest_overlap(of_image) for number, of_image in boxes.items()}
        return [
            _slice_table(evaluation, "Objects in the image", counts, COUNTS),
            _slice_table(evaluation, "Largest IoU of two labelled boxes in it", overlaps, OVERLAPS),
        ]

    def _name(self, number: int | None) -> str:
        """Of hotcoco's category."""
        return "" if number is None else self.names[number - 1]

    def worst_images(self, metric: str) -> list[tuple[float, Any, str]]:
        """(F1, image id, what is wrong) of images with errors, lowest F1 first."""
        evaluation = self.once(metric, confident=True)
        images = evaluation.image_diagnostics(iou_thr=0.5)["img_summary"]
        wrong = sorted(
            (100 * x["f1"], -x["fp"] - x["fn"], number)
            for number, x in images.items()
            if x["fp"] + x["fn"]
        )
        return [
            (
                f1,
                self.image_ids[number],
                "F1 {:.0f}: {tp} found, {fn} missed, {fp} wrong".format(f1, **images[number]),
            )
            for f1, _, number in wrong
        ]


def average_precision(evaluation: Any) -> float:
    """COCO's AP in 0-100, of hotcoco's object."""
    return _mean(evaluation.eval["precision"][..., 0, -1])


def confusion_table(counts: np.ndarray, names: Sequence[str], caption: str) -> Table:
    """A confusion matrix, or of many classes its largest errors.

    Args:
        counts: (K, K) int, rows are labels.
        names: K.
        caption: of the table.
    """
    if len(names) <= MAX_CLASSES + 1:
        rows = [[name, *map(int, row)] for name, row in zip(names, counts, strict=True)]
        return Table(caption, ["", *names], rows, shaded=True)
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    largest = np.argsort(-wrong, axis=None, kind="stable")[:MAX_PAIRS]
    pairs = np.stack(np.unravel_index(largest, wrong.shape), 1)
    rows = [[names[a], names[b], int(wrong[a, b])] for a, b in pairs if wrong[a, b]]
    return Table(f"{caption}: the most frequent errors", ["labelled", "predicted", "count"], rows)


def _mean(values: np.ndarray) -> float:
    """COCO's mean in 0-100; NaN where nothing is labelled."""
    known = values[values > -1]
    return 100 * float(known.mean()) if known.size else math.nan


def _tide(evaluation: Any) -> Table:
    """TIDE's error kinds: Bolya et al., ECCV 2020 (arXiv 2008.08115)."""
    errors = evaluation.tide_errors()
    rows = [
        [text, int(errors["counts"][kind]), 100 * float(errors["delta_ap"][kind])]
        for kind, text in TIDE.items()
    ]
    rows.append(["all wrong predictions", "", 100 * float(errors["delta_ap"]["FP"])])
    rows.append(["all missed objects", "", 100 * float(errors["delta_ap"]["FN"])])
    caption = f"Kinds of errors (TIDE); AP50 is {shown(100 * errors['ap_base'])}"
    return Table(caption, ["kind", "count", "AP50 gained without it"], rows)


def _calibration_table(calibration: Mapping[str, Any]) -> Table:
    rows = [
        [
            f"{b['bin_lower']:.1f} to {b['bin_upper']:.1f}",
            int(b["count"]),
            100 * float(b["avg_confidence"]),
            100 * float(b["avg_accuracy"]),
        ]
        for b in calibration["bins"]
        if b["count"]
    ]
    caption = f"Calibration; expected error {shown(100 * calibration['ece'])}"
    return Table(caption, ["score", "predictions", "mean score", "right"], rows)


def _largest_overlap(boxes: Sequence[Sequence[float]]) -> float:
    """Largest IoU of two of the boxes (n, 4) x, y, w, h; 0 for one."""
    corners = Boxes(BoxMode.convert(torch.tensor(boxes), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS))
    return float(pairwise_iou(corners, corners).triu(1).max())


def _slice_table(
    evaluation: Any,
    caption: str,
    values: Mapping[int, float],
    ranges: Sequence[tuple[float, float]],
) -> Table:
    slices = {
        _range_name(low, high): sorted(n for n, value in values.items() if low <= value < high)
        for low, high in ranges
    }
    slices = {name: numbers for name, numbers in slices.items() if numbers}
    scores = evaluation.slice_by(slices) if slices else {}
    rows = [
        [name, len(n), *(100 * float(scores[name][m]) for m in ("AP", "AP50", "AP75"))]
        for name, n in slices.items()
    ]
    return Table(f"AP by: {caption}", ["", "images", "AP", "AP50", "AP75"], rows)


def _range_name(low: float, high: float) -> str:
    if math.isinf(high):
        return f"{low} and more"
    if isinstance(high, int):
        return str(low) if high == low + 1 else f"{low} to {high - 1}"
    return f"below {high}" if low == 0 else f"{low} to {high}"
