"""Box, mask and keypoint AP: COCO's metric on PASCAL in Detail's labels.

Boxes and masks are scored on all thing classes, joints on people only: a network with several
classes gives joints for objects of every class, and those of a chair are not false people.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data.catalog import Metadata
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm

from d2_multitask.data.labels.masks import to_rle
from d2_multitask.evaluation.coco.backends import AUTO
from d2_multitask.evaluation.coco.evaluator import MultitaskCOCOEvaluator
from d2_multitask.evaluation.coco.labels import CocoDict
from d2_multitask.evaluation.legacy import (
    legacy_boxes,
    legacy_keypoints,
    legacy_masks,
)

logger = logging.getLogger(__name__)

Records = Sequence[dict[str, Any]]


def instance_ground_truth(records: Records, class_names: Sequence[str]) -> CocoDict:
    """The objects of the images that have object labels, as COCO's format.

    Args:
        records: the data set's dicts.
        class_names: of ``category_id`` 0, 1, ...; they become COCO's 1, 2, ...
    """
    labelled = [record for record in records if "annotations" in record]
    annotations = [
        _annotation(record, label, label["category_id"] + 1)
        for record in labelled
        for label in record["annotations"]
    ]
    return _coco_dict(labelled, class_names, annotations)


def person_ground_truth(records: Records, person_class: int, num_keypoints: int) -> CocoDict:
    """The people of the images with object labels, and skeletons that belong to no object.

    The area that OKS divides by is that of the mask, for such skeletons that of their box. People
    without a labelled joint are ignored, as in COCO.

    Args:
        records: the data set's dicts.
        person_class: ``category_id`` of people.
        num_keypoints: K.
    """
    labelled = [r for r in records if "annotations" in r or "unmatched_keypoints" in r]
    annotations = []
    for record in labelled:
        people = [a for a in record.get("annotations", ()) if a["category_id"] == person_class]
        for person in [*people, *record.get("unmatched_keypoints", ())]:
            annotation = _annotation(record, person, 1)
            joints = np.array(person.get("keypoints") or [0] * (3 * num_keypoints), dtype=float)
            joints = joints.reshape(-1, 3)
            # Detectron2's coordinates -> COCO's; predictions are moved in the same way.
            joints[:, :2] = np.where(joints[:, 2:] > 0, joints[:, :2] - 0.5, 0)
            annotation["keypoints"] = joints.reshape(-1).tolist()
            annotation["num_keypoints"] = int((joints[:, 2] > 0).sum())
            annotations.append(annotation)
    return _coco_dict(labelled, ["person"], annotations)


def has_joints(records: Iterable[dict[str, Any]]) -> bool:
    """Whether a file has joints: ``trainval_merged.json`` has none."""
    return any(
        any(annotation.get("keypoints", ())[2::3])
        for record in records
        for key in ("annotations", "unmatched_keypoints")
        for annotation in record.get(key, ())
    )


def _annotation(record: dict[str, Any], label: dict[str, Any], category_id: int) -> dict[str, Any]:
    mode = label.get("bbox_mode", BoxMode.XYWH_ABS)
    box = BoxMode.convert(list(map(float, label["bbox"])), mode, BoxMode.XYWH_ABS)
    annotation = {
        "image_id": record["image_id"],
        "category_id": category_id,
        "bbox": list(box),
        "area": box[2] * box[3],
        "iscrowd": label.get("iscrowd", 0),
        "num_keypoints": 0,
        "keypoints": [],
    }
    if label.get("segmentation"):
        rle = to_rle(label["segmentation"], record["height"], record["width"])
        counts = rle["counts"]
        counts = counts if isinstance(counts, str) else counts.decode()
        annotation["segmentation"] = {"size": rle["size"], "counts": counts}
        annotation["area"] = float(mask_util.area(rle))
    return annotation


def _coco_dict(
    records: Records, class_names: Sequence[str], annotations: list[dict[str, Any]]
) -> CocoDict:
    # COCO's metric takes a match with object 0 for no match.
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    images = [
        {"id": r["image_id"], **{key: r[key] for key in ("file_name", "height", "width")}}
        for r in records
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(class_names, start=1)]
    return {"images": images, "categories": categories, "annotations": annotations}


class DetailCOCOEvaluator(MultitaskCOCOEvaluator):
    """COCO's AP for some of the classes of the model, on the images that have object labels.

    With ``legacy`` the official code's numbers come too, as ``bbox-legacy`` and so on; see
    `d2_multitask.evaluation.legacy`.
    """

    def __init__(
        self,
        dataset_name: str,
        records: Records,
        class_names: Sequence[str],
        metrics: Sequence[str],
        *,
        output_dir: str | None,
        only_class: int | None = None,
        legacy: bool = False,
        distributed: bool = True,
        max_dets_per_image: int | None = None,
        kpt_oks_sigmas: Sequence[float] = (),
        backend: str = AUTO,
    ) -> None:
        """
        Args:
            dataset_name: registered name, for messages.
            records: the data set's dicts.
            class_names: of ``category_id`` 0, 1, ...
            metrics: some of ``"bbox"``, ``"segm"`` and ``"keypoints"``.
            output_dir: folder for the predictions, ``None`` to write none.
            only_class: score objects of this class alone, with joints; ``None`` = all classes.
            legacy: also give the official code's numbers.
            distributed: gather predictions from all processes.
            max_dets_per_image: see `MultitaskCOCOEvaluator`.
            kpt_oks_sigmas: one sigma a joint.
            backend: see `MultitaskCOCOEvaluator`.

        Raises:
            ValueError: there are not as many sigmas as joints, or the backend is unknown.
            ImportError: the backend is not installed.
        """
        self._all_records = {record["image_id"]: record for record in records}
        self._only_class = only_class
        self._legacy = legacy
        self._num_unlabelled = 0
        if only_class is None:
            ground_truth = instance_ground_truth(records, class_names)
        else:
            ground_truth = person_ground_truth(records, only_class, len(kpt_oks_sigmas))
            class_names = [class_names[only_class]]
        super().__init__(
            dataset_name,
            metrics,
            output_dir=output_dir,
            distributed=distributed,
            max_dets_per_image=max_dets_per_image,
            kpt_oks_sigmas=kpt_oks_sigmas,
            backend=backend,
            ground_truth=ground_truth,
        )
        # The classes scored here, whatever the data set's own metadata say.
        contiguous_ids = {i + 1: i for i in range(len(class_names))}
        self._metadata = Metadata(
            name=dataset_name,
            thing_classes=list(class_names),
            thing_dataset_id_to_contiguous_id=contiguous_ids,
        )

    def reset(self) -> None:
        """Forget the predictions of an earlier round."""
        super().reset()
        self._num_unlabelled = 0

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep the predictions of a few images; see `MultitaskCOCOEvaluator.process`.

        Raises:
            ValueError: an output lacks what a metric needs, or an ``image_id`` is not in the data
                set.
        """
        for input_, output in zip(inputs, outputs, strict=True):
            image_id = input_["image_id"]
            if image_id in self._all_records and image_id not in self._coco_api.imgs:
                self._num_unlabelled += 1
                continue
            self._check_output(input_, output)
            super().process([input_], [{"instances": self._scored(input_, output["instances"])}])

    def _scored(self, input_: dict[str, Any], instances: Instances) -> Instances:
        """The predictions of the classes scored here, with what the metrics need."""
        fields = {"segm": "pred_masks", "keypoints": "pred_keypoints"}
        for metric in self.metrics:
            if len(instances) and metric in fields and not instances.has(fields[metric]):
                raise ValueError(
                    f"{input_.get('file_name')}: the predicted instances have "
                    f"{sorted(instances.get_fields())}, expected {fields[metric]!r} for {metric} AP"
                )
        if self._only_class is None:
            return instances
        people = Instances(instances.image_size)
        for name, value in instances.get_fields().items():
            if name != "pred_masks":  # nobody reads them here, and they are slow to encode
                people.set(name, value)
        people = people[people.pred_classes == self._only_class]
        people.pred_classes = people.pred_classes.new_zeros(len(people))
        return people

    def evaluate(self, img_ids: list[Any] | None = None) -> dict[str, dict[str, float]]:
        """Score what was processed; see `MultitaskCOCOEvaluator.evaluate`."""
        if self._num_unlabelled:
            logger.warning(
                f"{self._num_unlabelled} images of {self._dataset_name!r} have no object labels "
                f"and do not count in {list(self.metrics)}."
            )
        return super().evaluate(img_ids)

    def _eval_predictions(
        self, predictions: list[dict[str, Any]], img_ids: list[Any] | None = None
    ) -> None:
        """Detectron2's, and the official code's numbers if wanted."""
        legacy = self._legacy_results(predictions) if self._legacy else {}
        super()._eval_predictions(predictions, img_ids)
        if comm.is_main_process():
            self._results.update(legacy)

    def _legacy_results(self, predictions: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
        found = {p["image_id"]: p["instances"] for p in predictions}
        records = [self._all_records[image_id] for image_id in self._coco_api.imgs]
        functions = {"bbox": legacy_boxes, "segm": legacy_masks}
        results = {
            f"{metric}-legacy": functions[metric](records, found)
            for metric in self.metrics
            if metric in functions
        }
        if "keypoints" in self.metrics:
            annotations = self._coco_api.dataset["annotations"]
            results["keypoints-legacy"] = legacy_keypoints(annotations, found)
        return results
