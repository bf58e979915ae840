"""The trainer's pictures: what they show, and that drawing leaves the network as it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from d2_multitask.config import get_multitask_cfg
from d2_multitask.heads.build import build_heads
from d2_multitask.modeling.mcn import MultitaskCenterNet
from d2_multitask.visualization.training import evaluation_mode, target_maps, training_pictures
from modeling.rcnn_support import rcnn, rcnn_image
from support import TinyBackbone, labelled_image


def network(tasks=("seg", "det", "pose")) -> MultitaskCenterNet:
    torch.manual_seed(0)
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS = list(tasks)
    cfg.MODEL.CENTER_HEAD.CONV_DIM = cfg.MODEL.POSE_HEAD.CONV_DIM = 8
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    cfg.MODEL.CENTER_HEAD.NORM = "BN"  # has statistics that must not move
    backbone = TinyBackbone()
    return MultitaskCenterNet(
        backbone=backbone,
        heads=build_heads(cfg, backbone.output_shape()),
        pixel_mean=[100.0] * 3,
        pixel_std=[50.0] * 3,
    ).train()


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        pytest.param(("seg",), {"results", "sem_seg"}, id="seg"),
        pytest.param(("det",), {"results", "center"}, id="det"),
        pytest.param(
            ("seg", "det", "pose"), {"results", "sem_seg", "center", "joints"}, id="seg-det-pose"
        ),
    ],
)
def test_each_map_gives_a_picture(tasks, expected):
    pictures = training_pictures(network(tasks), [labelled_image(seed=i) for i in range(2)])
    assert set(pictures) == {f"pictures/{name}" for name in expected}
    for picture in pictures.values():
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[2] == 3
    assert len({picture.shape for picture in pictures.values()}) == 1


def test_an_rcnn_shows_the_maps_of_its_heads():
    maps = {"foreground", "sem_seg", "part_seg", "boundary", "occlusion_x", "occlusion_y"}
    pictures = training_pictures(rcnn(), [rcnn_image(0), rcnn_image(1)])
    assert set(pictures) == {f"pictures/{name}" for name in ("results", *maps)}
    assert set(training_pictures(rcnn(["det"]), [rcnn_image()])) == {"pictures/results"}


def test_at_most_max_images_are_drawn():
    batch = [labelled_image(seed=i) for i in range(3)]
    one, two = (training_pictures(network(), batch, n)["pictures/results"] for n in (1, 2))
    assert two.shape[1] > 1.8 * one.shape[1]
    assert two.shape[0] == one.shape[0]


def test_images_of_different_sizes_and_missing_labels_are_drawn():
    batch = [labelled_image(64, 48), labelled_image(40, 72, seed=1), labelled_image(seed=2)]
    del batch[1]["sem_seg"], batch[2]["instances"]
    assert "pictures/joints" in training_pictures(network(), batch)


def test_drawing_leaves_the_network_as_it_was():
    model = network()
    model.heads["seg"].eval()  # a part that is kept in evaluation mode stays so
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    training_pictures(model, [labelled_image()])
    assert [module.training for module in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())


def test_modes_are_put_back_after_an_error():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout()).train()
    model[1].eval()
    with pytest.raises(RuntimeError), evaluation_mode(model):
        assert not model[0].training
        raise RuntimeError
    assert model.training
    assert model[0].training
    assert not model[1].training


def test_target_maps_peak_at_the_centres():
    maps, padded_hw = target_maps(network(), [labelled_image(64, 48, ((8, 8, 24, 40),))])
    assert padded_hw == (64, 48)
    center = maps["center"][0]
    assert center.shape == (16, 12)
    # Centre (16, 24) in pixels: cell (x 4, y 6).
    assert center[6, 4] == 1
    assert (center == 1).sum() == 1
