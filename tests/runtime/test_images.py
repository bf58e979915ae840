"""The network input: the pixels that Detectron2 gives, padded at the right and bottom."""

from __future__ import annotations

import numpy as np
import pytest

from d2_multitask.data.transforms.build import CenterNetKeep, ResizeShortestEdge
from d2_multitask.data.transforms.crops import CenterResizedCrop, WholeImageResize
from d2_multitask.runtime.images import image_window, network_input
from d2_multitask.runtime.model_info import InputInfo

SIZES = [(40, 60), (61, 33), (200, 17), (2, 3000), (1, 1), (97, 97)]


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def info(**changes) -> InputInfo:
    values = {"format": "BGR", "divisor": 32, "resize": "shortest_edge", "size": None, "square": 0}
    return InputInfo(**{**values, "min_size": 48, "max_size": 80, **changes})


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("shortest", "longest"), [(48, 80), (192, 192), (0, 0), (33, 1333)])
def test_pixels_equal_detectron2s(size, shortest, longest):
    image = picture(*size)
    transform = ResizeShortestEdge([shortest, shortest], longest).get_transform(image)
    expected = transform.apply_image(image)
    batch, sizes = network_input([image], info(min_size=shortest, max_size=longest))
    height, width = expected.shape[:2]
    assert sizes.tolist() == [[height, width]]
    assert batch.shape == (1, -(-height // 32) * 32, -(-width // 32) * 32, 3)
    assert (batch[0, :height, :width] == expected).all()
    assert not batch[0, height:].any()
    assert not batch[0, :, width:].any()


def test_stretching():
    image = picture(40, 60)
    expected = WholeImageResize((64, 32)).get_transform(image).apply_image(image)
    batch, _ = network_input([image], info(resize="stretch", size=(64, 32)))
    assert (batch[0] == expected).all()


def test_rgb_input():
    image = picture(48, 64)
    bgr, rgb = (network_input([image], info(format=order))[0] for order in ("BGR", "RGB"))
    assert (bgr[..., ::-1] == rgb).all()


def test_a_square_input():
    batch, sizes = network_input([picture(40, 60)], info(square=96))
    assert batch.shape == (1, 96, 96, 3)
    assert sizes.tolist() == [[48, 72]]
    with pytest.raises(ValueError, match=r"found \[48, 72\] .* expected at most 64"):
        network_input([picture(40, 60)], info(square=64))


@pytest.mark.parametrize("size", SIZES)
def test_an_image_in_centernets_frame(size):
    image = picture(*size)
    transform = CenterNetKeep().get_transform(image)
    batch, sizes = network_input([image], info(resize="centernet_keep"))
    assert (batch[0] == transform.apply_image(image)).all()
    assert sizes.tolist() == [list(transform.output_size)]
    y, x, height, width = image_window(size, info(resize="centernet_keep"))
    assert transform.window(*size) == (x, y, x + width, y + height)


@pytest.mark.parametrize("size", [(40, 60), (61, 33)])
def test_the_middle_of_an_image(size):
    image = picture(*size)
    expected = CenterResizedCrop((32, 64)).get_transform(image).apply_image(image)
    batch, _ = network_input([image], info(resize="center_crop", size=(32, 64)))
    assert (batch[0] == expected).all()
