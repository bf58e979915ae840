"""Objects of one image, after augmentation, as Detectron2's ``Instances`` and an ignore mask.

Detectron2's ``annotations_to_instances`` decides by the first object which fields exist. Here an
object may lack its keypoints or its mask without costing the others theirs, or itself its box.

The mapper makes ``instances`` whatever the tasks, as Detectron2's does. The labels of this file say
what a head needs of them, and check it before training.

Letters: n objects, K keypoints, (H, W) size of the network input. Coordinates: continuous pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import transform_keypoint_annotations
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, Keypoints

from d2_multitask.data.labels.base import Label, Record, config_value, is_mirrored
from d2_multitask.data.labels.masks import decode
from d2_multitask.data.labels.sem_seg import annotation_rle, paint_box
from d2_multitask.data.problems import DATA_REPORT

WRONG_KEYPOINTS = "keypoints of an object left out (the box is kept)"

Size = tuple[int, int]


class BoxLabel(Label):
    """Objects with boxes."""

    key = "instances"
    description = "objects with boxes"
    names_key = "thing_classes"
    # Where networks that are not built of this package's heads keep their number of classes.
    size_keys: ClassVar[Mapping[str, str]] = {"MultitaskRCNN": "MODEL.ROI_HEADS.NUM_CLASSES"}
    size_key = "MODEL.CENTER_HEAD.NUM_CLASSES"

    @classmethod
    def from_config(cls, cfg: CfgNode) -> BoxLabel:
        """See `Label`."""
        size_key = cls.size_keys.get(cfg.MODEL.META_ARCHITECTURE, cls.size_key)
        label = cls(config_value(cfg, size_key))
        label.size_key = size_key
        return label

    def has(self, record: Record) -> bool:
        """Crowds do not count."""
        return any(not a.get("iscrowd") for a in record.get("annotations", ()))

    def check(self, name: str, records: Sequence[Record]) -> None:
        """Every object has a box; the error names image and object."""
        for record in records:
            for index, annotation in enumerate(record.get("annotations", ())):
                box, mode = annotation.get("bbox"), annotation.get("bbox_mode")
                if box is None or len(box) != 4 or mode is None:
                    raise ValueError(
                        f"Dataset {name!r}: {record.get('file_name')}: object {index}: found "
                        f"'bbox' {box} and 'bbox_mode' {mode}, expected four numbers and one of "
                        "detectron2.structures.BoxMode, such as BoxMode.XYXY_ABS"
                    )


class MaskLabel(Label):
    """Objects with masks."""

    key = "instances"
    description = "objects with masks"

    def has(self, record: Record) -> bool:
        """Crowds do not count."""
        annotations = record.get("annotations", ())
        return any(a.get("segmentation") and not a.get("iscrowd") for a in annotations)


class KeypointLabel(Label):
    """Objects with labelled keypoints."""

    key = "instances"
    description = "objects with labelled keypoints"
    names_key = "keypoint_names"
    size_key = "MODEL.POSE_HEAD.NUM_KEYPOINTS"

    def has(self, record: Record) -> bool:
        """Crowds, and keypoints that are all 0, do not count."""
        annotations = record.get("annotations", ())
        return any(any(a.get("keypoints", ())) and not a.get("iscrowd") for a in annotations)

    def check(self, name: str, records: Sequence[Record]) -> None:
        """Without names it is not known which keypoints change sides in a mirrored image, and none
        would be learned.
        """
        names = MetadataCatalog.get(name).get("keypoint_names")
        objects = (a for record in records for a in record.get("annotations", ()))
        sizes = (np.size(a["keypoints"]) for a in objects if np.any(a.get("keypoints", ())))
        first = next(sizes, None)
        if first is None:
            return
        if names and first != 3 * len(names) and 3 * len(names) not in sizes:
            raise ValueError(
                f"Dataset {name!r}: keypoints: found {first} numbers per object, expected "
                f"{3 * len(names)}, x, y and visibility of each of {list(names)}"
            )
        if not names:
            raise ValueError(
                f"Dataset {name!r}: its objects have {first // 3} keypoints, but its metadata "
                f"names none; type MetadataCatalog.get({name!r}).set(keypoint_names=[...], "
                "keypoint_flip_map=[('left_eye', 'right_eye'), ...]) after registering it, with "
                "the names in the order of the annotations, and the pairs that change sides ([] if "
                "none do)"
            )


class RoiKeypointLabel(KeypointLabel):
    """The same for Detectron2's keypoint head."""

    size_key = "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS"


class InstanceBuilder:
    """Turns the annotations of one image into what the heads learn from.

    Args:
        hflip_indices: (K,) the keypoint that takes each one's place in a mirrored image, from
            Detectron2's ``create_keypoint_hflip_indices``; ``None`` leaves keypoints out.
        load_masks: give ``gt_masks``.
        min_visible: an object with less than this part of its box inside the window is not learned
            as an object; what is seen of it is ignored.

    Unusable masks and keypoints are counted in ``DATA_REPORT``. It is not an attribute, because a
    worker process gets a copy of this object but has a report of its own.
    """

    def __init__(
        self,
        *,
        hflip_indices: Sequence[int] | None = None,
        load_masks: bool = False,
        min_visible: float = 0.05,
    ) -> None:
        self.hflip_indices = None if hflip_indices is None else np.asarray(hflip_indices)
        self.load_masks = load_masks
        self.min_visible = min_visible

    def __call__(
        self,
        annotations: Sequence[Mapping[str, Any]],
        transforms: T.TransformList,
        original_size: Size,
        image_size: Size,
        where: str,
    ) -> tuple[Instances, np.ndarray | None]:
        """Convert the annotations of one image; they are not changed.

        Args:
            annotations: in Detectron2's format, in coordinates of the original image.
            transforms: what was done to the image.
            original_size: (h, w) before them.
            image_size: (H, W) after them.
            where: names the image in messages.

        Returns:
            ``Instances`` with ``gt_boxes`` (n, 4) xyxy clipped to the image, ``gt_classes`` (n,),
            ``gt_keypoints`` (n, K, 3) with visibility 0 where not labelled and -1 where the label
            is outside of the image (absent if no object carries keypoints, unless there is no
            object), and ``gt_masks``
            (n, H, W), an empty mask where none is labelled (absent if no object carries one).
            ``gt_confidence`` (n,) and ``gt_keypoint_confidence`` (n, K) in [0, 1] only if an object
            says ``confidence`` or ``keypoint_confidence``.
            And the ignore mask, (H, W) bool, or ``None`` if nothing is to be ignored.
        """
        crowds = [a for a in annotations if a.get("iscrowd", 0)]
        objects = [a for a in annotations if not a.get("iscrowd", 0)]
        boxes = transform_boxes(objects, transforms)
        clipped = np.clip(boxes, 0, (image_size[::-1]) * 2)
        keep, sliver = self._visible(boxes, clipped)

        instances = Instances(image_size)
        kept = [objects[i] for i in np.flatnonzero(keep)]
        instances.gt_boxes = Boxes(torch.from_numpy(clipped[keep].astype(np.float32)))
        instances.gt_classes = torch.tensor([a["category_id"] for a in kept], dtype=torch.int64)
        has_keypoints = not annotations or any("keypoints" in a for a in annotations)
        if self.hflip_indices is not None and has_keypoints:
            instances.gt_keypoints = self._keypoints(kept, transforms, image_size, where)
            if any("keypoint_confidence" in a for a in kept):
                confidence = self._keypoint_confidence(kept, transforms)
                instances.gt_keypoint_confidence = torch.from_numpy(confidence)
        if any("confidence" in a for a in kept):
            instances.gt_confidence = torch.tensor([a.get("confidence", 1.0) for a in kept])
        if self.load_masks and any("segmentation" in a for a in objects):
            masks = self._masks(kept, transforms, original_size, image_size, where)
            instances.gt_masks = BitMasks(masks)

        ignore = self._crowd_mask(crowds, transforms, original_size, where)
        for x1, y1, x2, y2 in clipped[sliver]:
            ignore = np.zeros(image_size, dtype=bool) if ignore is None else ignore
            ignore[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] = True
        return instances, ignore

    def _visible(self, boxes: np.ndarray, clipped: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n,) bool: boxes to learn; and (n,) bool: slivers at the image's edge, to ignore."""
        wh, full_wh = clipped[:, 2:] - clipped[:, :2], boxes[:, 2:] - boxes[:, :2]
        seen = (wh > 0).all(axis=1)
        large = wh.prod(axis=1) >= self.min_visible * full_wh.prod(axis=1)
        # A box thinner than a pixel because it was cut is a sliver; a small object is an object.
        thin = ((wh < 1) & (wh < full_wh)).any(axis=1)
        keep = seen & large & ~thin
        return keep, seen & ~keep

    def _keypoints(
        self,
        objects: Sequence[Mapping[str, Any]],
        transforms: T.TransformList,
        image_size: Size,
        where: str,
    ) -> Keypoints:
        num_keypoints = len(self.hflip_indices)
        points = np.zeros((len(objects), num_keypoints, 3))
        for index, annotation in enumerate(objects):
            given = np.asarray(annotation.get("keypoints", ()), dtype=np.float64).reshape(-1)
            if len(given) == 3 * num_keypoints:
                points[index] = given.reshape(-1, 3)
            elif len(given):
                details = f"found {len(given)} numbers, expected {3 * num_keypoints}"
                DATA_REPORT.add(WRONG_KEYPOINTS, f"{where}: object {index}", details)
        labelled = points[:, :, 2] > 0
        if is_mirrored(transforms):
            labelled = labelled[:, self.hflip_indices]
        # One call for all objects: the row of keypoint k of object i is i * K + k.
        first_rows = num_keypoints * np.arange(len(objects))[:, None]
        flipped_rows = (first_rows + self.hflip_indices).reshape(-1)
        points = transform_keypoint_annotations(
            points.reshape(-1), transforms, image_size, flipped_rows
        )
        # A vertical flip mirrors too, but Detectron2 swaps sides for horizontal flips only.
        if sum(isinstance(t, T.VFlipTransform) for t in transforms.transforms) % 2:
            points = points[flipped_rows]
        # Detectron2 counts the far edge as inside, but no pixel lies there.
        points[(points[:, 0] >= image_size[1]) | (points[:, 1] >= image_size[0])] = 0
        # A keypoint that was cut off is known: it is nowhere in this image.
        points[labelled.reshape(-1) & (points[:, 2] == 0), 2] = -1
        return Keypoints(torch.from_numpy(points).float().reshape(-1, num_keypoints, 3))

    def _keypoint_confidence(
        self, objects: Sequence[Mapping[str, Any]], transforms: T.TransformList
    ) -> np.ndarray:
        """(n, K) float32, 1 where the annotation does not say."""
        ones = np.ones(len(self.hflip_indices))
        rows = np.array([a.get("keypoint_confidence", ones) for a in objects], np.float32)
        return rows[:, self.hflip_indices] if is_mirrored(transforms) else rows

    def _masks(
        self,
        objects: Sequence[Mapping[str, Any]],
        transforms: T.TransformList,
        original_size: Size,
        image_size: Size,
        where: str,
    ) -> torch.Tensor:
        masks = torch.zeros((len(objects), *image_size), dtype=torch.bool)
        for index, annotation in enumerate(objects):
            rle = annotation_rle(
                annotation, *original_size, DATA_REPORT, f"{where}: object {index}"
            )
            if rle is not None:
                masks[index] = torch.from_numpy(_transform_mask(decode(rle), transforms))
        return masks

    def _crowd_mask(
        self,
        crowds: Sequence[Mapping[str, Any]],
        transforms: T.TransformList,
        original_size: Size,
        where: str,
    ) -> np.ndarray | None:
        if not crowds:
            return None
        mask = np.zeros(original_size, dtype=bool)
        for annotation in crowds:
            rle = annotation_rle(annotation, *original_size, DATA_REPORT, f"{where}: crowd")
            if rle is None:
                paint_box(mask, annotation, True)
            else:
                mask |= decode(rle)
        return _transform_mask(mask, transforms)


def transform_boxes(
    annotations: Sequence[Mapping[str, Any]], transforms: T.TransformList
) -> np.ndarray:
    """Boxes of annotations, moved by ``transforms`` and not clipped: (n, 4) xyxy float64."""
    if not annotations:
        return np.zeros((0, 4))
    boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64)
    modes = {a["bbox_mode"] for a in annotations}
    if len(modes) == 1:
        boxes = BoxMode.convert(boxes, modes.pop(), BoxMode.XYXY_ABS)
    else:
        boxes = np.array(
            [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
        )
    return transforms.apply_box(boxes)


def _transform_mask(mask: np.ndarray, transforms: T.TransformList) -> np.ndarray:
    """(h, w) bool -> (H, W) bool; what a transform adds at the borders is False."""
    ids = np.ascontiguousarray(mask).view(np.uint8)
    # Padding in segmentation maps is the ignored label, which is not 1.
    return np.ascontiguousarray(transforms.apply_segmentation(ids) == 1)
