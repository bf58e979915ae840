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
    name, bad, boxes, masks = table.name, table.bad_masks, table.boxes, table.mask_boxes
    if bad:
        text, counts = "masks that cannot be read; they are left out", (len(bad), len(boxes))
        found = [f"{table.object_name(i)}: {bad[i]}" for i in list(bad)[:3]]
        yield Finding(WARNING, "boxes/bad-masks", name, text, *counts, found)
    both = np.isfinite(boxes).all(axis=1) & np.isfinite(masks).all(axis=1) & ~table.crowds
    low, high = np.maximum(boxes, masks)[:, :2], np.minimum(boxes, masks)[:, 2:]
    inner = np.clip(high - low, 0, None).prod(axis=1)
    outer = sum((b[:, 2:] - b[:, :2]).prod(axis=1) for b in (boxes, masks)) - inner
    is_far = np.abs(boxes - masks).max(axis=1) > MIN_SHIFT
    wrong, number = np.flatnonzero(both & is_far & (inner < MIN_IOU * outer)), int(both.sum())
    if len(wrong):
        text = "mask and box are in different places: of two objects, or boxes (x1, y1, x2, y2) "
        text += "instead of (x, y, w, h)? If the masks are right, their boxes can be taken"
        found = [
            f"{table.object_name(i)}: found the box {boxes[i].round(1).tolist()}, expected about "
            f"{masks[i].round(1).tolist()} (x1, y1, x2, y2), around the mask"
            for i in wrong[:3]
        ]
        severity = ERROR if len(wrong) > 0.5 * number else WARNING
        mended = mend.rewriting(name, boxes_of_masks=True)
        yield Finding(severity, "boxes/masks", name, text, len(wrong), number, found, mended)


def _small(cfg: CfgNode, table: Table, stride: int, is_train: bool) -> Iterator[Finding]:
    known = (table.sizes > 0).all(axis=1)
    usable = ~table.crowds & np.isfinite(table.boxes).all(axis=1) & known[table.images]
    if not usable.any():
        return
    of_images = np.zeros(len(known))
    of_images[known] = scales(cfg, table.sizes[known], is_train)
    wh = np.clip(table.boxes[usable, 2:] - table.boxes[usable, :2], 0, None)
    cells = np.sqrt(wh.prod(axis=1)) * of_images[table.images[usable]] / stride
    small, objects = np.flatnonzero(cells < 1), np.flatnonzero(usable)
    if len(small) < SOME_SMALL * len(cells):
        return
    is_much, where = len(small) > MANY_SMALL * len(cells), "training" if is_train else "test"
    text = f"objects smaller than a cell of {stride} pixels in the {where} input; the median of "
    text += f"all is {np.median(cells):.1f} cells"
    found = [f"{table.object_name(objects[i])}: a side of {cells[i]:.2f} cells" for i in small[:3]]
    factor = 1 / max(np.quantile(cells, MANY_SMALL / 2), 1e-3)
    mended = _larger_input(cfg, table, is_train, factor) if is_much else ""
    severity, counts = WARNING if is_much else NOTE, (len(small), len(cells))
    yield Finding(severity, "boxes/small", table.name, text, *counts, found, mended)


def scales(cfg: CfgNode, sizes: np.ndarray, is_train: bool) -> np.ndarray:
    """Pixels of the network's input for one of the image: (I, 2) heights and widths -> (I,).

    The config's own resizing of images without pixels; of random resizing the mean.
    """
    unique, places, counts = np.unique(sizes, axis=0, return_counts=True, return_inverse=True)
    kept = np.argsort(-counts, kind="stable")[:MAX_SIZES]
    chosen = build_augmentations(cfg, is_train)
    chosen = [a for a in chosen if not isinstance(a, T.RandomFlip | ColorJitter)]
    draws = [[_drawn_scale(chosen, *unique[k].tolist()) for _ in range(DRAWS)] for k in kept]
    nearest = [np.abs(unique[kept] - size).sum(axis=1).argmin() for size in unique]
    return np.mean(draws, axis=1)[nearest][places.reshape(-1)]


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
    given, shortest, longest = cfg.INPUT, table.sizes.min(axis=1), int(table.sizes.max())
    crops = {"centernet_fixed": "SCALE_CROP", "stretch": "RANDOM_RESIZED_CROP"}
    crop = crops.get("" if is_train else given.RESIZE_TEST, "")
    crop = next((c for c in crops.values() if is_train and given[c].ENABLED), crop)
    old = {"MIN_SIZE_TEST": given.MIN_SIZE_TEST or np.median(shortest)}
    old["MAX_SIZE_TEST"] = max(given.MAX_SIZE_TEST, longest)
    if is_train:
        old = {"MIN_SIZE_TRAIN": given.MIN_SIZE_TRAIN, "MAX_SIZE_TRAIN": longest}
    elif given.CENTER_CROP_TEST:
        crop, old = "", {"CENTER_CROP_TEST": given.CENTER_CROP_TEST}
    if crop:
        old = {"SIZE": given[crop].SIZE}
    # Multiples of 32, the networks' largest stride.
    new = {
        k: (32 * np.ceil(np.array(v) * factor / 32)).astype(int).tolist() for k, v in old.items()
    }
    if not is_train and given.RESIZE_TEST == "centernet_keep":
        new["RESIZE_TEST"] = "shortest_edge"
    return mend.as_yaml({"INPUT": {crop: new} if crop else new})
