"""Crops at a fixed size: CenterNet's scale-and-crop, image classifiers' random resized crop, and
their counterparts at test time.

Coordinates are continuous, as everywhere in Detectron2: 0..W covers the image and the centre of
pixel i is at i + 0.5, so points, boxes, images and maps are moved by the same map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data import transforms as T
from PIL import Image

Pair = tuple[float, float]


class ScaleCropTransform(T.Transform):
    """Scale an image and cut out, or pad to, a window of a fixed size."""

    def __init__(
        self,
        scale_xy: Pair,
        origin_xy: Pair,
        output_size: tuple[int, int],
        *,
        fill: Sequence[float] = (0.0, 0.0, 0.0),
        ignore_value: int = 255,
    ) -> None:
        """
        Args:
            scale_xy: output pixels per input pixel, along x and y.
            origin_xy: the input point, in pixels, that becomes the output's corner (0, 0).
            output_size: (h, w) of the result.
            fill: colour outside of the image, one number a channel.
            ignore_value: label outside of the image in segmentation maps.
        """
        super().__init__()
        self.scale_xy = scale_xy
        self.origin_xy = origin_xy
        self.output_size = output_size
        self.fill = tuple(fill)
        self.ignore_value = ignore_value

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """(H, W) or (H, W, C) -> the same kind with H, W = ``output_size``; bilinear."""
        scale, origin = np.array(self.scale_xy), np.array(self.origin_xy)
        source = np.ascontiguousarray(img)
        # Bilinear sampling skips pixels below half size: average blocks of pixels first.
        shrink = int(1 / scale.min())
        if shrink > 1:
            height, width = (max(n // shrink, 1) for n in img.shape[:2])
            ratio = np.array([width / img.shape[1], height / img.shape[0]])
            source = cv2.resize(source, (width, height), interpolation=cv2.INTER_AREA)
            scale, origin = scale / ratio, origin * ratio
        # OpenCV counts pixel centres as 0, 1, ..., half a pixel off ours.
        offset = (0.5 - origin) * scale - 0.5
        matrix = np.array([[scale[0], 0, offset[0]], [0, scale[1], offset[1]]])
        height, width = self.output_size
        result = cv2.warpAffine(
            source, matrix, (width, height), borderMode=cv2.BORDER_CONSTANT, borderValue=self.fill
        )
        return result.reshape(height, width, *img.shape[2:])

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """(H, W) integers or bool -> ``output_size``; nearest, ``ignore_value`` outside."""
        height, width = segmentation.shape[:2]
        rows, row_inside = self._source_indices(1, height)
        columns, column_inside = self._source_indices(0, width)
        result = segmentation[rows][:, columns]
        result[~row_inside] = self.ignore_value
        result[:, ~column_inside] = self.ignore_value
        return result

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """(N, 2) points (x, y) in pixels of the input -> pixels of the output; a new array."""
        return (np.asarray(coords) - self.origin_xy) * self.scale_xy

    def _source_indices(self, axis: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """The input pixel that holds each output pixel's centre, along x (axis 0) or y (1)."""
        centers = np.arange(self.output_size[1 - axis]) + 0.5
        indices = np.floor(centers / self.scale_xy[axis] + self.origin_xy[axis]).astype(np.int64)
        return indices.clip(0, size - 1), (indices >= 0) & (indices < size)


class ScaleCrop(T.Augmentation):
    """Zoom at random about a random point, to an image of a fixed size ("Objects as Points", 5).

    At zoom 1 the whole image just fits into the output; the window's side is ``scale`` times that,
    ``scale`` drawn uniformly from ``scale_range`` (CenterNet: one of 0.6, 0.7 ... 1.3). The
    window's centre is drawn uniformly, but stays ``border`` pixels away from the image's edges;
    the border is halved until it is less than half of the image, as in CenterNet.
    """

    def __init__(
        self,
        output_size: tuple[int, int],
        scale_range: tuple[float, float] = (0.6, 1.4),
        border: float = 128,
        fill: Sequence[float] = (0.0, 0.0, 0.0),
        ignore_value: int = 255,
    ) -> None:
        """
        Args:
            output_size: (h, w) of the network input, in pixels.
            scale_range: smallest and largest ``scale``; above 1 the image becomes smaller.
            border: least distance of the window's centre from the image's edges, in pixels of the
                original image.
            fill: colour outside of the image, one number a channel.
            ignore_value: label outside of the image in segmentation maps.

        Raises:
            ValueError: a size or scale is not positive, or the range is empty.
        """
        super().__init__()
        _check_size(output_size, "INPUT.SCALE_CROP.SIZE")
        _check_range(scale_range, "INPUT.SCALE_CROP.SCALE_RANGE")
        output_size, scale_range, fill = tuple(output_size), tuple(scale_range), tuple(fill)
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> ScaleCropTransform:
        """Draw a window; ``image`` is (H, W, C)."""
        height, width = image.shape[:2]
        out_height, out_width = self.output_size
        fit = min(out_height / height, out_width / width)
        scale = fit / self._rand_range(*self.scale_range)
        center_x = self._draw_center(width)
        center_y = self._draw_center(height)
        return ScaleCropTransform(
            (scale, scale),
            (center_x - out_width / (2 * scale), center_y - out_height / (2 * scale)),
            self.output_size,
            fill=self.fill,
            ignore_value=self.ignore_value,
        )

    def _draw_center(self, size: int) -> float:
        border = self.border
        while 2 * border >= size:
            border /= 2
        return self._rand_range(border, size - border)


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
        height, width = self.output_size
        image = Image.fromarray(np.ascontiguousarray(img))
        return np.asarray(
            image.resize((width, height), Image.Resampling.BICUBIC, box=self.box_xyxy)
        )

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
        _check_range(scale, "INPUT.RANDOM_RESIZED_CROP.SCALE", most=1)
        _check_range(ratio, "INPUT.RANDOM_RESIZED_CROP.RATIO")
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


def _check_range(pair: Pair, key: str, most: float = math.inf) -> None:
    if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= most:
        limit = f", at most {most}" if most < math.inf else ""
        raise ValueError(f"{key}: found {pair}, expected (smallest, largest) above 0{limit}")
