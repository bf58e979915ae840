"""CenterNet's random scale-and-crop ("Objects as Points", section 5), as one augmentation.

Coordinates are continuous: 0..W covers the whole image and the centre of pixel i is at i + 0.5, as
everywhere in Detectron2. Points, boxes, images and maps are therefore moved by exactly the same map
x -> (x - origin) * scale, and its inverse gives the points back.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data import transforms as T

Pair = tuple[float, float]


class ScaleCropTransform(T.Transform):
    """Scale an image and cut out, or pad to, a window of a fixed size."""

    def __init__(
        self,
        scale_xy: Pair,
        origin_xy: Pair,
        output_size: tuple[int, int],
        input_size: tuple[int, int],
        *,
        fill: Sequence[float] = (0.0, 0.0, 0.0),
        ignore_value: int = 255,
    ) -> None:
        """
        Args:
            scale_xy: output pixels per input pixel, along x and y.
            origin_xy: the input point, in pixels, that becomes the output's corner (0, 0).
            output_size: (h, w) of the result.
            input_size: (h, w) of the image, for the inverse.
            fill: colour outside of the image, one number a channel.
            ignore_value: label outside of the image in segmentation maps.
        """
        super().__init__()
        self.scale_xy = scale_xy
        self.origin_xy = origin_xy
        self.output_size = output_size
        self.input_size = input_size
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

    def inverse(self) -> ScaleCropTransform:
        """Map the output back into a frame of the input's size; what was cut off stays lost."""
        scale, origin = np.array(self.scale_xy), np.array(self.origin_xy)
        return ScaleCropTransform(
            tuple(1 / scale),
            tuple(-origin * scale),
            output_size=self.input_size,
            input_size=self.output_size,
            fill=self.fill,
            ignore_value=self.ignore_value,
        )

    def _source_indices(self, axis: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """The input pixel that holds each output pixel's centre, along x (axis 0) or y (1)."""
        centers = np.arange(self.output_size[1 - axis]) + 0.5
        indices = np.floor(centers / self.scale_xy[axis] + self.origin_xy[axis]).astype(np.int64)
        return indices.clip(0, size - 1), (indices >= 0) & (indices < size)


class ScaleCrop(T.Augmentation):
    """Zoom at random about a random point, to an image of a fixed size.

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
        if len(output_size) != 2 or min(output_size) < 1:
            raise ValueError(
                f"INPUT.SCALE_CROP.SIZE: found {output_size}, expected (height, width) in pixels"
            )
        if len(scale_range) != 2 or not 0 < scale_range[0] <= scale_range[1]:
            raise ValueError(
                f"INPUT.SCALE_CROP.SCALE_RANGE: found {scale_range}, expected (smallest, largest) "
                "above 0"
            )
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
            (height, width),
            fill=self.fill,
            ignore_value=self.ignore_value,
        )

    def _draw_center(self, size: int) -> float:
        border = self.border
        while 2 * border >= size:
            border /= 2
        return self._rand_range(border, size - border)
