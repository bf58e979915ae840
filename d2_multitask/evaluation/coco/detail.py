"""Box, mask and keypoint AP: COCO's metric on PASCAL in Detail's labels.

Boxes and masks are scored on all thing classes, keypoints on people only: a network with several
classes predicts keypoints for objects of every class, and those of a chair are not false people.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from detectron2.data.catalog import Metadata
from detectron2.structures import Instances

from d2_multitask.evaluation.coco.evaluator import MultitaskCOCOEvaluator
from d2_multitask.evaluation.coco.labels import CocoDict, coco_annotation, coco_images, complete
from d2_multitask.evaluation.legacy import legacy_boxes, legacy_keypoints, legacy_masks

logger = logging.getLogger(__name__)

Records = Sequence[dict[str, Any]]
_LEGACY = {"bbox": legacy_boxes, "segm": legacy_masks, "keypoints": legacy_keypoints}


def detail_ground_truth(
    records: Records,
    class_names: Sequence[str],
    only_class: int | None = None,
    num_keypoints: int = 0,
) -> CocoDict:
    """The objects of the images that have object labels, in COCO's format.

    The area is that of the mask, of objects without a mask that of the box. Objects without a
    labelled keypoint are ignored in keypoint AP, as in COCO.

    Args:
        records: the dataset's dicts.
        class_names: of ``category_id`` 0, 1, ...; they become COCO's 1, 2, ...
        only_class: keep objects of this class alone, as category 1, and also the skeletons without
            an object (``unmatched_keypoints``); ``None`` = all classes.
        num_keypoints: K.
    """
    keys = ("annotations",) if only_class is None else ("annotations", "unmatched_keypoints")
    names = class_names if only_class is None else [class_names[only_class]]
    first = only_class or 0
    labelled = [record for record in records if any(key in record for key in keys)]
    annotations = []
    for record in labelled:
        for label in (label for key in keys for label in record.get(key, ())):
            category = label.get("category_id", only_class)
            if only_class in (None, category):
                annotations.append(coco_annotation(label, record, category - first + 1))
    complete(annotations, num_keypoints)
    categories = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    return {
        "images": coco_images(labelled),
        "categories": categories,
        "annotations": annotations,
    }


def has_keypoints(records: Iterable[dict[str, Any]]) -> bool:
    """Whether any object has a labelled keypoint: ``trainval_merged.json`` has none."""
    return any(
        any(annotation.get("keypoints", ())[2::3])
        for record in records
        for key in ("annotations", "unmatched_keypoints")
        for annotation in record.get(key, ())
    )


class DetailCOCOEvaluator(MultitaskCOCOEvaluator):
    """COCO's AP for all or one of the model's classes, on the images that have object labels.

    With ``legacy`` the results also have the official code's numbers, as ``bbox-legacy`` and so on;
    see `d2_multitask.evaluation.legacy`.
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
        **options: Any,
    ) -> None:
        """
        Args:
            dataset_name: registered name, for messages.
            records: the dataset's dicts.
            class_names: of ``category_id`` 0, 1, ...
            metrics: some of ``"bbox"``, ``"segm"`` and ``"keypoints"``.
            output_dir: folder for the predictions, ``None`` to write none.
            only_class: score objects of this class alone, with keypoints; ``None`` = all classes.
            legacy: also give the official code's numbers.
            **options: of `MultitaskCOCOEvaluator`; ``kpt_oks_sigmas``: one per keypoint.

        Raises:
            ValueError, ImportError: as `MultitaskCOCOEvaluator`.
        """
        self._all_records = {record["image_id"]: record for record in records}
        self._only_class = only_class
        self._legacy = legacy
        self._num_unlabelled = 0
        num_keypoints = len(options.get("kpt_oks_sigmas", ()))
        ground_truth = detail_ground_truth(records, class_names, only_class, num_keypoints)
        super().__init__(
            dataset_name, metrics, output_dir=output_dir, ground_truth=ground_truth, **options
        )
        # The classes scored here instead of those in the dataset's metadata.
        names = [category["name"] for category in ground_truth["categories"]]
        self._metadata = Metadata(
            name=dataset_name,
            thing_classes=names,
            thing_dataset_id_to_contiguous_id={i + 1: i for i in range(len(names))},
        )

    def reset(self) -> None:
        """Forget the predictions of an earlier round."""
        super().reset()
        self._num_unlabelled = 0

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep the predictions of a few images; see `MultitaskCOCOEvaluator.process`.

        Raises:
            ValueError: an output lacks what a metric needs, or an ``image_id`` is not in the
                dataset.
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
        people = Instances(instances.image_size, **instances.get_fields())
        if people.has("pred_masks"):  # not used here, and slow to encode
            people.remove("pred_masks")
        people = people[people.pred_classes == self._only_class]
        people.pred_classes = people.pred_classes.new_zeros(len(people))
        return people

    def evaluate(self, img_ids: list[Any] | None = None) -> dict[str, dict[str, float]]:
        """Score what was processed; see `MultitaskCOCOEvaluator.evaluate`."""
        if self._num_unlabelled:
            logger.warning(
                f"{self._num_unlabelled} images of {self.dataset_name!r} have no object labels "
                f"and are not counted in {list(self.metrics)}."
            )
        return super().evaluate(img_ids)

    def _eval_predictions(
        self, predictions: list[dict[str, Any]], img_ids: list[Any] | None = None
    ) -> None:
        """Detectron2's, and the official code's numbers if wanted."""
        legacy = self._legacy_results(predictions) if self._legacy else {}
        super()._eval_predictions(predictions, img_ids)
        self._results.update(legacy)

    def _legacy_results(self, predictions: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
        found = {p["image_id"]: p["instances"] for p in predictions}
        records = [self._all_records[image_id] for image_id in self._coco_api.imgs]
        labels = {"bbox": records, "segm": records}
        labels["keypoints"] = self._coco_api.dataset["annotations"]
        return {f"{m}-legacy": _LEGACY[m](labels[m], found) for m in self.metrics}
