"""CenterNet's way of bringing test images to the network, and where the image then lies."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import transforms as T

from d2_multitask.config import get_multitask_cfg
from d2_multitask.data.transforms.build import (
    CenterNetFixed,
    CenterNetKeep,
    build_test_resize,
    image_window,
)


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
