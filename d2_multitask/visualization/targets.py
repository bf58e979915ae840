"""Labels as pictures: annotations of a dataset, the mapper's output, targets of the heads."""

from __future__ import annotations

import logging
from typing import Any

import cv2
import numpy as np
from detectron2.data import Metadata
from detectron2.structures import BoxMode
from torch import Tensor

from d2_multitask.data.labels.masks import MaskError, decode, to_rle
from d2_multitask.visualization import style
from d2_multitask.visualization.canvas import DrawnObjects, draw_objects
from d2_multitask.visualization.metadata import metadata_for
from d2_multitask.visualization.predictions import blend_class_map

logger = logging.getLogger(__name__)


def rgb_image(batched_input: dict[str, Any], input_format: str = "BGR") -> np.ndarray:
    """The mapper's ``image`` (3, H, W) as (H, W, 3) uint8 RGB.

    ``batched_input``: one dict of the mapper.
    """
    image = batched_input["image"].detach().cpu().numpy().transpose(1, 2, 0)
    image = image.clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(image[..., ::-1] if input_format == "BGR" else image)


def draw_labels(
    batched_input: dict[str, Any],
    metadata: Metadata | None = None,
    *,
    input_format: str = "BGR",
    ignore_value: int = 255,
    min_long_side: int = style.MIN_LONG_SIDE,
) -> np.ndarray:
    """Draw one dict that the mapper gave, after augmentation.

    Boxes and skeletons have one colour per object; occluded keypoints are rings.
    Semantic classes are tinted; ignored pixels (``sem_seg`` 255, ``ignore_mask``) are hatched.

    ``batched_input``: ``image`` and, each optional, ``instances``, ``sem_seg``, ``ignore_mask``.
    """
    image, instances = rgb_image(batched_input, input_format), batched_input.get("instances")
    boxes = keypoints = class_ids = None
    if instances is not None:
        boxes, class_ids = instances.gt_boxes.tensor.cpu().numpy(), instances.gt_classes
        if instances.has("gt_keypoints"):
            keypoints = instances.gt_keypoints.tensor.cpu().numpy()
    metadata = metadata_for(metadata, class_ids, keypoints)
    picture = style.enlarge(image, min_long_side)
    if "sem_seg" in batched_input:
        classes = batched_input["sem_seg"].cpu().numpy()
        picture = blend_class_map(picture, classes, metadata, ignore_value)
    if "ignore_mask" in batched_input:
        mask = batched_input["ignore_mask"].cpu().numpy()
        picture = style.blend_hatching(picture, style.resize_mask(mask, picture.shape[:2]))
    if instances is None:
        return picture
    objects = _drawn(boxes, keypoints, class_ids.tolist(), metadata)
    return draw_objects(picture, objects, metadata, image.shape[:2])


def draw_dataset_dict(
    image: np.ndarray,
    dataset_dict: dict[str, Any],
    metadata: Metadata,
    *,
    sem_seg: np.ndarray | None = None,
    min_long_side: int = style.MIN_LONG_SIDE,
) -> np.ndarray:
    """Draw the annotations of one image as the dataset gives them, before any mapper.

    Unlike Detectron2's ``draw_dataset_dict`` it allows objects of which only some have masks or
    keypoints. Each object's mask has the object's colour, unless there is a semantic map,
    which is drawn instead; crowds are hatched.

    ``image``: (H, W, 3) uint8 RGB, as large as the annotations say. ``dataset_dict``: Detectron2's
    standard dict. ``sem_seg``: (H, W) class ids of the dataset's own semantic map, if it has one.
    """
    picture, crowds = style.enlarge(image, min_long_side), []
    if sem_seg is not None:
        picture = blend_class_map(picture, sem_seg, metadata)
    objects: list[dict[str, Any]] = []
    for annotation in dataset_dict.get("annotations", ()):
        mask = _annotation_mask(annotation, image.shape[:2], str(dataset_dict.get("file_name")))
        if annotation.get("iscrowd", 0):
            crowds.append(mask if mask is not None else _box_mask(annotation, image.shape[:2]))
            continue
        if mask is not None and sem_seg is None:
            mask = style.resize_mask(mask, picture.shape[:2])
            picture = style.blend_color(picture, mask, style.object_color(len(objects)), 0.35)
        objects.append(annotation)
    if crowds:
        crowd = style.resize_mask(np.logical_or.reduce(crowds), picture.shape[:2])
        picture = style.blend_hatching(picture, crowd)
    return draw_objects(picture, _drawn_annotations(objects, metadata), metadata, image.shape[:2])


def draw_map(
    image: np.ndarray,
    values: Tensor,
    padded_hw: tuple[int, int],
    *,
    min_long_side: int = style.MIN_LONG_SIDE,
) -> np.ndarray:
    """Blend one map of a head over its image.

    ``image``: (H, W, 3) uint8 RGB, the network input without padding. ``values``: (h, w) in [0, 1]
    on the grid of the padded input (any stride). ``padded_hw``: (H, W) of the padded network input.
    """
    full = cv2.resize(
        values.detach().float().cpu().numpy(),
        (padded_hw[1], padded_hw[0]),
        interpolation=cv2.INTER_LINEAR,
    )
    height, width = image.shape[:2]
    return style.blend_heatmap(style.enlarge(image, min_long_side), full[:height, :width])


def _drawn(
    boxes: np.ndarray, keypoints: np.ndarray | None, class_ids: list[int], metadata: Metadata
) -> DrawnObjects:
    names = metadata.thing_classes
    labels = ["" if len(names) == 1 else names[class_id] for class_id in class_ids]
    if keypoints is None:
        return DrawnObjects(boxes, labels=labels)
    # Visibility: 0 not labelled, 1 labelled but occluded, 2 visible.
    xy, visibility = keypoints[..., :2], keypoints[..., 2]
    return DrawnObjects(boxes, xy, visibility > 0, visibility == 1, labels)


def _drawn_annotations(annotations: list[dict[str, Any]], metadata: Metadata) -> DrawnObjects:
    boxes = [
        BoxMode.convert(list(x["bbox"]), x["bbox_mode"], BoxMode.XYXY_ABS) for x in annotations
    ]
    num_keypoints = len(metadata.keypoint_names)
    keypoints = np.zeros((len(annotations), num_keypoints, 3))
    for row, annotation in zip(keypoints, annotations, strict=True):
        flat = np.asarray(annotation.get("keypoints", ()), float).reshape(-1, 3)
        if len(flat) == num_keypoints:
            row[:] = flat
    class_ids = [annotation["category_id"] for annotation in annotations]
    return _drawn(np.asarray(boxes, float).reshape(-1, 4), keypoints, class_ids, metadata)


def _annotation_mask(
    annotation: dict[str, Any], image_hw: tuple[int, int], file_name: str
) -> np.ndarray | None:
    segmentation = annotation.get("segmentation")
    if not segmentation:
        return None
    try:
        return decode(to_rle(segmentation, *image_hw))
    except MaskError as error:
        # The picture is there to find such labels: it is drawn without the mask, and says so.
        logger.warning("%s: the mask of an object cannot be drawn: %s", file_name, error)
        return None


def _box_mask(annotation: dict[str, Any], image_hw: tuple[int, int]) -> np.ndarray:
    x0, y0, x1, y1 = BoxMode.convert(
        list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS
    )
    mask = np.zeros(image_hw, bool)
    mask[max(int(y0), 0) : max(round(y1), 0), max(int(x0), 0) : max(round(x1), 0)] = True
    return mask
