"""Images -> network input: the same resizing and padding as in training, with Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from d2_multitask.runtime.model_info import InputInfo

Size = tuple[int, int]

FILTERS = {
    "shortest_edge": Image.Resampling.BILINEAR,
    "stretch": Image.Resampling.BICUBIC,
    "center_crop": Image.Resampling.BICUBIC,
}
# Sides of CenterNet's frames: the next multiple above the image's, also of a multiple.
FRAME_DIVISOR = 32


def check_image(image: Any) -> None:
    """Refuse what is no image.

    Raises:
        ValueError: not an array (H, W, 3) of uint8, or without any pixel.
    """
    if not isinstance(image, np.ndarray):
        found = type(image).__name__
    elif image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        found = f"an array of shape {image.shape} and type {image.dtype}"
    else:
        return
    raise ValueError(f"image: found {found}, expected an array (H, W, 3) of uint8, BGR, not empty")


def input_size(image_size: Size, info: InputInfo) -> Size:
    """(h, w) of the network input for an image of ``image_size``, before padding."""
    if info.resize in ("stretch", "center_crop"):
        return info.size
    if info.resize == "centernet_keep":
        height, width = (side // FRAME_DIVISOR * FRAME_DIVISOR for side in image_size)
        return height + FRAME_DIVISOR, width + FRAME_DIVISOR
    if info.min_size == 0:
        return image_size
    # Detectron2's ResizeShortestEdge.get_output_shape, with its rounding; no side becomes 0.
    height, width = image_size
    short = float(info.min_size)
    scale = short / min(height, width)
    new_h, new_w = (short, scale * width) if height < width else (scale * height, short)
    if max(new_h, new_w) > info.max_size:
        scale = info.max_size * 1.0 / max(new_h, new_w)
        new_h, new_w = new_h * scale, new_w * scale
    return max(int(new_h + 0.5), 1), max(int(new_w + 0.5), 1)


def image_window(image_size: Size, info: InputInfo) -> tuple[int, int, int, int]:
    """y, x, h, w: where an image lies in the network input, which it fills but for its frame."""
    height, width = input_size(image_size, info)
    if info.resize != "centernet_keep":
        return 0, 0, height, width
    y, x = height // 2 - image_size[0] // 2, width // 2 - image_size[1] // 2
    return y, x, *image_size


def network_input(images: Sequence[np.ndarray], info: InputInfo) -> tuple[np.ndarray, np.ndarray]:
    """Resize each image and put all into one array, each at the top left.

    Args:
        images: (H, W, 3) uint8 BGR each, of any sizes.
        info: what the network wants.

    Returns:
        (N, H, W, 3) uint8, and (N, 2) int32, the sizes (h, w) without padding.

    Raises:
        ValueError: what is no image; larger than a network of a fixed size takes.
    """
    for image in images:
        check_image(image)
    sizes = np.array([input_size(image.shape[:2], info) for image in images], np.int32)
    largest = sizes.max(0)
    if info.square:
        if largest.max() > info.square:
            raise ValueError(
                f"image: found {largest.tolist()} (height, width) after resizing, expected at most "
                f"{info.square}, the size of this network's input"
            )
        largest = np.array([info.square, info.square])
    padded = -(-largest // info.divisor) * info.divisor
    batch = np.zeros((len(images), *padded, 3), np.uint8)
    for place, image, size in zip(batch, images, sizes.tolist(), strict=True):
        pixels = _resized(image, tuple(size), info)
        if info.format == "RGB":
            pixels = pixels[:, :, ::-1]
        y, x, height, width = image_window(image.shape[:2], info)
        place[y : y + height, x : x + width] = pixels
    return batch, sizes


def _resized(image: np.ndarray, size: Size, info: InputInfo) -> np.ndarray:
    """(h, w, 3): the image, or its middle, at ``size``; not framed yet."""
    (height, width), box = image.shape[:2], None
    if info.resize == "centernet_keep" or (height, width) == size:
        return image
    if info.resize == "center_crop":
        ratio = size[1] / size[0]
        w, h = min(width, height * ratio), min(height, width / ratio)
        x0, y0 = (width - w) / 2, (height - h) / 2
        box = (x0, y0, x0 + w, y0 + h)
    return np.asarray(Image.fromarray(image).resize(size[::-1], FILTERS[info.resize], box))
