from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import transforms as T

from d2_multitask.data.transforms.build import build_augmentations


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
