"""Pictures of a masked autoencoder: original, visible patches, reconstruction, error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from d2_multitask.visualization import style
from d2_multitask.visualization.contact_sheet import contact_sheet
from d2_multitask.visualization.targets import rgb_image

CAPTIONS = ("original", "visible patches", "reconstruction", "all patches as predicted", "error")
_REMOVED = 128  # grey of removed patches
_CELL = 224  # pixels


def draw_reconstructions(
    batched_inputs: Sequence[dict[str, Any]],
    results: Sequence[dict[str, Any]],
    *,
    input_format: str = "RGB",
    cell_width: int = _CELL,
) -> np.ndarray:
    """One row per image.

    Args:
        batched_inputs: what the network was called with.
        results: what it returned in evaluation mode, see `MaskedAutoencoder.inference`.
        input_format: ``INPUT.FORMAT``.
        cell_width: width of a picture in the sheet.

    Returns:
        (H, W, 3) uint8 RGB: the columns of `CAPTIONS`. In "reconstruction" the visible patches are
        the original's; the error is shown as its root, yellow = the largest of the image.
    """
    pictures, captions = [], []
    for batched_input, result in zip(batched_inputs, results, strict=True):
        pictures += reconstruction_pictures(batched_input, result, input_format)
        captions += CAPTIONS
    return contact_sheet(pictures, captions, columns=len(CAPTIONS), cell_width=cell_width, gap=6)


def reconstruction_pictures(
    batched_input: dict[str, Any], result: dict[str, Any], input_format: str = "RGB"
) -> list[np.ndarray]:
    """The pictures of one row, each (H, W, 3) uint8 RGB, in the order of `CAPTIONS`."""
    original = rgb_image(batched_input, input_format)
    predicted = rgb_image({"image": result["reconstruction"].round()}, input_format)
    height, width = original.shape[:2]
    mask = result["patch_mask"].cpu().numpy()
    removed = np.kron(mask, np.ones((height // mask.shape[0], width // mask.shape[1]), bool))
    seen = original.copy()
    seen[removed] = _REMOVED
    completed = original.copy()
    completed[removed] = predicted[removed]
    error = result["patch_error"].float().clamp(min=0).sqrt().cpu().numpy()
    shades = np.uint8(255 * error / max(float(error.max()), 1e-12))
    colors = cv2.applyColorMap(shades, style.HEATMAP_COLORS)[..., ::-1]
    colors = cv2.resize(colors, (width, height), interpolation=cv2.INTER_NEAREST)
    return [original, seen, completed, predicted, np.ascontiguousarray(colors)]
