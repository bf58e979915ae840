"""Labels as pictures: annotations of a dataset, the mapper's output, targets of the heads."""

from __future__ import annotations

import logging
from typing import Any

import cv2
import numpy as np
from detectron2.data import Metadata
from detectron2.structures import BoxMode, Instances
from torch import Tensor

from d2_multitask.data.labels.masks import MaskError, decode, to_rle
from d2_multitask.visualization import style
from d2_multitask.visualization.canvas import DrawnObjects, PictureCanvas
from d2_multitask.visualization.metadata import metadata_for
from d2_multitask.visualization.predictions import blend_class_map

logger = logging.getLogger(__name__)


def rgb_image(batched_input: dict[str, Any], input_format: str = "BGR") -> np.ndarray:
    """The mapper's ``image`` (3, H, W) as (H, W, 3) uint8 RGB.

    Args:
        batched_input: one dict of the mapper.
        input_format: ``INPUT.FORMAT``: ``"BGR"`` or ``"RGB"``.
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

    Args:
        batched_input: ``image`` and, each optional, ``instances``, ``sem_seg``, ``ignore_mask``.
        metadata: names of classes and keypoints; generic ones where they are missing.
        input_format: ``INPUT.FORMAT``.
        ignore_value: the semantic label that is not learned.
        min_long_side: smaller images are enlarged to it (pixels).

    Returns:
        (h, w, 3) uint8 RGB.
    """
    instances = batched_input.get("instances")
    metadata = metadata_for(metadata, *_shown_labels(instances))
    canvas = PictureCanvas(rgb_image(batched_input, input_format), metadata, min_long_side)
    picture = canvas.picture_array
    if "sem_seg" in batched_input:
        classes = batched_input["sem_seg"].cpu().numpy()
        picture = blend_class_map(picture, classes, metadata, ignore_value)
    if "ignore_mask" in batched_input:
        mask = batched_input["ignore_mask"].cpu().numpy()
        picture = style.blend_hatching(picture, style.resize_mask(mask, canvas.size_hw))
    canvas.set_background(picture)
    if instances is not None:
        canvas.draw_objects(drawn_labels(instances, metadata))
    return canvas.picture()


def drawn_labels(instances: Instances, metadata: Metadata) -> DrawnObjects:
    """``gt_boxes``, ``gt_classes`` and ``gt_keypoints`` of one image as :class:`DrawnObjects`."""
    instances = instances.to("cpu")
    keypoints = instances.gt_keypoints.tensor.numpy() if instances.has("gt_keypoints") else None
    return DrawnObjects(
        boxes=instances.gt_boxes.tensor.numpy(),
        **_labelled_keypoints(keypoints),
        labels=_class_labels(instances.gt_classes.tolist(), metadata),
    )


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

    Args:
        image: (H, W, 3) uint8 RGB, as large as the annotations say.
        dataset_dict: Detectron2's standard dict.
        metadata: see ``metadata.picture_metadata``.
        sem_seg: (H, W) class ids of the dataset's own semantic map, if it has one.
        min_long_side: smaller images are enlarged to it (pixels).

    Returns:
        (h, w, 3) uint8 RGB.
    """
    canvas = PictureCanvas(image, metadata, min_long_side)
    picture, crowds = canvas.picture_array, []
    if sem_seg is not None:
        picture = blend_class_map(picture, sem_seg, metadata)
    objects: list[dict[str, Any]] = []
    for annotation in dataset_dict.get("annotations", ()):
        mask = _annotation_mask(annotation, image.shape[:2], str(dataset_dict.get("file_name")))
        if annotation.get("iscrowd", 0):
            crowds.append(mask if mask is not None else _box_mask(annotation, image.shape[:2]))
            continue
        if mask is not None and sem_seg is None:
            mask = style.resize_mask(mask, canvas.size_hw)
            picture = style.blend_color(picture, mask, style.object_color(len(objects)), 0.35)
        objects.append(annotation)
    if crowds:
        crowd = style.resize_mask(np.logical_or.reduce(crowds), canvas.size_hw)
        picture = style.blend_hatching(picture, crowd)
    canvas.set_background(picture)
    canvas.draw_objects(_drawn_annotations(objects, metadata))
    return canvas.picture()


def draw_map(
    image: np.ndarray,
    values: Tensor,
    padded_hw: tuple[int, int],
    *,
    min_long_side: int = style.MIN_LONG_SIDE,
) -> np.ndarray:
    """Blend one map of a head over its image.

    Args:
        image: (H, W, 3) uint8 RGB, the network input without padding.
        values: (h, w) in [0, 1] on the grid of the padded input (any stride).
        padded_hw: (H, W) of the padded network input.
        min_long_side: smaller images are enlarged to it (pixels).

    Returns:
        (h, w, 3) uint8 RGB.
    """
    full = cv2.resize(
        values.detach().float().cpu().numpy(),
        (padded_hw[1], padded_hw[0]),
        interpolation=cv2.INTER_LINEAR,
    )
    height, width = image.shape[:2]
    enlarged = style.enlarge(image, style.zoom_for((height, width), min_long_side))
    return style.blend_heatmap(enlarged, full[:height, :width])


def _shown_labels(instances: Instances | None) -> tuple[Tensor | None, Tensor | None]:
    if instances is None:
        return None, None
    keypoints = instances.gt_keypoints.tensor if instances.has("gt_keypoints") else None
    return instances.gt_classes, keypoints


def _labelled_keypoints(keypoints: np.ndarray | None) -> dict[str, np.ndarray | None]:
    # Visibility: 0 not labelled, 1 labelled but occluded, 2 visible.
    if keypoints is None:
        return {}
    visibility = keypoints[..., 2]
    return {
        "keypoints_xy": keypoints[..., :2],
        "keypoints_shown": visibility > 0,
        "keypoints_hollow": visibility == 1,
    }


def _class_labels(class_ids: list[int], metadata: Metadata) -> list[str]:
    names = metadata.thing_classes
    return ["" if len(names) == 1 else names[class_id] for class_id in class_ids]


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
    return DrawnObjects(
        boxes=np.asarray(boxes, float).reshape(-1, 4),
        **_labelled_keypoints(keypoints),
        labels=_class_labels([x["category_id"] for x in annotations], metadata),
    )


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
