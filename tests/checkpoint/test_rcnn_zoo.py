"""Detectron2's model zoo initialises what fits of MultitaskRCNN. Only names and shapes count here,
so the networks are built without numbers.
"""

from __future__ import annotations

import pytest
import torch
from detectron2 import model_zoo
from detectron2.modeling import build_model
from torch import Tensor, nn

from d2_multitask.checkpoint import LoadReport
from d2_multitask.checkpoint.matching import check_architecture, match_weights
from d2_multitask.config import load_config

# What belongs to COCO's classes and joints.
CLASSES = {
    "roi_heads.box_predictor.cls_score": (81, 21),
    "roi_heads.box_predictor.bbox_pred": (320, 80),
}
MASKS = {"roi_heads.mask_head.predictor": (80, 20)}
JOINTS = {"roi_heads.keypoint_head.score_lowres": (17, 14)}
SEGMENTATION = {"heads.seg.sem_seg.predictor": (54, 59)}
# Keypoint R-CNN knows one class.
ONE_CLASS = {
    "roi_heads.box_predictor.cls_score": (2, 21),
    "roi_heads.box_predictor.bbox_pred": (4, 80),
}


def zoo_state(config: str) -> dict[str, Tensor]:
    cfg = model_zoo.get_config(config)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg).state_dict()


def our_model(depth: int) -> nn.Module:
    cfg = load_config("mask_rcnn_pascal_in_detail.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.RESNETS.DEPTH = "meta", depth
    with torch.device("meta"):
        return build_model(cfg)


def match(config: str, depth: int) -> tuple[dict[str, Tensor], LoadReport]:
    checkpoint = {"model": zoo_state(config), "__author__": "Detectron2 Model Zoo"}
    matched, report = match_weights(our_model(depth), checkpoint, config)
    check_architecture(report)
    return matched, report


@pytest.mark.parametrize("depth", [50, 101])
@pytest.mark.parametrize(
    ("config", "other_shapes", "fresh"),
    [
        pytest.param(
            "COCO-InstanceSegmentation/mask_rcnn_R_{}_FPN_3x.yaml",
            {**CLASSES, **MASKS},
            ("roi_heads.keypoint_head.", "heads."),
            id="Mask R-CNN",
        ),
        pytest.param(
            "COCO-Keypoints/keypoint_rcnn_R_{}_FPN_3x.yaml",
            {**ONE_CLASS, **JOINTS},
            ("roi_heads.mask_head.", "heads."),
            id="Keypoint R-CNN",
        ),
        pytest.param(
            "COCO-PanopticSegmentation/panoptic_fpn_R_{}_3x.yaml",
            {**CLASSES, **MASKS, **SEGMENTATION},
            (
                "roi_heads.keypoint_head.",
                *(f"heads.{x}." for x in ("parts", "boundary", "occlusion", "classification")),
            ),
            id="Panoptic FPN",
        ),
    ],
)
def test_zoo(config: str, other_shapes: dict, fresh: tuple[str, ...], depth: int) -> None:
    _, report = match(config.format(depth), depth)
    found = {
        mismatch.name: (mismatch.file_shape[0], mismatch.model_shape[0])
        for mismatch in report.mismatched
    }
    # A transposed convolution has its outputs second.
    deconvolution = "roi_heads.keypoint_head.score_lowres.weight"
    if deconvolution in found:
        found[deconvolution] = (17, 14)
    assert found == {
        f"{name}.{kind}": shapes
        for name, shapes in other_shapes.items()
        for kind in ("weight", "bias")
    }
    assert report.fresh and all(name.startswith(fresh) for name in report.fresh)
    assert not report.unused


def test_panoptic_fpns_segmentation_layers_come_along() -> None:
    config = "COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml"
    matched, report = match(config, 50)
    theirs = zoo_state(config)
    pairs = {
        "heads.seg.sem_seg.p2.0.weight": "sem_seg_head.p2.0.weight",
        "heads.seg.sem_seg.p5.4.norm.bias": "sem_seg_head.p5.4.norm.bias",
    }
    for own, other in pairs.items():
        assert matched[own].shape == theirs[other].shape
    assert sum(name.startswith("heads.seg.") for name in report.matched) == 21
