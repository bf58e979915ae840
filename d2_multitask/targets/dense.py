"""Labels for every pixel of a padded batch, and what must not be learnt from.

Letters: N images, (H, W) padded network input, (h, w) grid size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def pad_label_maps(
    maps: Sequence[Tensor | None],
    padded_hw: tuple[int, int],
    fill_value: int,
    device: torch.device,
) -> Tensor:
    """Stack label maps of different sizes, top left aligned as ``ImageList`` aligns images.

    Args:
        maps: per image (H_i, W_i) int64 or bool; ``None`` where the image has no such label.
        padded_hw: (H, W) of the padded batch.
        fill_value: value of padding and of missing maps.
        device: where the result lives.

    Returns:
        (N, H, W) int64.

    Raises:
        ValueError: a map is larger than the padded batch.
    """
    batch = torch.full((len(maps), *padded_hw), fill_value, dtype=torch.long, device=device)
    for index, label_map in enumerate(maps):
        if label_map is None:
            continue
        height, width = label_map.shape
        if height > padded_hw[0] or width > padded_hw[1]:
            raise ValueError(
                f"label map of image {index} of the batch: found {height}x{width} (height x "
                f"width), expected at most the padded image's {padded_hw[0]}x{padded_hw[1]}"
            )
        batch[index, :height, :width] = label_map.to(device)
    return batch


def ignored_cells(
    ignore_masks: Sequence[Tensor | None],
    padded_hw: tuple[int, int],
    stride: int,
    device: torch.device,
) -> Tensor:
    """Cells that any ignored pixel (a crowd) touches.

    Args:
        ignore_masks: per image (H_i, W_i) bool, pixels of the network input, or ``None``.
        padded_hw: (H, W) of the padded batch.
        stride: input pixels per cell.
        device: where the result lives.

    Returns:
        (N, 1, h, w) bool with h = ceil(H / stride).
    """
    height, width = padded_hw
    grid = (len(ignore_masks), 1, -(-height // stride), -(-width // stride))
    if all(mask is None for mask in ignore_masks):
        return torch.zeros(grid, dtype=torch.bool, device=device)
    pixels = pad_label_maps(ignore_masks, padded_hw, 0, device)[:, None].float()
    return F.max_pool2d(pixels, stride, ceil_mode=True) > 0


def cells_in_boxes(
    boxes: Tensor, image_index: Tensor, num_images: int, grid_hw: tuple[int, int]
) -> Tensor:
    """Cells whose centre lies in any of the boxes.

    Args:
        boxes: (M, 4) xyxy, stride units.
        image_index: (M,) int64.
        num_images: N.
        grid_hw: (h, w).

    Returns:
        (N, 1, h, w) bool.
    """
    height, width = grid_hw
    # A cell's centre lies at + 0.5. The first cell inside and the first one behind, on each axis.
    x1, y1, x2, y2 = (boxes - 0.5).ceil().long().unbind(1)
    x1, x2, y1, y2 = (
        x1.clamp(0, width),
        x2.clamp(0, width),
        y1.clamp(0, height),
        y2.clamp(0, height),
    )
    # Sums over rows and columns of what begins and ends at the corners count the boxes over a cell.
    corners = boxes.new_zeros((num_images, height + 1, width + 1))
    for y, x, value in ((y1, x1, 1.0), (y1, x2, -1.0), (y2, x1, -1.0), (y2, x2, 1.0)):
        corners.index_put_((image_index, y, x), boxes.new_full((), value), accumulate=True)
    return corners.cumsum(1).cumsum(2)[:, None, :height, :width] > 0.5
