"""The augmentations that a config asks for, in training and at test time."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import transforms as T

from d2_multitask.config import get_multitask_cfg
from d2_multitask.data.transforms.build import (
    CenterNetFixed,
    CenterNetKeep,
    build_augmentations,
    build_test_resize,
    image_window,
)


def _names(cfg, is_train=True):
    return [type(a).__name__ for a in build_augmentations(cfg, is_train)]


@pytest.mark.parametrize(
    ("opts", "names"),
    [
        pytest.param([], ["ResizeShortestEdge"], id="resize"),
        pytest.param(
            ["INPUT.RANDOM_FLIP", "horizontal"], ["ResizeShortestEdge", "RandomFlip"], id="flip"
        ),
        pytest.param(
            ["INPUT.SCALE_CROP.ENABLED", True, "INPUT.RANDOM_FLIP", "horizontal"],
            ["ScaleCrop", "RandomFlip"],
            id="scale and crop",
        ),
        pytest.param(
            ["INPUT.COLOR_JITTER.ENABLED", True],
            ["ResizeShortestEdge", "ColorJitter"],
            id="colours",
        ),
        pytest.param(
            ["INPUT.COLOR_JITTER.ENABLED", True, "INPUT.RANDOM_FLIP", "vertical"],
            ["ResizeShortestEdge", "ColorJitter", "RandomFlip"],
            id="colours before the flip",
        ),
        pytest.param(
            ["INPUT.CROP.ENABLED", True],
            ["RandomCrop", "ResizeShortestEdge"],
            id="Detectron2's crop",
        ),
    ],
)
def test_training(cfg, opts, names):
    cfg.merge_from_list(opts)
    assert _names(cfg) == names


def test_evaluation_only_resizes(cfg):
    cfg.merge_from_list(["INPUT.SCALE_CROP.ENABLED", True, "INPUT.COLOR_JITTER.ENABLED", True])
    assert _names(cfg, is_train=False) == ["ResizeShortestEdge"]


@pytest.mark.parametrize(("min_size", "size"), [(0, (30, 50)), (15, (15, 25))])
def test_evaluation_size(cfg, min_size, size):
    cfg.INPUT.MIN_SIZE_TEST = min_size
    aug_input = T.AugInput(np.zeros((30, 50, 3), np.uint8))
    T.AugmentationList(build_augmentations(cfg, False))(aug_input)
    assert aug_input.image.shape[:2] == size


def test_padding_has_the_mean_colour_and_the_ignored_label(cfg):
    cfg.INPUT.SCALE_CROP.ENABLED = True
    cfg.MODEL.PIXEL_MEAN = [103.53, 116.28, 123.675]
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 200
    (crop,) = build_augmentations(cfg, True)
    assert crop.fill == (104, 116, 124) and crop.ignore_value == 200
    assert crop.output_size == (512, 512) and crop.scale_range == (0.6, 1.4)


def test_two_kinds_of_crop(cfg):
    cfg.merge_from_list(["INPUT.SCALE_CROP.ENABLED", True, "INPUT.CROP.ENABLED", True])
    with pytest.raises(ValueError, match="INPUT.SCALE_CROP.ENABLED and INPUT.CROP.ENABLED"):
        build_augmentations(cfg, True)


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("shape", [(2, 3000, 3), (3000, 1, 3)])
def test_no_side_becomes_0(cfg, is_train, shape):
    (resize, *_) = build_augmentations(cfg, is_train)
    resize.short_edge_length, resize.max_size, resize.is_range = (400,), 512, False
    image = np.zeros(shape, dtype=np.uint8)
    resized = resize.get_transform(image).apply_image(image)
    assert min(resized.shape[:2]) == 1 and max(resized.shape[:2]) >= 500


@pytest.mark.parametrize("size", [(1, 3000), (3000, 2)])
def test_no_side_of_a_crop_becomes_0(cfg, size):
    cfg.merge_from_list(["INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", [0.2, 0.2]])
    aug_input = T.AugInput(np.zeros((*size, 3), np.uint8), sem_seg=np.ones(size, np.uint8))
    T.AugmentationList(build_augmentations(cfg, True))(aug_input)
    assert min(aug_input.image.shape[:2]) >= 1


@pytest.mark.parametrize(
    ("height", "width", "padded", "corner"),
    [
        # CenterNet: (side | 31) + 1, the image's middle (side // 2) on the frame's
        pytest.param(30, 45, (32, 64), (32 - 22, 16 - 15), id="odd"),
        pytest.param(32, 64, (64, 96), (16, 16), id="multiples grow too"),
    ],
)
def test_keep(height: int, width: int, padded: tuple[int, int], corner: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(1, 256, (height, width, 3), dtype=np.uint8)
    transform = CenterNetKeep().get_transform(image)
    result = transform.apply_image(image)
    x, y = corner
    assert result.shape == (*padded, 3)
    np.testing.assert_array_equal(result[y : y + height, x : x + width], image)
    assert int(result.astype(np.int64).sum()) == int(image.astype(np.int64).sum())  # black frame
    assert image_window(transform, (height, width)) == (x, y, x + width, y + height)


def test_fixed() -> None:
    """100 x 50 into 200 x 200: twice as large, 50 pixels of frame left and right."""
    image = np.full((100, 50, 3), 200, np.uint8)
    transform = CenterNetFixed((200, 200)).get_transform(image)
    result = transform.apply_image(image)
    assert result.shape == (200, 200, 3)
    assert (result[10:190, 52:147] == 200).all() and not result[:, :49].any()
    assert image_window(T.TransformList([transform]), (100, 50)) == (50, 0, 150, 200)


def test_the_default_is_detectron2s() -> None:
    cfg = get_multitask_cfg()
    resize = build_test_resize(cfg)
    assert isinstance(resize, T.ResizeShortestEdge)
    transform = resize.get_transform(np.zeros((10, 20, 3), np.uint8))
    assert image_window(transform, (10, 20)) is None


def test_stretch_shows_the_whole_image() -> None:
    """Four quarters of one colour each stay quarters, whatever the proportions."""
    cfg = get_multitask_cfg()
    cfg.INPUT.RESIZE_TEST, cfg.INPUT.RANDOM_RESIZED_CROP.SIZE = "stretch", (32, 64)
    image = np.zeros((200, 100, 3), np.uint8)
    image[:100, 50:], image[100:, :50], image[100:, 50:] = 80, 160, 240
    transform = build_test_resize(cfg).get_transform(image)
    result = transform.apply_image(image)
    assert result.shape == (32, 64, 3)
    assert image_window(transform, (200, 100)) is None
    quarters = [result[y, x, 0] for y in (4, 28) for x in (8, 56)]
    assert quarters == [0, 80, 160, 240]


@pytest.mark.parametrize(
    ("mode", "size", "message"),
    [
        ("keep", (512, 512), "INPUT.RESIZE_TEST: found 'keep'.*centernet_keep"),
        ("centernet_fixed", (500, 500), "SCALE_CROP.SIZE.*multiple of 32"),
        ("centernet_fixed", (512, 256), "SCALE_CROP.SIZE.*square"),
    ],
)
def test_mistakes(mode: str, size: tuple[int, int], message: str) -> None:
    cfg = get_multitask_cfg()
    cfg.INPUT.RESIZE_TEST, cfg.INPUT.SCALE_CROP.SIZE = mode, size
    with pytest.raises(ValueError, match=message):
        build_test_resize(cfg)
