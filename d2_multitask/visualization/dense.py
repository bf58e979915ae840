"""Pictures of labels and results that cover the whole image: parts, boundaries, occlusion, classes,
foreground.

The same functions draw labels (ids, 0/1, unit vectors) and results (scores, probabilities, vectors
of any length); maps may have another size than the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import Metadata
from torch import Tensor

from d2_multitask.evaluation.boundary.thinning import thin
from d2_multitask.visualization import style
from d2_multitask.visualization.predictions import class_map

# One colour per part, from the head to the lower legs; then the palette of classes goes on.
PART_COLORS: tuple[tuple[int, int, int], ...] = (
    (255, 92, 92),
    (255, 205, 60),
    (110, 225, 110),
    (60, 200, 235),
    (110, 120, 255),
    (235, 110, 235),
)
BOUNDARY_COLOR = (255, 255, 255)
FRONT_COLOR, BACK_COLOR = (255, 190, 40), (40, 110, 255)
OCCLUSION_THRESHOLD = 0.5
IMAGE_LABEL_THRESHOLD = 0.5
_DIMMED = 0.45
_SHADE_PIXELS = 5  # width of the shading on each side of an occlusion boundary


def draw_dense(
    image: np.ndarray,
    entry: Mapping[str, Any],
    metadata: Metadata | None = None,
    *,
    ignore_value: int = 255,
    min_long_side: int = style.MIN_LONG_SIDE,
) -> dict[str, np.ndarray]:
    """A picture of each whole-image label or result that an image has.

    ``entry``: the mapper's dict or a model's result, with any of ``part_seg`` ((H, W) ids or (C, H,
    W) scores), ``boundary`` (H, W), ``occlusion`` (2, H, W), ``image_labels`` (C,), ``foreground``
    (H, W). ``metadata``: ``stuff_classes`` name the image labels.

    Returns:
        Caption -> (h, w, 3) uint8 RGB, in a fixed order; empty if there is no such label.
    """
    large = style.enlarge(image, min_long_side)
    pictures = {}
    if "foreground" in entry:
        foreground = _array(entry["foreground"])
        pictures["foreground"] = draw_foreground(large, foreground, ignore_value)
    if "part_seg" in entry:
        pictures["parts"] = draw_parts(large, entry["part_seg"], ignore_value)
    if "boundary" in entry:
        pictures["boundary"] = draw_boundary(large, _array(entry["boundary"]), ignore_value)
    if "occlusion" in entry:
        pictures["occlusion"] = draw_occlusion(large, _array(entry["occlusion"]))
    if "image_labels" in entry:
        names = None if metadata is None else metadata.get("stuff_classes")
        pictures["classes"] = draw_image_labels(large, _array(entry["image_labels"]), names)
    return pictures


def draw_parts(
    image: np.ndarray, part_seg: Tensor | np.ndarray, ignore_value: int = 255
) -> np.ndarray:
    """Tint each human part in a colour of its own; people without part labels are hatched.

    ``part_seg``: (h, w) ids with 0 = background, or (C, h, w) scores.
    """
    scores = torch.as_tensor(part_seg)
    size = image.shape[:2]
    ids = class_map(scores, size) if scores.dim() == 3 else scores.cpu().numpy()
    return style.blend_labels(image, ids, part_color, ignore_value=ignore_value, alpha=0.6)


def part_color(part: int) -> tuple[int, int, int]:
    """RGB colour of a part, counted from 1."""
    number = part - 1
    return PART_COLORS[number] if number < len(PART_COLORS) else style.class_color(number)


def draw_foreground(
    image: np.ndarray, foreground: np.ndarray, ignore_value: int = 255
) -> np.ndarray:
    """Tint and outline what is foreground with probability 0.5 or more; the rest is dimmed.

    ``foreground``: (h, w) probability in [0, 1], or ids 0, 1 and ``ignore_value``.
    """
    height, width = image.shape[:2]
    values, ignored = _without_ignored(foreground, ignore_value)
    mask = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR) >= 0.5
    picture = np.where(mask[..., None], image, image * _DIMMED).astype(np.uint8)
    picture = style.blend_color(picture, mask, style.class_color(0), alpha=0.35)
    return _hatched(picture, ignored)


def draw_boundary(image: np.ndarray, boundary: np.ndarray, ignore_value: int = 255) -> np.ndarray:
    """White lines on the dimmed image, the brighter the more certain.

    ``boundary``: (h, w) probability in [0, 1], or ids 0, 1 and ``ignore_value``.
    """
    values, ignored = _without_ignored(boundary, ignore_value)
    cover = _spread(values, image.shape[:2])[..., None]
    picture = image * (_DIMMED * (1 - cover)) + np.array(BOUNDARY_COLOR, np.float32) * cover
    return _hatched(picture.clip(0, 255).astype(np.uint8), ignored)


def _without_ignored(values: np.ndarray, ignore_value: int) -> tuple[np.ndarray, np.ndarray]:
    """Values in [0, 1], 0 where they are ignored; and where that is."""
    ignored = values == ignore_value
    return np.where(ignored, 0, values).astype(np.float32).clip(0, 1), ignored


def _hatched(picture: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    if not ignored.any():
        return picture
    return style.blend_hatching(picture, style.resize_mask(ignored, picture.shape[:2]))


def draw_occlusion(image: np.ndarray, occlusion: np.ndarray) -> np.ndarray:
    """Shade the front object's side of each boundary orange and the other blue; arrows point to
    the front object.

    ``occlusion``: (2, h, w) vectors (x, y), y down, towards the object in front, as long as the
    boundary is probable; drawn in the middle of what is longer than 0.5.
    """
    height, width = image.shape[:2]
    rows, columns, directions = _vectors(occlusion)
    scale = np.array([width / occlusion.shape[2], height / occlusion.shape[1]])
    xy = (np.stack([columns, rows], axis=1) + 0.5) * scale
    unit = style.line_width((height, width))
    picture = image.astype(np.float32) * _DIMMED
    reach = np.arange(0.5, _SHADE_PIXELS, 0.5) * unit
    for sign, color in ((-1, BACK_COLOR), (1, FRONT_COLOR)):
        points = xy[:, None] + sign * reach[:, None] * directions[:, None]
        mask = np.zeros((height, width), dtype=np.uint8)
        pixels = np.floor(points.reshape(-1, 2)).astype(int)
        inside = ((pixels >= 0) & (pixels < (width, height))).all(axis=1)
        mask[pixels[inside, 1], pixels[inside, 0]] = 1
        mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
        picture[mask > 0] = 0.35 * picture[mask > 0] + 0.65 * np.array(color, np.float32)
    picture = np.ascontiguousarray(picture.clip(0, 255).astype(np.uint8))
    spacing = max(round(9 * unit / scale.max()), 1)
    chosen = _spaced(rows, columns, spacing)
    for (x, y), (dx, dy) in zip(xy[chosen], directions[chosen] * 10 * unit, strict=True):
        ends = (round(x), round(y)), (round(x + dx), round(y + dy))
        width_px = max(round(unit), 1)
        cv2.arrowedLine(picture, *ends, (255, 255, 255), width_px, cv2.LINE_AA, tipLength=0.4)
    return picture


def draw_image_labels(
    image: np.ndarray, labels: np.ndarray, names: Sequence[str] | None = None
) -> np.ndarray:
    """Write the names of the classes that are present over the dimmed image, most likely first.

    ``labels``: (C,) probability, or 0 and 1. ``names``: of the C classes; numbers if there are none
    or another number of them.
    """
    names = list(names) if names is not None and len(names) == len(labels) else None
    order = np.argsort(-labels, kind="stable")
    shown = [int(i) for i in order if labels[i] >= IMAGE_LABEL_THRESHOLD]
    is_certain = bool(np.isin(labels, (0, 1)).all())
    picture = np.ascontiguousarray((image * _DIMMED).astype(np.uint8))
    size = style.line_width(image.shape[:2]) * 0.28
    step = round(size * 44)
    for line, index in enumerate(shown):
        text = names[index] if names else f"class {index}"
        text += "" if is_certain else f" {labels[index]:.0%}"
        place, thick = (round(size * 16), (line + 1) * step), max(round(size * 2), 1)
        cv2.putText(
            picture,
            text,
            place,
            cv2.FONT_HERSHEY_SIMPLEX,
            size,
            (255, 255, 255),
            thick,
            cv2.LINE_AA,
        )
    return picture


def _vectors(occlusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns of the pixels on a boundary, and their unit vectors (n, 2)."""
    length = np.sqrt((occlusion.astype(np.float64) ** 2).sum(axis=0))
    rows, columns = np.nonzero(thin(length > OCCLUSION_THRESHOLD))
    return rows, columns, (occlusion[:, rows, columns] / length[rows, columns]).T


def _spaced(rows: np.ndarray, columns: np.ndarray, spacing: int) -> np.ndarray:
    """One pixel of each square of the grid that has any."""
    cells = np.stack([rows // spacing, columns // spacing], axis=1)
    return np.unique(cells, axis=0, return_index=True)[1] if len(cells) else np.zeros(0, int)


def _spread(values: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Resize thin lines without losing them: the largest value that falls on a pixel counts."""
    height, width = size_hw
    if values.shape[0] > height:
        values = cv2.dilate(values, np.ones((3, 3), np.uint8))
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)


def _array(values: Tensor | np.ndarray) -> np.ndarray:
    return torch.as_tensor(values).detach().float().cpu().numpy()
