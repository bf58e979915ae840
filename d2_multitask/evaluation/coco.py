"""Box AP and keypoint AP (OKS) with COCO's own metric, through Detectron2's COCOEvaluator.

Which of the two are computed is said by the caller and by the labels: a data set without joints has
no keypoint AP.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from d2_multitask.evaluation.ground_truth import CocoDict, coco_ground_truth, temporary_dataset

logger = logging.getLogger(__name__)

# COCO's sigmas belong to its 17 joints; another number of joints needs its own.
NUM_COCO_KEYPOINTS = 17


class MultitaskCOCOEvaluator(COCOEvaluator):
    """Detectron2's COCOEvaluator for labels and predictions that may be partial.

    It differs in this:

    - the labels are read by the rules of training (`d2_multitask.evaluation.ground_truth`);
    - ``"keypoints"`` is left out where no object of the data set has a labelled joint;
    - no prediction at all is scored as what it is, AP 0 where there are objects, with a warning;
    - predictions with a NaN or infinite number are left out and counted.

    Attributes:
        metrics: the metrics that are computed, a part of those asked for.
    """

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
        ground_truth: CocoDict | None = None,
    ) -> None:
        """
        Args:
            dataset_name: registered name.
            metrics: ``"bbox"``, ``"keypoints"`` or both.
            output_dir: folder for the predictions, ``None`` to write none.
            records: the data set's dicts, if they are loaded already.
            distributed: gather predictions from all processes.
            max_dets_per_image: boxes counted per image, best first (COCO: 100). Keypoint AP always
                counts 20.
            kpt_oks_sigmas: one sigma a joint, empty for COCO's 17.
            ground_truth: the labels, if they are not to be read from the data set.

        Raises:
            ValueError: the labels cannot be read, or there are not as many sigmas as joints.
        """
        if ground_truth is None:
            ground_truth = coco_ground_truth(dataset_name, records)
        self._dataset_name = dataset_name
        self._num_not_finite = 0
        with _as_coco_dataset(dataset_name, ground_truth) as name:
            super().__init__(
                name,
                self._labelled_metrics(metrics, ground_truth, kpt_oks_sigmas),
                distributed,
                output_dir,
                max_dets_per_image=max_dets_per_image,
                kpt_oks_sigmas=list(kpt_oks_sigmas),
            )

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is computed: a part of the metrics asked for."""
        return tuple(self._tasks)

    def _labelled_metrics(
        self, metrics: Sequence[str], ground_truth: dict[str, Any], sigmas: Sequence[float]
    ) -> list[str]:
        """The metrics asked for, without keypoints if no joint is labelled."""
        if "keypoints" not in metrics or "annotations" not in ground_truth:
            return list(metrics)
        annotations = ground_truth["annotations"]
        labelled = next((a for a in annotations if a["num_keypoints"]), None)
        if labelled is None:
            logger.info(
                f"Data set {self._dataset_name!r} has no labelled joints: no keypoint AP for it."
            )
            return [metric for metric in metrics if metric != "keypoints"]
        check_oks_sigmas(sigmas, len(labelled["keypoints"]) // 3, self._dataset_name)
        return list(metrics)

    def reset(self) -> None:
        """Forget the predictions of an earlier round."""
        super().reset()
        self._num_not_finite = 0

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
            finite = _finite_rows(instances)
            self._num_not_finite += int((~finite).sum())
            super().process([input_], [{"instances": instances[finite]}])

    def _check_output(self, input_: dict[str, Any], output: dict[str, Any]) -> None:
        if "instances" not in output:
            raise ValueError(
                f"{input_.get('file_name')}: the model's output has {sorted(output)}, expected "
                f"'instances' for the metrics {self.metrics}. Is one of TEST.TASKS 'det' or 'pose'?"
            )
        if input_["image_id"] not in self._coco_api.imgs:
            raise ValueError(
                f"{input_.get('file_name')}: 'image_id' is {input_['image_id']!r}, expected the id "
                f"of an image of data set {self._dataset_name!r}"
            )

    def evaluate(self, img_ids: list[Any] | None = None) -> dict[str, dict[str, float]]:
        """Score what was processed.

        Args:
            img_ids: ids of the images to score, all of the data set by default.

        Returns:
            ``{"bbox": {"AP": ...}, "keypoints": {...}}`` in 0-100; NaN where there is no object to
            find (of that size). Empty in all processes but the first.
        """
        if self._num_not_finite:
            logger.warning(
                f"{self._num_not_finite} predictions on {self._dataset_name!r} hold a NaN or "
                "infinite number and are left out. The weights are probably broken."
            )
        results = super().evaluate(img_ids) or {}
        if comm.is_main_process() and self._do_evaluation and not results:
            class_names = self._metadata.get("thing_classes")
            for metric in self.metrics:
                results[metric] = self._derive_coco_results(None, metric, class_names)
        return results

    def _derive_coco_results(
        self, coco_eval: COCOeval | None, iou_type: str, class_names: list[str] | None = None
    ) -> dict[str, float]:
        """As in Detectron2, which gives NaN for no predictions; COCO's metric for it is 0."""
        if coco_eval is None:
            logger.warning(
                f"The model predicts no object in any image of {self._dataset_name!r}: {iou_type} "
                "AP is 0."
            )
            coco_eval = _evaluate_nothing(self._coco_api, iou_type)
        return super()._derive_coco_results(coco_eval, iou_type, class_names)


@contextlib.contextmanager
def _as_coco_dataset(dataset_name: str, ground_truth: dict[str, Any]) -> Iterator[str]:
    """A name under which COCOEvaluator finds the labels, in a file of their own."""
    with tempfile.TemporaryDirectory() as folder:
        json_file = os.path.join(folder, "ground_truth.json")
        with open(json_file, "w", encoding="utf-8") as file:
            json.dump(ground_truth, file)
        with temporary_dataset(dataset_name, [], json_file=json_file) as name:
            yield name


def _finite_rows(instances: Instances) -> Tensor:
    """(n,) bool, False for the predictions that hold a NaN or infinite number."""
    finite = instances.scores.isfinite() & instances.pred_boxes.tensor.isfinite().all(dim=1)
    if instances.has("pred_keypoints"):
        finite &= instances.pred_keypoints.isfinite().flatten(1).all(dim=1)
    return finite


def _evaluate_nothing(coco_api: COCO, iou_type: str) -> COCOeval:
    """COCO's metric for an empty list of predictions, which ``COCO.loadRes`` does not take."""
    with contextlib.redirect_stdout(io.StringIO()):
        predictions = COCO()
        predictions.dataset = {**coco_api.dataset, "annotations": []}
        predictions.createIndex()
        coco_eval = COCOeval(coco_api, predictions, iou_type)
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
    return coco_eval


def check_oks_sigmas(sigmas: Sequence[float], num_keypoints: int, dataset_name: str) -> None:
    """Every joint needs a sigma; COCO's own 17 stand in for an empty list.

    Args:
        sigmas: ``TEST.KEYPOINT_OKS_SIGMAS``.
        num_keypoints: joints of an object in the labels.
        dataset_name: for the message.

    Raises:
        ValueError: the numbers differ, or a sigma is not above 0.
    """
    found = len(sigmas) or NUM_COCO_KEYPOINTS
    if found != num_keypoints:
        what = f"{found} values" if sigmas else f"none, that is COCO's {NUM_COCO_KEYPOINTS}"
        raise ValueError(
            f"TEST.KEYPOINT_OKS_SIGMAS: found {what}, expected {num_keypoints} values, one for "
            f"each joint of data set {dataset_name!r}. For example: TEST.KEYPOINT_OKS_SIGMAS "
            f'"[{", ".join(["0.08"] * num_keypoints)}]"'
        )
    if any(not sigma > 0 for sigma in sigmas):
        raise ValueError(
            f"TEST.KEYPOINT_OKS_SIGMAS: found {list(sigmas)}, expected values above 0."
        )
