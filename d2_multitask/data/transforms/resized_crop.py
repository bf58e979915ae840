"""Crops that are resized to a fixed size: random ones for training, the middle for evaluation.

Coordinates are continuous, as everywhere in Detectron2: 0..W covers the image.
"""

from __future__ import annotations

import math

import numpy as np
from detectron2.data import transforms as T
from PIL import Image

Pair = tuple[float, float]


class ResizedCropTransform(T.Transform):
    """Cut out a window and resize it."""

    def __init__(self, box_xyxy: tuple[float, ...], output_size: tuple[int, int]) -> None:
        """
        Args:
            box_xyxy: the window, inside of the image, in its pixels.
            output_size: (h, w) of the result.
        """
        super().__init__()
        self.box_xyxy = box_xyxy
        self.output_size = output_size

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """(H, W) or (H, W, C) uint8 -> ``output_size``; bicubic, averaging when it shrinks."""
        return self._resize(img, Image.Resampling.BICUBIC)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """(H, W) integers or bool -> ``output_size``; nearest."""
        x0, y0, x1, y1 = self.box_xyxy
        height, width = self.output_size
        rows = (np.arange(height) + 0.5) * (y1 - y0) / height + y0
        columns = (np.arange(width) + 0.5) * (x1 - x0) / width + x0
        return segmentation[rows.astype(np.int64)][:, columns.astype(np.int64)]

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """(N, 2) points (x, y) in pixels of the input -> pixels of the output; a new array."""
        x0, y0, x1, y1 = self.box_xyxy
        height, width = self.output_size
        return (np.asarray(coords) - (x0, y0)) * (width / (x1 - x0), height / (y1 - y0))

    def _resize(self, img: np.ndarray, how: Image.Resampling) -> np.ndarray:
        height, width = self.output_size
        image = Image.fromarray(np.ascontiguousarray(img))
        return np.asarray(image.resize((width, height), how, box=self.box_xyxy))


class RandomResizedCrop(T.Augmentation):
    """A window of random area and shape, as in the training of image classifiers and of MAE.

    The area is drawn uniformly as a share of the image's, the ratio of width to height
    log-uniformly. A window that does not fit into the image is drawn again, ten times at most; then
    the largest window in the middle is taken whose shape is in range (torchvision's rule).
    """

    def __init__(
        self,
        output_size: tuple[int, int],
        scale: Pair = (0.2, 1.0),
        ratio: Pair = (3 / 4, 4 / 3),
    ) -> None:
        """
        Args:
            output_size: (h, w) of the network input, in pixels.
            scale: smallest and largest area as a share of the image's.
            ratio: smallest and largest width / height of the window.

        Raises:
            ValueError: a number is not positive, or a range is empty.
        """
        super().__init__()
        _check_size(output_size, "INPUT.RANDOM_RESIZED_CROP.SIZE")
        for key, pair in (("SCALE", scale), ("RATIO", ratio)):
            if len(pair) != 2 or not 0 < pair[0] <= pair[1] or (key == "SCALE" and pair[1] > 1):
                raise ValueError(
                    f"INPUT.RANDOM_RESIZED_CROP.{key}: found {pair}, expected (smallest, largest) "
                    f"above 0{', at most 1' if key == 'SCALE' else ''}"
                )
        output_size, scale, ratio = tuple(output_size), tuple(scale), tuple(ratio)
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> ResizedCropTransform:
        """Draw a window; ``image`` is (H, W, C)."""
        height, width = image.shape[:2]
        for _ in range(10):
            area = height * width * self._rand_range(*self.scale)
            ratio = math.exp(self._rand_range(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                x0 = int(self._rand_range(0, width - w + 1))
                y0 = int(self._rand_range(0, height - h + 1))
                return ResizedCropTransform((x0, y0, x0 + w, y0 + h), self.output_size)
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        return ResizedCropTransform(_middle(height, width, ratio), self.output_size)


class _ToSize(T.Augmentation):
    """A window that depends on the image's size alone, at a fixed size."""

    KEY = ""
    """The config key of the size, for errors."""

    def __init__(self, output_size: tuple[int, int]) -> None:
        """
        Args:
            output_size: (h, w) of the network input, in pixels.

        Raises:
            ValueError: a size is not positive.
        """
        super().__init__()
        _check_size(output_size, self.KEY)
        output_size = tuple(output_size)
        self._init(locals())


class CenterResizedCrop(_ToSize):
    """The largest window in the middle that has the output's shape."""

    KEY = "INPUT.CENTER_CROP_TEST"

    def get_transform(self, image: np.ndarray) -> ResizedCropTransform:
        """The window in the middle of ``image`` (H, W, C)."""
        out_height, out_width = self.output_size
        box = _middle(*image.shape[:2], out_width / out_height)
        return ResizedCropTransform(box, self.output_size)


class WholeImageResize(_ToSize):
    """The whole image at the output's size; its proportions change.

    Detectron2's `T.Resize` does the same with other filters: this one's are those of the training
    crops.
    """

    KEY = "INPUT.RANDOM_RESIZED_CROP.SIZE"

    def get_transform(self, image: np.ndarray) -> ResizedCropTransform:
        """For ``image`` (H, W, C)."""
        height, width = image.shape[:2]
        return ResizedCropTransform((0, 0, width, height), self.output_size)


def _middle(height: int, width: int, ratio: float) -> tuple[float, ...]:
    """Largest window of a width / height in the middle: x0, y0, x1, y1."""
    w, h = min(width, height * ratio), min(height, width / ratio)
    x0, y0 = (width - w) / 2, (height - h) / 2
    return x0, y0, x0 + w, y0 + h


def _check_size(size: tuple[int, int], key: str) -> None:
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"{key}: found {size}, expected (height, width) in pixels")
