"""Box, mask and keypoint AP with COCO's own metric, through Detectron2's COCOEvaluator."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from pycocotools.cocoeval import Params
from torch import Tensor

from d2_multitask.data.datasets.catalog import load_dataset
from d2_multitask.data.datasets.label_maps import LABEL_SPACE, LabelSpace
from d2_multitask.evaluation.coco.backends import AUTO, BACKENDS, as_coco, choose_backend
from d2_multitask.evaluation.coco.labels import CocoDict, coco_ground_truth, temporary_dataset
from d2_multitask.evaluation.coco.predictions import (
    coco_results,
    with_category_ids,
    write_instances,
    write_results,
)

logger = logging.getLogger(__name__)

# COCO's sigmas belong to its 17 keypoints; other numbers of keypoints need sigmas of their own.
NUM_COCO_KEYPOINTS = 17
# Metrics that need more than boxes: field of an annotation, and what is missing without it.
_LABEL_FIELDS = {
    "keypoints": ("num_keypoints", "labelled keypoints: no keypoint"),
    "segm": ("segmentation", "masks: no mask"),
}


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    # For code that makes very many small objects without cycles: Python would search them for
    # cycles again and again, for a large part of the evaluation's time.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class MultitaskCOCOEvaluator(COCOEvaluator):
    """Detectron2's COCOEvaluator for labels and predictions that may be partial.

    Differences:

    - the labels are read by the rules of training (`d2_multitask.evaluation.coco.labels`);
    - ``"keypoints"`` and ``"segm"`` are left out if no object of the dataset has such a label;
    - without any prediction AP is 0 where there are objects, with a warning;
    - predictions with a NaN or infinite number are left out and counted;
    - the metric is computed by a backend (`d2_multitask.evaluation.coco.backends`);
    - a dataset with a map of labels is scored in its own classes and keypoints (`label_maps`), with
      the sigmas of these; predictions of other classes are not counted.

    Attributes:
        dataset_name: registered name.
        metrics: the metrics that are computed, a part of those asked for.
        backend: name of the backend.
        found: COCO's results of the last evaluation, in the first process.
    """

    _space: LabelSpace | None = None

    @_without_garbage_collection()
    def __init__(
        self,
        dataset_name: str,
        metrics: Sequence[str] = ("bbox", "keypoints"),
        *,
        output_dir: str | None,
        records: Sequence[dict[str, Any]] | None = None,
        distributed: bool = True,
        max_dets_per_image: int | None = None,
        kpt_oks_sigmas: Sequence[float] = (),
        backend: str = AUTO,
        ground_truth: CocoDict | None = None,
    ) -> None:
        """
        Args:
            dataset_name: registered name.
            metrics: some of ``"bbox"``, ``"keypoints"`` and ``"segm"``.
            output_dir: folder for the predictions, ``None`` to write none.
            records: the dataset's dicts, if they are loaded already.
            distributed: gather predictions from all processes.
            max_dets_per_image: boxes counted per image, best first (COCO: 100). Keypoint AP always
                counts 20.
            kpt_oks_sigmas: one sigma per keypoint of the network, empty for COCO's 17.
            backend: ``"pycocotools"``, ``"hotcoco"`` (the same numbers, faster) or ``"auto"``,
                hotcoco where it is installed.
            ground_truth: the labels, if they are not to be read from the dataset.

        Raises:
            ValueError: the labels cannot be read, there are not as many sigmas as keypoints, or the
                backend is unknown.
            ImportError: the backend is not installed.
        """
        self.backend = choose_backend(backend)
        self.found: list[dict[str, Any]] = []
        self.dataset_name = dataset_name
        self._num_not_finite = 0
        self._prediction_folder = output_dir
        own: dict[str, Any] = {}
        if ground_truth is None:
            records = load_dataset(dataset_name) if records is None else records
            self._space = MetadataCatalog.get(dataset_name).get(LABEL_SPACE)
            if self._space is not None:
                records, own = self._space.own_records(records), self._space.own_metadata()
                if "keypoints" in metrics:
                    kpt_oks_sigmas = own_sigmas(kpt_oks_sigmas, self._space, dataset_name)
            with temporary_dataset(dataset_name, [], **own) as name:
                ground_truth = coco_ground_truth(name, records)
        labelled_metrics = self._labelled_metrics(metrics, ground_truth, kpt_oks_sigmas)
        # COCOEvaluator reads labels from a file. They are here already: it gets an empty file.
        empty = {key: [] for key in ground_truth if key in ("images", "categories", "annotations")}
        with tempfile.TemporaryDirectory() as folder:
            json_file = os.path.join(folder, "ground_truth.json")
            with open(json_file, "w", encoding="utf-8") as file:
                json.dump(empty, file)
            with temporary_dataset(dataset_name, [], **own, json_file=json_file) as name:
                super().__init__(
                    name,
                    labelled_metrics,
                    distributed,
                    output_dir=None,  # the files are written here, see _eval_predictions
                    max_dets_per_image=max_dets_per_image,
                    use_fast_impl=False,  # the backend decides
                    kpt_oks_sigmas=list(kpt_oks_sigmas),
                )
        self._coco_api = as_coco(ground_truth)
        self._backend = BACKENDS[self.backend](ground_truth) if self._do_evaluation else None

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is computed: a part of the metrics asked for."""
        return tuple(self._tasks)

    @property
    def keypoint_names(self) -> list[str]:
        """Of the keypoints that are scored; empty if nobody has named them."""
        return list(self._metadata.get("keypoint_names") or ())

    @property
    def ground_truth(self) -> CocoDict:
        """The labels that predictions are compared with."""
        return self._coco_api.dataset

    @property
    def oks_sigmas(self) -> list[float]:
        """One sigma per keypoint, empty for COCO's 17."""
        return list(self._kpt_oks_sigmas)

    @property
    def max_dets(self) -> int:
        """Boxes counted per image."""
        return self._max_dets_per_image[-1]

    def metric_names(self) -> list[str]:
        """What `evaluate` will give, as ``TEST.BEST_METRIC`` can name it."""
        classes = list(self._metadata.get("thing_classes") or ())
        per_class = [f"AP-{name}" for name in classes] if len(classes) > 1 else []
        names = ["AP", "AP50", "AP75", "APs", "APm", "APl", *per_class]
        metrics = self.metrics if self._do_evaluation else ()
        return [f"{m}/{n}" for m in metrics for n in names if (m, n) != ("keypoints", "APs")]

    def _labelled_metrics(
        self, metrics: Sequence[str], ground_truth: CocoDict, sigmas: Sequence[float]
    ) -> list[str]:
        """The metrics asked for, without those whose labels no object has."""
        if "annotations" not in ground_truth:
            return list(metrics)
        labelled = []
        for metric in metrics:
            if metric in _LABEL_FIELDS:
                field, what = _LABEL_FIELDS[metric]
                first = next((a for a in ground_truth["annotations"] if a.get(field)), None)
                if first is None:
                    logger.info(f"Dataset {self.dataset_name!r} has no {what} AP for it.")
                    continue
                if metric == "keypoints":
                    check_oks_sigmas(sigmas, len(first["keypoints"]) // 3, self.dataset_name)
            labelled.append(metric)
        return labelled

    def reset(self) -> None:
        """Forget the predictions of an earlier round."""
        super().reset()
        self._num_not_finite = 0
        self.found = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep the predictions of a few images.

        Args:
            inputs: what the model was called with; ``image_id`` is used.
            outputs: what it returned, ``{"instances": Instances}`` each, in pixels of the original
                image.

        Raises:
            ValueError: an output has no ``instances``, or an ``image_id`` is not in the labels.
        """
        for input_, output in zip(inputs, outputs, strict=True):
            self._check_output(input_, output)
            instances = output["instances"].to(self._cpu_device)
            if self._space is not None:
                instances = self._space.own_instances(instances)
            finite = _finite_rows(instances)
            self._num_not_finite += int((~finite).sum())
            image_id = input_["image_id"]
            results = coco_results(instances[finite], image_id)
            self._predictions.append({"image_id": image_id, "instances": results})

    def _check_output(self, input_: dict[str, Any], output: dict[str, Any]) -> None:
        if "instances" not in output:
            raise ValueError(
                f"{input_.get('file_name')}: the model's output has {sorted(output)}, expected "
                f"'instances' for the metrics {self.metrics}. Is one of TEST.TASKS 'det' or 'pose'?"
            )
        if input_["image_id"] not in self._coco_api.imgs:
            raise ValueError(
                f"{input_.get('file_name')}: 'image_id' is {input_['image_id']!r}, expected the id "
                f"of an image of dataset {self.dataset_name!r}"
            )

    def evaluate(self, img_ids: list[Any] | None = None) -> dict[str, dict[str, float]]:
        """Score what was processed.

        Args:
            img_ids: ids of the images to score, all of the dataset by default.

        Returns:
            ``{"bbox": {"AP": ...}, "keypoints": {...}}`` in 0-100; NaN where there is no object to
            find (of that size). Empty in all processes but the first.
        """
        if self._num_not_finite:
            logger.warning(
                f"{self._num_not_finite} predictions on {self.dataset_name!r} hold a NaN or "
                "infinite number and are left out. The weights are probably broken."
            )
        results = super().evaluate(img_ids) or {}
        if comm.is_main_process() and self._do_evaluation and not results:
            results = {metric: self._score([], metric, img_ids) for metric in sorted(self.metrics)}
        return results

    @_without_garbage_collection()
    def _eval_predictions(
        self, predictions: list[dict[str, Any]], img_ids: list[Any] | None = None
    ) -> None:
        """As in Detectron2: write the files, then score; with our backend and faster writers."""
        contiguous_ids = self._metadata.get("thing_dataset_id_to_contiguous_id")
        found = itertools.chain.from_iterable(image["instances"] for image in predictions)
        results = with_category_ids(list(found), contiguous_ids)
        if self._prediction_folder:
            write_instances(self._prediction_folder, predictions)
            path = write_results(self._prediction_folder, results)
            logger.info(f"Predictions are in {path}")
        if not self._do_evaluation:
            logger.info(f"Dataset {self.dataset_name!r} has no object labels: no AP for it.")
            return
        self._results.update(self.score(results, img_ids))

    def score(
        self, results: list[dict[str, Any]], img_ids: list[Any] | None = None
    ) -> dict[str, dict[str, float]]:
        """Score predictions from elsewhere; see `evaluate`.

        Args:
            results: COCO's, with what the metrics need; see `CocoBackend.evaluate`.
            img_ids: ids of the images to score, all of the dataset by default.
        """
        self.found = results
        return {metric: self._score(results, metric, img_ids) for metric in sorted(self.metrics)}

    def _score(
        self, results: list[dict[str, Any]], metric: str, img_ids: list[Any] | None
    ) -> dict[str, float]:
        """One metric. Without predictions it is COCO's 0, where Detectron2 gives NaN."""
        if not results:
            logger.warning(
                f"The model predicts no object in any image of {self.dataset_name!r}: {metric} "
                "AP is 0."
            )
        elif metric == "keypoints":
            found = len(results[0].get("keypoints", ())) // 3
            expected = len(self._kpt_oks_sigmas) or NUM_COCO_KEYPOINTS
            if found != expected:
                raise ValueError(
                    f"pred_keypoints: found {found} keypoints, expected {expected}, the keypoints "
                    f"of dataset {self.dataset_name!r}"
                )
        coco_eval = self._backend.evaluate(
            results,
            metric,
            max_dets=self.max_dets,
            oks_sigmas=self._kpt_oks_sigmas,
            img_ids=img_ids,
        )
        return self._derive_coco_results(coco_eval, metric, self._metadata.get("thing_classes"))


def _finite_rows(instances: Instances) -> Tensor:
    """(n,) bool, False for the predictions that hold a NaN or infinite number."""
    finite = instances.scores.isfinite() & instances.pred_boxes.tensor.isfinite().all(dim=1)
    if instances.has("pred_keypoints"):
        finite &= instances.pred_keypoints.isfinite().flatten(1).all(dim=1)
    return finite


def own_sigmas(sigmas: Sequence[float], space: LabelSpace, dataset_name: str) -> list[float]:
    """Of the network's sigmas, in the order of its keypoints, those of a dataset's keypoints.

    Raises:
        ValueError: there are not as many as keypoints of the network.
    """
    if not space.own_keypoints:
        return []
    check_oks_sigmas(sigmas, len(space.keypoint_names), dataset_name)
    every = list(sigmas) or Params("keypoints").kpt_oks_sigmas.tolist()
    return [every[number] for number in space.own_keypoints]


def check_oks_sigmas(sigmas: Sequence[float], num_keypoints: int, dataset_name: str) -> None:
    """Check that every keypoint of the labels has a sigma; an empty list means COCO's own 17.

    Raises:
        ValueError: the numbers differ, or a sigma is not above 0.
    """
    found = len(sigmas) or NUM_COCO_KEYPOINTS
    if found != num_keypoints:
        what = f"{found} values" if sigmas else f"none, that is COCO's {NUM_COCO_KEYPOINTS}"
        raise ValueError(
            f"TEST.KEYPOINT_OKS_SIGMAS: found {what}, expected {num_keypoints} values, one for "
            f"each keypoint of dataset {dataset_name!r}. For example: TEST.KEYPOINT_OKS_SIGMAS "
            f'"[{", ".join(["0.08"] * num_keypoints)}]"'
        )
    if any(not sigma > 0 for sigma in sigmas):
        raise ValueError(f"TEST.KEYPOINT_OKS_SIGMAS: found {list(sigmas)}, expected values above 0")
