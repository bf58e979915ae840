"""The augmentations that the config asks for, and how a test image becomes the network input.

CenterNet does not resize test images as Detectron2 does: it keeps the image's size, or fits the
image into a fixed square, and puts it in the middle of a black frame. Its weights were measured
like that.
"""

from __future__ import annotations

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import detection_utils
from detectron2.data import transforms as T

from d2_multitask.data.transforms.color import ColorJitter
from d2_multitask.data.transforms.crops import (
    CenterResizedCrop,
    RandomResizedCrop,
    ScaleCrop,
    WholeImageResize,
)

MODES = ("shortest_edge", "centernet_keep", "centernet_fixed", "stretch")
# CenterNet pads to the next multiple above the size, also where the size is a multiple already.
DIVISOR = 32


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Augmentations in the order in which they are applied.

    Training: scale-and-crop (``INPUT.SCALE_CROP``), ``INPUT.RANDOM_RESIZED_CROP``, or Detectron2's
    crop and resizing of the shortest edge, then colours (``INPUT.COLOR_JITTER``), then the flip
    (``INPUT.RANDOM_FLIP``). Test: ``INPUT.CENTER_CROP_TEST``, or what ``INPUT.RESIZE_TEST`` names,
    by default resizing of the shortest edge to ``INPUT.MIN_SIZE_TEST`` (0 keeps the size).

    Raises:
        ValueError: two kinds of crop at once, or a value out of range.
    """
    if not is_train:
        size = cfg.INPUT.CENTER_CROP_TEST
        return [CenterResizedCrop(size)] if size else [build_test_resize(cfg)]
    augmentations = detection_utils.build_augmentation(cfg, is_train)  # resize, then flip
    augmentations[0] = ResizeShortestEdge(
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    )
    crops = ("SCALE_CROP", "RANDOM_RESIZED_CROP", "CROP")
    enabled = [f"INPUT.{crop}.ENABLED" for crop in crops if cfg.INPUT[crop].ENABLED]
    if len(enabled) > 1:
        raise ValueError(f"{' and '.join(enabled)}: found both True, expected one kind of crop")
    resized = cfg.INPUT.RANDOM_RESIZED_CROP
    if resized.ENABLED:
        augmentations[0] = RandomResizedCrop(resized.SIZE, resized.SCALE, resized.RATIO)
    elif cfg.INPUT.SCALE_CROP.ENABLED:
        augmentations[0] = ScaleCrop(
            output_size=cfg.INPUT.SCALE_CROP.SIZE,
            scale_range=cfg.INPUT.SCALE_CROP.SCALE_RANGE,
            border=cfg.INPUT.SCALE_CROP.BORDER,
            # The mean colour is what padding is after normalisation, at test as well.
            fill=[round(value) for value in cfg.MODEL.PIXEL_MEAN],
            ignore_value=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        )
    elif cfg.INPUT.CROP.ENABLED:
        augmentations.insert(0, RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
    jitter = cfg.INPUT.COLOR_JITTER
    if jitter.ENABLED:
        colors = ColorJitter(
            jitter.BRIGHTNESS, jitter.CONTRAST, jitter.SATURATION, cfg.INPUT.FORMAT
        )
        # Before the flip, which leaves pixels in an order of memory that is slow to work on.
        place = next((i for i, a in enumerate(augmentations) if isinstance(a, T.RandomFlip)), None)
        augmentations.insert(len(augmentations) if place is None else place, colors)
    return augmentations


def build_test_resize(cfg: CfgNode) -> T.Augmentation:
    """The resizing of test images that ``INPUT.RESIZE_TEST`` names.

    Raises:
        ValueError: unknown name, or a fixed size that the network's strides do not divide.
    """
    mode = cfg.INPUT.RESIZE_TEST
    if mode not in MODES:
        raise ValueError(f"INPUT.RESIZE_TEST: found {mode!r}, expected one of {MODES}")
    if mode == "centernet_keep":
        return CenterNetKeep()
    if mode == "stretch":
        return WholeImageResize(cfg.INPUT.RANDOM_RESIZED_CROP.SIZE)
    if mode == "centernet_fixed":
        size = tuple(cfg.INPUT.SCALE_CROP.SIZE)
        if len(set(size)) != 1 or size[0] % DIVISOR:
            raise ValueError(
                f"INPUT.SCALE_CROP.SIZE: found {size}, expected a square whose side is a multiple "
                f"of {DIVISOR}, because INPUT.RESIZE_TEST is {mode!r}"
            )
        return CenterNetFixed(size)
    shortest = cfg.INPUT.MIN_SIZE_TEST
    return ResizeShortestEdge([shortest, shortest], cfg.INPUT.MAX_SIZE_TEST)


def image_window(
    transforms: T.Transform, image_size: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """Where a test image of (h, w) lies in the network input; ``None`` if it fills it."""
    for transform in getattr(transforms, "transforms", [transforms]):
        if isinstance(transform, CenteredTransform):
            return transform.window(*image_size)
    return None


class RandomCrop(T.RandomCrop):
    """Detectron2's crop, but no side of a window rounds to 0 pixels."""

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of the window in an image of (h, w)."""
        height, width = super().get_crop_size(image_size)
        return max(height, 1), max(width, 1)


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's, whose shorter side may become 0 in images like 2x3000 pixels; here 1."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """For ``image`` (H, W, C)."""
        found = super().get_transform(image)
        if isinstance(found, T.ResizeTransform) and min(found.new_h, found.new_w) < 1:
            sides = max(found.new_h, 1), max(found.new_w, 1)
            return T.ResizeTransform(found.h, found.w, *sides, self.interp)
        return found


class CenteredTransform(T.Transform):
    """Scale an image and put it in the middle of a black frame, with CenterNet's rounding.

    Coordinates are those in which CenterNet takes its predictions back to the image.
    """

    def __init__(
        self, scale: float, center_xy: tuple[float, float], output_size: tuple[int, int]
    ) -> None:
        """
        Args:
            scale: output pixels per input pixel.
            center_xy: the input point, in pixels, that comes to the middle of the output.
            output_size: (h, w) of the result.
        """
        super().__init__()
        self.scale, self.center_xy, self.output_size = scale, center_xy, output_size

    def window(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Where an image of ``height`` x ``width`` lies in the output: (x0, y0, x1, y1)."""
        corners = self.apply_coords(np.array([[0, 0], [width, height]], dtype=np.float64))
        return tuple(corners.ravel().tolist())

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """(H, W, C) -> (``output_size``, C); bilinear, 0 outside of the image."""
        height, width = self.output_size
        # CenterNet gives OpenCV, which counts pixel centres as 0, 1, ..., this map as it is.
        # Half a pixel of the smaller image is lost by that; the weights were trained so.
        shift = self._shift()
        matrix = np.array([[self.scale, 0, shift[0]], [0, self.scale, shift[1]]])
        result = cv2.warpAffine(
            np.ascontiguousarray(img), matrix, (width, height), flags=cv2.INTER_LINEAR
        )
        return result.reshape(height, width, *img.shape[2:])

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """At test time there are no maps of labels."""
        raise NotImplementedError("a transform of test images, which have no labels")

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """(N, 2) points (x, y) in pixels of the input -> pixels of the output; a new array."""
        return np.asarray(coords) * self.scale + self._shift()

    def _shift(self) -> np.ndarray:
        height, width = self.output_size
        return np.array([width / 2, height / 2]) - np.array(self.center_xy) * self.scale


class CenterNetKeep(T.Augmentation):
    """The image's own size, padded to a multiple of 32 on all sides (CenterNet's keep_res)."""

    def get_transform(self, image: np.ndarray) -> CenteredTransform:
        """For ``image`` (H, W, C)."""
        height, width = image.shape[:2]
        padded = tuple((side // DIVISOR + 1) * DIVISOR for side in (height, width))
        return CenteredTransform(1.0, (width // 2, height // 2), padded)


class CenterNetFixed(T.Augmentation):
    """The image as large as it fits into a fixed frame (CenterNet's fix_res)."""

    def __init__(self, output_size: tuple[int, int]) -> None:
        """
        Args:
            output_size: (h, w) of the network input, in pixels.
        """
        super().__init__()
        self._init({"output_size": tuple(output_size)})

    def get_transform(self, image: np.ndarray) -> CenteredTransform:
        """For ``image`` (H, W, C)."""
        height, width = image.shape[:2]
        scale = self.output_size[1] / max(height, width)  # CenterNet's frames are square
        return CenteredTransform(scale, (width / 2, height / 2), self.output_size)
