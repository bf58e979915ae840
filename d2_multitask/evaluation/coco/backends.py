"""Backends of COCO's metric: pycocotools, or hotcoco (Rust), faster and with the same numbers.

A backend turns ground truth and predictions in COCO's format into pycocotools' `COCOeval` with
``eval`` (precision and recall arrays) and ``stats`` filled in. hotcoco computes only the arrays;
the summary (AP50, area ranges, the printed table) is pycocotools' own code in both cases.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import types
from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any

from detectron2.evaluation.coco_evaluation import (
    COCOeval_opt,
    COCOevalMaxDets,
    _evaluate_predictions_on_coco,
)
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from d2_multitask.evaluation.coco.labels import CocoDict, mask_ground_truth

logger = logging.getLogger(__name__)

AUTO = "auto"
INSTALL_COMMAND = 'python -m pip install "d2_multitask[fast-eval]"'
# The oldest hotcoco that the tests have compared with pycocotools.
MIN_HOTCOCO = (1, 3)


class CocoBackend(ABC):
    """Scores predictions against the labels that it was made with.

    Images and categories get the ids 1 to N, because the libraries sort ids as numbers of one type.
    The new ids are in the order of the old ones, numbers before text: the order decides between
    equal scores.

    Args:
        ground_truth: labels in COCO's format (`d2_multitask.evaluation.coco.labels`).
    """

    def __init__(self, ground_truth: CocoDict) -> None:
        self._images = _numbered(image["id"] for image in ground_truth["images"])
        self._categories = _numbered(category["id"] for category in ground_truth["categories"])
        self._ground_truth = {
            **ground_truth,
            "images": [{**i, "id": self._images[i["id"]]} for i in ground_truth["images"]],
            "categories": [
                {**c, "id": self._categories[c["id"]]} for c in ground_truth["categories"]
            ],
            "annotations": self._renumbered(ground_truth["annotations"]),
        }

    @abstractmethod
    def evaluate(
        self,
        predictions: Sequence[Mapping[str, Any]],
        metric: str,
        *,
        max_dets: int = 100,
        oks_sigmas: Sequence[float] = (),
        img_ids: Collection[Hashable] | None = None,
    ) -> COCOeval:
        """COCO's metric of one kind.

        Args:
            predictions: COCO's results: ``image_id``, ``category_id``, ``score`` and, by the
                metric, ``bbox`` (x, y, w, h), ``keypoints`` or ``segmentation`` (RLE); pixels. They
                may be empty, and they are not changed.
            metric: ``"bbox"``, ``"keypoints"`` or ``"segm"``.
            max_dets: boxes or masks counted per image, best first. Keypoint AP always counts 20.
            oks_sigmas: one sigma per keypoint, empty for COCO's 17.
            img_ids: images that count, all by default.

        Returns:
            pycocotools' object, evaluated, accumulated and summarised.
        """

    @property
    def image_numbers(self) -> dict[Any, int]:
        """Image id -> its number, 1 to N, in the order of the numbers."""
        return self._images

    @property
    def category_numbers(self) -> dict[Any, int]:
        """Category id -> its number, 1 to N, in the order of the numbers."""
        return self._categories

    def _image_numbers(self, img_ids: Collection[Hashable] | None) -> list[int] | None:
        # To hotcoco no ids are all ids; 0 is the number of no image.
        if img_ids is None:
            return None
        return sorted({self._images[i] for i in img_ids if i in self._images}) or [0]

    def _renumbered(
        self, entries: Sequence[Mapping[str, Any]], fields: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Copies of labels or predictions, or of some of their fields, with the new ids."""
        images, categories = self._images, self._categories
        return [
            {
                **(entry if fields is None else {field: entry[field] for field in fields}),
                "image_id": images[entry["image_id"]],
                "category_id": categories[entry["category_id"]],
            }
            for entry in entries
        ]


class PycocotoolsBackend(CocoBackend):
    """pycocotools, or Detectron2's compiled version of it where that is built."""

    def __init__(self, ground_truth: CocoDict) -> None:
        super().__init__(ground_truth)
        self._labels = as_coco(self._ground_truth)

    def evaluate(
        self,
        predictions: Sequence[Mapping[str, Any]],
        metric: str,
        *,
        max_dets: int = 100,
        oks_sigmas: Sequence[float] = (),
        img_ids: Collection[Hashable] | None = None,
    ) -> COCOeval:
        """See `CocoBackend.evaluate`."""
        image_numbers = self._image_numbers(img_ids)
        labels = self._labels
        if metric == "segm":
            labels = as_coco(mask_ground_truth(self._ground_truth))
        if not predictions or not labels.anns:
            return _evaluate_nothing(labels, metric, image_numbers)
        return _evaluate_predictions_on_coco(
            labels,
            self._renumbered(predictions),
            metric,
            kpt_oks_sigmas=list(oks_sigmas),
            cocoeval_fn=COCOeval_opt,
            img_ids=image_numbers,
            max_dets_per_image=[1, 10, max_dets],
        )


class HotcocoBackend(CocoBackend):
    """hotcoco.

    Raises:
        ImportError: hotcoco is not installed, or too old.
    """

    def __init__(self, ground_truth: CocoDict) -> None:
        self._hotcoco = _import_hotcoco()
        super().__init__(ground_truth)
        annotations = self._ground_truth["annotations"]
        self._labels = self._load_labels(annotations, ("keypoints", "num_keypoints"))

    def evaluate(
        self,
        predictions: Sequence[Mapping[str, Any]],
        metric: str,
        *,
        max_dets: int = 100,
        oks_sigmas: Sequence[float] = (),
        img_ids: Collection[Hashable] | None = None,
    ) -> COCOeval:
        """See `CocoBackend.evaluate`."""
        evaluation = self.evaluated(
            predictions, metric, max_dets=max_dets, oks_sigmas=oks_sigmas, img_ids=img_ids
        )
        summary = COCOevalMaxDets(iouType=metric)
        if metric != "keypoints":
            summary.params.maxDets = evaluation.params.max_dets
        summary.eval = {name: evaluation.eval[name] for name in ("precision", "recall", "scores")}
        summary.summarize()
        return summary

    def evaluated(
        self,
        predictions: Sequence[Mapping[str, Any]],
        metric: str,
        *,
        max_dets: int = 100,
        oks_sigmas: Sequence[float] = (),
        img_ids: Collection[Hashable] | None = None,
        thresholds: Sequence[float] = (),
    ) -> Any:
        """hotcoco's `COCOeval`, evaluated and accumulated, with images and categories 1 to N.

        ``thresholds``: of IoU or OKS, empty for COCO's. The others are `CocoBackend.evaluate`'s.
        """
        image_numbers = self._image_numbers(img_ids)
        labels = self._labels
        if metric == "segm":
            annotations = mask_ground_truth(self._ground_truth)["annotations"]
            labels = self._load_labels(annotations, ("segmentation",))
        # Without boxes, the area of a predicted mask is its own, as in Detectron2.
        fields = {"bbox": ("bbox",), "segm": ("segmentation",)}.get(metric, ("bbox", metric))
        found = labels.load_res(self._renumbered(predictions, ("score", *fields)))
        evaluation = self._hotcoco.COCOeval(labels, found, metric)
        if metric != "keypoints":
            evaluation.params.max_dets = sorted([1, 10, max_dets])
        elif oks_sigmas:
            evaluation.params.kpt_oks_sigmas = [float(sigma) for sigma in oks_sigmas]
        if image_numbers is not None:
            evaluation.params.img_ids = image_numbers
        if thresholds:
            evaluation.params.iou_thrs = list(thresholds)
        evaluation.evaluate()
        evaluation.accumulate()
        return evaluation

    def _load_labels(self, annotations: Sequence[CocoDict], fields: Sequence[str]) -> Any:
        """hotcoco's object for labels, with the box and ``fields`` of every object."""
        columns = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", *fields)
        images = [
            {field: image[field] for field in ("id", "height", "width")}
            for image in self._ground_truth["images"]
        ]
        categories = [{"id": n, "name": str(n)} for n in self._categories.values()]
        objects = [{field: entry[field] for field in columns} for entry in annotations]
        return self._hotcoco.COCO(
            {"images": images, "categories": categories, "annotations": objects}
        )


BACKENDS: dict[str, type[CocoBackend]] = {
    "pycocotools": PycocotoolsBackend,
    "hotcoco": HotcocoBackend,
}


def choose_backend(name: str = AUTO) -> str:
    """The backend that ``TEST.COCO_BACKEND`` means on this machine.

    Args:
        name: ``"pycocotools"``, ``"hotcoco"`` or ``"auto"``: hotcoco where it is installed, else
            pycocotools.

    Returns:
        A name from `BACKENDS`.

    Raises:
        ValueError: there is no such backend.
        ImportError: hotcoco was asked for and is not installed, or too old.
    """
    choices = [AUTO, *BACKENDS]
    if name not in choices:
        raise ValueError(f"TEST.COCO_BACKEND: found {name!r}, expected one of {choices}")
    if name != "pycocotools":
        try:
            _import_hotcoco()
        except ImportError as error:
            if name != AUTO:
                raise
            logger.info(f"COCO's metric is computed by pycocotools. {error}")
            return "pycocotools"
        name = "hotcoco"
    logger.info(f"COCO's metric is computed by {name}.")
    return name


def as_coco(ground_truth: CocoDict) -> COCO:
    """pycocotools' object for a dict in COCO's format; it holds the dict itself, no copy."""
    with contextlib.redirect_stdout(io.StringIO()):
        labels = COCO()
        labels.dataset = ground_truth
        labels.createIndex()
    return labels


def _import_hotcoco() -> types.ModuleType:
    if importlib.util.find_spec("hotcoco") is None:
        raise ImportError(f"The faster hotcoco is not installed: {INSTALL_COMMAND}")
    import hotcoco

    found = tuple(int(part) for part in hotcoco.__version__.split(".")[:2])
    if found < MIN_HOTCOCO:
        expected = ".".join(map(str, MIN_HOTCOCO))
        raise ImportError(
            f"hotcoco: found version {hotcoco.__version__}, expected {expected} or newer: "
            f"{INSTALL_COMMAND}"
        )
    return hotcoco


def _numbered(ids: Iterable[Any]) -> dict[Any, int]:
    ordered = sorted(set(ids), key=lambda value: (isinstance(value, str), value))
    return {value: number for number, value in enumerate(ordered, start=1)}


def _evaluate_nothing(labels: COCO, metric: str, image_numbers: list[int] | None) -> COCOeval:
    """For no predictions or no labels, which Detectron2's function does not accept.

    Without labels the result is -1, "not computed".
    """
    predictions = as_coco({**labels.dataset, "annotations": []})
    with contextlib.redirect_stdout(io.StringIO()):
        coco_eval = COCOeval(labels, predictions, metric)
        if image_numbers is not None:
            coco_eval.params.imgIds = image_numbers
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
    return coco_eval
