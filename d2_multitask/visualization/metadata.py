"""Names of classes, keypoints and limbs, generic ones where the dataset is not known."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata
from detectron2.data.datasets.builtin_meta import (
    COCO_PERSON_KEYPOINT_NAMES,
    KEYPOINT_CONNECTION_RULES,
)
from torch import Tensor

from d2_multitask.data.datasets.catalog import loaded_metadata
from d2_multitask.modeling.rcnn import MultitaskRCNN

logger = logging.getLogger(__name__)

BACKGROUND = "background"
# The edges of COCO's skeleton that Detectron2's rules leave out: without them no torso is drawn.
_TORSO = (
    ("left_shoulder", "left_hip"),
    ("right_shoulder", "right_hip"),
    ("left_ear", "left_shoulder"),
    ("right_ear", "right_shoulder"),
)
_LIMB_COLOR = (255, 255, 255)


def dataset_metadata(cfg: CfgNode) -> Metadata:
    """The metadata of the first dataset of ``DATASETS.TEST``, else of ``DATASETS.TRAIN``.

    A dataset's own JSON is read if only it tells the names. Pictures must be possible where the
    data is not: a dataset that is unknown or cannot be read is skipped with a warning, and if none
    is left the metadata is empty.
    """
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        if name not in DatasetCatalog:
            continue
        try:
            return loaded_metadata(name)
        except (ValueError, OSError, KeyError) as error:
            logger.warning("No names from dataset %r, which cannot be read: %s", name, error)
    return Metadata()


def picture_metadata(
    metadata: Metadata | None = None,
    *,
    num_classes: int | None = None,
    num_keypoints: int | None = None,
    num_sem_seg_classes: int | None = None,
) -> Metadata:
    """Metadata with every name that drawing needs; generic names replace what is missing.

    Args:
        metadata: of the dataset, as far as it is known.
        num_classes: object classes of the network; names of another number (of another dataset)
            are replaced. ``None`` takes the names as they are, one class if there are none.
        num_keypoints: keypoints of an object, likewise; 17 (COCO's) if there are no names.
        num_sem_seg_classes: classes of the semantic map, likewise; background and the object
            classes if there are no names.

    Returns:
        New metadata: ``thing_classes``, ``stuff_classes``, ``keypoint_names``,
        ``keypoint_connection_rules`` and, if the dataset tells it,
        ``thing_dataset_id_to_contiguous_id``.
    """
    known = metadata if metadata is not None else Metadata()
    things = _names(known.get("thing_classes"), num_classes)
    things = things or [f"class {i}" for i in range(num_classes or 1)]
    stuff = _names(known.get("stuff_classes"), num_sem_seg_classes)
    if stuff is None and num_sem_seg_classes in (None, len(things) + 1):
        stuff = [BACKGROUND, *things]
    stuff = stuff or [f"class {i}" for i in range(num_sem_seg_classes or 2)]
    keypoints = _names(known.get("keypoint_names"), num_keypoints)
    rules = known.get("keypoint_connection_rules") if keypoints else None
    if not keypoints:
        is_coco = num_keypoints in (None, len(COCO_PERSON_KEYPOINT_NAMES))
        keypoints = list(COCO_PERSON_KEYPOINT_NAMES) if is_coco else None
        keypoints = keypoints or [f"keypoint {i}" for i in range(num_keypoints or 0)]
        rules = KEYPOINT_CONNECTION_RULES if is_coco else None
    picture = Metadata(
        thing_classes=things,
        stuff_classes=stuff,
        keypoint_names=keypoints,
        keypoint_connection_rules=_with_torso(keypoints, rules or ()),
    )
    if known.get("thing_dataset_id_to_contiguous_id"):
        picture.thing_dataset_id_to_contiguous_id = known.thing_dataset_id_to_contiguous_id
    return picture


def metadata_for(
    metadata: Metadata | None,
    class_ids: Tensor | None = None,
    keypoints: Tensor | np.ndarray | None = None,
    num_sem_seg_classes: int | None = None,
) -> Metadata:
    """:func:`picture_metadata` that fits what one image shows, whatever dataset it comes from.

    Args:
        metadata: of the dataset, as far as it is known.
        class_ids: (n,) contiguous classes of the objects.
        keypoints: (n, K, ...) keypoints of the objects.
        num_sem_seg_classes: classes of the semantic map.
    """
    names = metadata.get("thing_classes") if metadata is not None else None
    highest = int(class_ids.max()) if class_ids is not None and len(class_ids) else 0
    return picture_metadata(
        metadata,
        num_classes=None if names and highest < len(names) else highest + 1,
        num_keypoints=None if keypoints is None else keypoints.shape[1],
        num_sem_seg_classes=num_sem_seg_classes,
    )


def is_rcnn(cfg: CfgNode) -> bool:
    """Whether objects and keypoints come from Detectron2's heads on regions."""
    return cfg.MODEL.META_ARCHITECTURE == MultitaskRCNN.__name__


def cfg_metadata(cfg: CfgNode, names: Metadata | None = None) -> Metadata:
    """:func:`picture_metadata` of the dataset and the network that ``cfg`` describes.

    Args:
        cfg: the config.
        names: of the dataset, from a weight file; ``None`` = :func:`dataset_metadata`.
    """
    model = cfg.MODEL
    objects, keypoints = (
        (model.ROI_HEADS, model.ROI_KEYPOINT_HEAD)
        if is_rcnn(cfg)
        else (model.CENTER_HEAD, model.POSE_HEAD)
    )
    return picture_metadata(
        dataset_metadata(cfg) if names is None else names,
        num_classes=objects.NUM_CLASSES,
        num_keypoints=keypoints.NUM_KEYPOINTS,
        num_sem_seg_classes=model.SEM_SEG_HEAD.NUM_CLASSES,
    )


def limbs(metadata: Metadata) -> list[tuple[int, int]]:
    """The pairs of keypoint indices that are joined by a line."""
    index = {name: i for i, name in enumerate(metadata.get("keypoint_names") or ())}
    rules = metadata.get("keypoint_connection_rules") or ()
    return [(index[a], index[b]) for a, b, _ in rules if a in index and b in index]


def _names(names: Sequence[str] | None, count: int | None) -> list[str] | None:
    return list(names) if names and count in (None, len(names)) else None


def _with_torso(
    names: Sequence[str], rules: Sequence[tuple[str, str, tuple[int, int, int]]]
) -> list[tuple[str, str, tuple[int, int, int]]]:
    present = {frozenset(rule[:2]) for rule in rules}
    extra = [
        (a, b, _LIMB_COLOR)
        for a, b in _TORSO
        if rules and a in names and b in names and frozenset((a, b)) not in present
    ]
    return [*rules, *extra]
