"""The augmentations that the config asks for."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.data import detection_utils
from detectron2.data import transforms as T

from d2_multitask.data.transforms.color import ColorJitter
from d2_multitask.data.transforms.crops import CenterResizedCrop, RandomResizedCrop, ScaleCrop
from d2_multitask.data.transforms.test_resize import ResizeShortestEdge, build_test_resize


class RandomCrop(T.RandomCrop):
    """Detectron2's crop, but no side of a window rounds to 0 pixels."""

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of the window in an image of (h, w)."""
        height, width = super().get_crop_size(image_size)
        return max(height, 1), max(width, 1)


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
