"""Colours, sizes and blending of all pictures, as pure NumPy functions."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from d2_multitask.runtime.palette import (
    CLASS_COLORS,
    MIN_LONG_SIDE,
    OBJECT_COLORS,
    class_color,
    line_width,
    object_color,
)

__all__ = ["CLASS_COLORS", "OBJECT_COLORS", "class_color", "object_color"]

# Dark and light in turn, so that one of them is seen on any ground.
STRIPE_GREYS: tuple[int, int] = (60, 170)
HEATMAP_COLORS = cv2.COLORMAP_PLASMA


def enlarge(image: np.ndarray, min_long_side: int = MIN_LONG_SIDE) -> np.ndarray:
    """Enlarge (H, W, 3) uint8 until its longer side has ``min_long_side`` pixels; always a copy."""
    zoom = min_long_side / max(image.shape[:2])
    if zoom <= 1:
        return np.ascontiguousarray(image).copy()
    height, width = (max(round(side * zoom), 1) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)


def resize_mask(mask: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Resize (H, W) bool to (h, w) with smooth borders, unlike nearest neighbours."""
    if mask.shape == tuple(size_hw):
        return mask
    size_wh = (size_hw[1], size_hw[0])
    return cv2.resize(mask.astype(np.float32), size_wh, interpolation=cv2.INTER_LINEAR) >= 0.5


def blend_color(
    image: np.ndarray, mask: np.ndarray, color: tuple[int, int, int], alpha: float = 0.45
) -> np.ndarray:
    """Tint the pixels of ``mask`` and draw its outline."""
    if not mask.any():
        return image.copy()
    # Blurring by about a pixel smooths the staircase of the mask's border.
    cover = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.8)[..., None] * alpha
    blended = image * (1 - cover) + np.asarray(color, np.float32) * cover
    blended = blended.clip(0, 255).astype(np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    lighter = tuple(int(channel + 0.45 * (255 - channel)) for channel in color)
    width = max(round(line_width(image.shape[:2]) * 0.6), 1)
    return cv2.drawContours(blended, outlines, -1, lighter, width, cv2.LINE_AA)


def blend_hatching(image: np.ndarray, mask: np.ndarray, alpha: float = 0.55) -> np.ndarray:
    """Draw grey diagonal stripes over the ignored pixels ``mask`` (H, W) bool."""
    height, width = mask.shape
    period = max(round(line_width((height, width)) * 8), 4)
    stripes = (np.add.outer(np.arange(height), np.arange(width)) // (period // 2)) % 2 == 0
    color = np.where(stripes, *STRIPE_GREYS)[..., None]
    cover = (mask * alpha)[..., None]
    return (image * (1 - cover) + color * cover).clip(0, 255).astype(np.uint8)


def blend_labels(
    image: np.ndarray,
    labels: np.ndarray,
    color: Callable[[int], tuple[int, int, int]],
    *,
    first: int = 1,
    ignore_value: int = 255,
    alpha: float = 0.45,
) -> np.ndarray:
    """Tint each label in its colour, and hatch what is ignored.

    ``labels``: (h, w) ids, at the size of the image or another. ``color``: id -> RGB. ``first``:
    lower ids are left uncoloured.
    """
    blended = image.copy()
    for label in np.unique(labels).tolist():
        if label < first:
            continue
        mask = resize_mask(labels == label, image.shape[:2])
        if label == ignore_value:
            blended = blend_hatching(blended, mask)
        else:
            blended = blend_color(blended, mask, color(label), alpha)
    return blended


def blend_heatmap(image: np.ndarray, heatmap: np.ndarray, alpha: float = 0.75) -> np.ndarray:
    """Blend a map in [0, 1] over a dimmed grey version of the image.

    ``heatmap``: (h, w) float in [0, 1]; it is stretched over the whole image. NaN counts as 0.
    ``alpha``: cover of the map where it is 1.
    """
    height, width = image.shape[:2]
    values = np.nan_to_num(heatmap.astype(np.float32)).clip(0, 1)
    values = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)
    colored = cv2.applyColorMap((values * 255).astype(np.uint8), HEATMAP_COLORS)[..., ::-1]
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] * 0.6
    # The square root keeps the flanks of a Gaussian visible without covering what is near zero.
    cover = np.sqrt(values)[..., None] * alpha
    return (grey * (1 - cover) + colored * cover).clip(0, 255).astype(np.uint8)
