"""Objects: masks that do not fit their boxes, and sizes in the network's input."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T

from d2_multitask.data.labels.base import Label
from d2_multitask.data.labels.instances import BoxLabel
from d2_multitask.data.transforms.build import build_augmentations
from d2_multitask.data.transforms.color import ColorJitter
from d2_multitask.doctor import mend
from d2_multitask.doctor.findings import ERROR, NOTE, WARNING, Finding
from d2_multitask.doctor.tables import Table

# Overlap (IoU) of box and mask's box: of COCO's people 0.8 at least; of other objects less.
MIN_IOU = 0.5
MIN_SHIFT = 3.0  # pixels; in tiny boxes less is rounding
# With more objects below a cell than this the input is too small for the set.
MANY_SMALL, SOME_SMALL = 0.1, 0.01
MAX_SIZES = 300  # image sizes whose resizing is computed, 0.2 ms each; others take the nearest's
DRAWS = 8  # of random resizing; their mean counts


def check(
    cfg: CfgNode, tables: Sequence[Table], labels: Sequence[Label], stride: int
) -> Iterator[Finding]:
    """All checks; sizes where the network learns objects."""
    learns_objects = any(label.key == BoxLabel.key for label in labels)
    for table in tables:
        yield from _masks(table)
        for is_train, is_used in ((True, table.is_train), (False, table.is_test)):
            if is_used and learns_objects:
                yield from _small(cfg, table, stride, is_train)


def _masks(table: Table) -> Iterator[Finding]:
    if bad := table.bad_masks:
        text = "masks that cannot be read; they are left out"
        found = [f"{table.object_name(i)}: {bad[i]}" for i in list(bad)[:3]]
        yield Finding(
            WARNING, "boxes/bad-masks", table.name, text, len(bad), len(table.boxes), found
        )
    boxes, masks = table.boxes, table.mask_boxes
    both = np.isfinite(boxes).all(axis=1) & np.isfinite(masks).all(axis=1) & ~table.crowds
    low, high = np.maximum(boxes, masks)[:, :2], np.minimum(boxes, masks)[:, 2:]
    inner = np.clip(high - low, 0, None).prod(axis=1)
    outer = sum((b[:, 2:] - b[:, :2]).prod(axis=1) for b in (boxes, masks)) - inner
    is_far = np.abs(boxes - masks).max(axis=1) > MIN_SHIFT
    wrong = np.flatnonzero(both & is_far & (inner < MIN_IOU * outer))
    if len(wrong):
        severity = ERROR if len(wrong) > 0.5 * both.sum() else WARNING
        text = "mask and box are in different places: of two objects, or boxes (x1, y1, x2, y2) "
        text += "instead of (x, y, w, h)? If the masks are right, their boxes can be taken"
        found = [
            f"{table.object_name(i)}: found the box {boxes[i].round(1).tolist()}, expected about "
            f"{masks[i].round(1).tolist()} (x1, y1, x2, y2), around the mask"
            for i in wrong[:3]
        ]
        counts, mended = (len(wrong), int(both.sum())), mend.call(mend.boxes_of_masks, table.name)
        yield Finding(severity, "boxes/masks", table.name, text, *counts, found, mended)


def _small(cfg: CfgNode, table: Table, stride: int, is_train: bool) -> Iterator[Finding]:
    known = (table.sizes > 0).all(axis=1)
    usable = np.flatnonzero(
        ~table.crowds & np.isfinite(table.boxes).all(axis=1) & known[table.images]
    )
    if not len(usable):
        return
    of_images = np.zeros(len(known))
    of_images[known] = scales(cfg, table.sizes[known], is_train)
    wh = np.clip(table.boxes[usable, 2:] - table.boxes[usable, :2], 0, None)
    cells = np.sqrt(wh.prod(axis=1)) * of_images[table.images[usable]] / stride
    small = np.flatnonzero(cells < 1)
    if len(small) < SOME_SMALL * len(cells):
        return
    is_much = len(small) > MANY_SMALL * len(cells)
    where = "training" if is_train else "test"
    text = f"objects smaller than a cell of {stride} pixels in the {where} input; the median of "
    text += f"all is {np.median(cells):.1f} cells"
    found = [f"{table.object_name(usable[i])}: a side of {cells[i]:.2f} cells" for i in small[:3]]
    factor = 1 / max(np.quantile(cells, MANY_SMALL / 2), 1e-3)
    mended = _larger_input(cfg, table, is_train, factor) if is_much else ""
    severity, counts = WARNING if is_much else NOTE, (len(small), len(cells))
    yield Finding(severity, "boxes/small", table.name, text, *counts, found, mended)


def scales(cfg: CfgNode, sizes: np.ndarray, is_train: bool) -> np.ndarray:
    """Pixels of the network's input for one of the image: (I, 2) heights and widths -> (I,).

    The config's own resizing, given images of these sizes without pixels; of random resizing the
    mean.
    """
    unique, places, counts = np.unique(sizes, axis=0, return_counts=True, return_inverse=True)
    kept = np.sort(np.argsort(-counts, kind="stable")[:MAX_SIZES])
    resizing = [
        augmentation
        for augmentation in build_augmentations(cfg, is_train)
        if not isinstance(augmentation, T.RandomFlip | ColorJitter)
    ]
    result = np.array([_scale(resizing, *unique[k].tolist()) for k in kept])
    nearest = [np.abs(unique[kept] - size).sum(axis=1).argmin() for size in unique]
    return result[nearest][places.reshape(-1)]


def _scale(resizing: Sequence[T.Augmentation], height: int, width: int) -> float:
    found: list[float] = []
    while len(found) < DRAWS and (len(found) < 2 or found[0] != found[-1]):
        found.append(_drawn_scale(resizing, height, width))
    return float(np.mean(found))


def _drawn_scale(resizing: Sequence[T.Augmentation], height: int, width: int) -> float:
    corners, area = np.array([[0.0, 0.0], [width, 0.0], [0.0, height]]), height * width
    for augmentation in resizing:
        # All pixels are one number in memory; transforms are drawn by the image's size alone.
        transform = augmentation.get_transform(np.broadcast_to(np.uint8(0), (height, width, 3)))
        corners = np.asarray(transform.apply_coords(corners))
        if isinstance(transform, T.CropTransform):  # before the resizing
            height, width = transform.h, transform.w
    (x1, y1), (x2, y2) = corners[1] - corners[0], corners[2] - corners[0]
    return math.sqrt(abs(x1 * y2 - x2 * y1) / area)


def _larger_input(cfg: CfgNode, table: Table, is_train: bool, factor: float) -> str:
    """The keys that set the input's size, for sides that are ``factor`` times as long."""
    given, keys = cfg.INPUT, ("MIN_SIZE_TEST", "MAX_SIZE_TEST")
    shortest, longest = np.median(table.sizes.min(axis=1)), int(table.sizes.max())
    content: dict[str, int | list[int]] = {}
    if is_train and (given.SCALE_CROP.ENABLED or given.RANDOM_RESIZED_CROP.ENABLED):
        crop = "SCALE_CROP" if given.SCALE_CROP.ENABLED else "RANDOM_RESIZED_CROP"
    elif not is_train and given.RESIZE_TEST in ("centernet_fixed", "stretch"):
        crop = "SCALE_CROP" if given.RESIZE_TEST == "centernet_fixed" else "RANDOM_RESIZED_CROP"
    else:
        crop = ""
        old = (given.MIN_SIZE_TEST or shortest, given.MAX_SIZE_TEST)
        if is_train:
            keys, old = ("MIN_SIZE_TRAIN", "MAX_SIZE_TRAIN"), (given.MIN_SIZE_TRAIN, longest)
        elif given.CENTER_CROP_TEST:
            keys, old = ("CENTER_CROP_TEST",), (given.CENTER_CROP_TEST,)
        elif given.RESIZE_TEST == "centernet_keep":
            content, old = {"RESIZE_TEST": "shortest_edge"}, (shortest, longest)
        content |= {key: _larger(sides, factor) for key, sides in zip(keys, old, strict=True)}
    if crop:
        content = {crop: {"SIZE": _larger(given[crop].SIZE, factor)}}
    return mend.as_yaml({"INPUT": content})


def _larger(sides: float | Sequence[float], factor: float) -> int | list[int]:
    """Multiples of 32, the networks' largest stride."""
    larger = (32 * np.ceil(np.array(sides) * factor / 32)).astype(int)
    return larger.tolist()
