"""Config keys of instance masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from d2_multitask.config import load_config
from d2_multitask.engine.predictor import inference_model

QUICK = "quick/mcn_seg_det_pose.yaml"
RCNN = "quick/mask_rcnn_in_detail_det.yaml"


def config(*opts: Any, file: str = QUICK) -> CfgNode:
    return load_config(file, [str(word) for word in opts])


@pytest.mark.parametrize("scales", [[], [0.5, 1.0]])
def test_both_keys_in_one_size_and_in_several(scales: list[float]) -> None:
    cfg = config("MODEL.MASK_ON", True, "TEST.PANOPTIC", True, "TEST.SCALES", scales)
    cfg.MODEL.CENTER_HEAD.NMS_THRESH_TEST = 0.6
    cfg.MODEL.CENTER_HEAD.SCORE_THRESH_TEST = 0.0
    torch.manual_seed(0)
    network = inference_model(cfg, build_model(cfg).eval())
    image = torch.rand(3, 64, 96) * 255
    (result,) = network([{"image": image, "height": 50, "width": 80}])
    assert len(result["instances"]) and result["panoptic_seg"][0].shape == (50, 80)
    assert result["instances"].pred_masks.shape == (len(result["instances"]), 50, 80)


@pytest.mark.parametrize(
    ("file", "opts", "message"),
    [
        ("quick/mcn_det.yaml", ["MODEL.MASK_ON", True], "MODEL.MASK_ON: .*expected 'seg' and"),
        ("quick/mcn_seg.yaml", ["TEST.PANOPTIC", True], "TEST.PANOPTIC: .*one of 'det', 'pose'"),
        (QUICK, ["MODEL.MASK_ON", True, "TEST.TILES.ENABLED", True], "MASK_ON: .* TEST.TILES"),
        (RCNN, ["TEST.PANOPTIC", True], "expected MultitaskCenterNet"),
    ],
)
def test_what_cannot_be(file: str, opts: list[Any], message: str) -> None:
    cfg = config(*opts, file=file)
    with pytest.raises(ValueError, match=message):
        inference_model(cfg, build_model(cfg))
