"""One image's result as a picture: class colours, boxes and skeletons."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.structures import Instances
from torch import Tensor

from d2_multitask.runtime.model_info import DrawInfo
from d2_multitask.visualization import style
from d2_multitask.visualization.canvas import DrawnObjects, draw_objects
from d2_multitask.visualization.metadata import BACKGROUND, metadata_for

CONFIDENCE_THRESHOLD = DrawInfo.confidence_threshold
KEYPOINT_THRESHOLD = DrawInfo.keypoint_threshold
# An R-CNN's keypoint scores share out 1 over all of the object's box; Detectron2's own threshold.
RCNN_KEYPOINT_THRESHOLD = 0.05


def draw_result(
    image: np.ndarray,
    result: dict[str, Any],
    metadata: Metadata | None = None,
    *,
    confidence_threshold: float = CONFIDENCE_THRESHOLD,
    keypoint_threshold: float = KEYPOINT_THRESHOLD,
    draw_boxes: bool = True,
    min_long_side: int = style.MIN_LONG_SIDE,
) -> np.ndarray:
    """Draw what the network found.

    ``result``: one entry of the model's output, at the size of ``image``: ``instances`` with
    ``pred_boxes``, ``scores``, ``pred_classes`` and, if any, ``pred_keypoints`` (n, K, 3) and
    ``pred_masks`` (n, H, W) bool, drawn in the colours of the objects; ``sem_seg`` (num_classes, H,
    W) scores. Each is optional. ``confidence_threshold``: objects
    below it are not drawn. ``keypoint_threshold``: keypoints below it, and the limbs that end
    there, are not drawn. ``draw_boxes``: whether boxes are drawn; without a box head they are just
    the keypoints' hull.
    """
    instances, sem_seg = result.get("instances"), result.get("sem_seg")
    metadata = metadata_for(
        metadata,
        class_ids=None if instances is None else instances.pred_classes,
        keypoints=_keypoints(instances),
        num_sem_seg_classes=None if sem_seg is None else len(sem_seg),
    )
    picture = style.enlarge(image, min_long_side)
    if sem_seg is not None:
        picture = blend_class_map(picture, class_map(sem_seg, picture.shape[:2]), metadata)
    if instances is not None:
        chosen = confident(instances, confidence_threshold)
        if chosen.has("pred_masks") and len(chosen):
            plain = style.enlarge(image, min_long_side)
            picture = blend_instance_masks(plain, picture, chosen.pred_masks.numpy())
        objects = drawn_results(chosen, metadata, keypoint_threshold, draw_boxes)
        picture = draw_objects(picture, objects, metadata, image.shape[:2])
    return picture


def confident(instances: Instances, threshold: float) -> Instances:
    """The objects that score at least ``threshold``, on the CPU, best first."""
    instances = instances.to("cpu")
    order = instances.scores.argsort(descending=True, stable=True)
    return instances[order[instances.scores[order] >= threshold]]


def drawn_results(
    instances: Instances, metadata: Metadata, keypoint_threshold: float, draw_boxes: bool = True
) -> DrawnObjects:
    """Results of one image as :class:`DrawnObjects`; a single class is not named in the labels."""
    keypoints = _keypoints(instances)
    keypoints = None if keypoints is None else keypoints.detach().numpy()
    names = metadata.thing_classes
    labels = [
        f"{score:.0%}" if len(names) == 1 else f"{names[class_id]} {score:.0%}"
        for score, class_id in zip(
            instances.scores.tolist(), instances.pred_classes.tolist(), strict=True
        )
    ]
    return DrawnObjects(
        boxes=instances.pred_boxes.tensor.detach().numpy() if draw_boxes else None,
        keypoints_xy=None if keypoints is None else keypoints[..., :2],
        keypoints_shown=None if keypoints is None else keypoints[..., 2] >= keypoint_threshold,
        labels=labels,
    )


def class_map(sem_seg: Tensor, size_hw: tuple[int, int]) -> np.ndarray:
    """The best class of each pixel.

    Args:
        sem_seg: (num_classes, H, W) scores; they are resized, not the classes, so that borders stay
            smooth.
        size_hw: (h, w) of the map.

    Returns:
        (h, w) int64.
    """
    scores = sem_seg.detach().float().cpu()
    if tuple(scores.shape[1:]) != tuple(size_hw):
        scores = torch.nn.functional.interpolate(
            scores[None], size=tuple(size_hw), mode="bilinear", align_corners=False
        )[0]
    return scores.max(0).indices.numpy()  # ten times faster than argmax


def blend_class_map(
    image: np.ndarray, classes: np.ndarray, metadata: Metadata, ignore_value: int = 255
) -> np.ndarray:
    """`style.blend_labels` of classes (h, w); a first class "background" is left uncoloured."""
    first = 1 if metadata.stuff_classes[0] == BACKGROUND else 0
    return style.blend_labels(
        image,
        classes,
        lambda class_id: style.class_color(class_id - first),
        first=first,
        ignore_value=ignore_value,
    )


def blend_instance_masks(image: np.ndarray, picture: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """``picture`` with the objects' masks, each pixel in the colour of the first that has it.

    ``image``: (h, w, 3) uint8 RGB, what is tinted. ``picture``: (h, w, 3), what is shown where no
    mask is. ``masks``: (n, H, W) bool.
    """
    covered = masks.any(0)
    owners = np.where(covered, masks.argmax(0) + 1, 0)
    tinted = style.blend_labels(
        image, owners, lambda number: style.object_color(number - 1), ignore_value=-1
    )
    return np.where(style.resize_mask(covered, image.shape[:2])[..., None], tinted, picture)


def _keypoints(instances: Instances | None) -> Tensor | None:
    has_keypoints = instances is not None and instances.has("pred_keypoints")
    return instances.pred_keypoints if has_keypoints else None
