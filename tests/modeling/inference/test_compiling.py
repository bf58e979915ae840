"""Backbone, neck and heads are one graph each, and compiled they answer the same."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model
from torch._dynamo import explain

from d2_multitask.config import load_config
from d2_multitask.modeling.inference import compile_network, fuse_for_inference
from d2_multitask.modeling.inference.fold_norms import is_compiled_part
from fusion_support import network
from support import labelled_image


@pytest.mark.parametrize(
    "config", ["quick/mcn_seg_det_pose.yaml", "quick/mcn_fast_seg_det_pose.yaml"]
)
@pytest.mark.parametrize("fused", [True, False])
def test_no_graph_breaks(config: str, fused: bool) -> None:
    cfg = load_config(config, ["MODEL.FEATURE_EXTRACTOR.WEIGHTS", ""])
    model = fuse_for_inference(build_model(cfg), fused=fused)
    feature = model.backbone(torch.zeros(1, 3, 64, 64))["p2"]
    inputs = {"backbone": torch.zeros(1, 3, 64, 64)}
    parts = [(name, part) for name, part in model.named_modules() if is_compiled_part(name, part)]
    assert len(parts) == 1 + 7  # the backbone; seven branches
    # One branch stands for all: they are one class.
    for name, part in parts[:2]:
        torch._dynamo.reset()
        explanation = explain(part)(inputs.get(name, feature))
        assert explanation.graph_break_count == 0, (name, explanation.break_reasons)
        assert explanation.graph_count == 1


def test_compiled_answers_are_the_same() -> None:
    torch._dynamo.reset()
    model = network(["seg", "det", "pose"], "BN").eval()
    fused = fuse_for_inference(model)
    names = set(fused.state_dict())
    parts = compile_network(fused, backend="eager")  # the graph, without a C++ compiler
    assert "backbone" in parts and len(parts) == 1 + 7
    assert set(fused.state_dict()) == names
    before, after = model([labelled_image()])[0], fused([labelled_image()])[0]
    torch.testing.assert_close(after["sem_seg"], before["sem_seg"])
    torch.testing.assert_close(after["instances"].scores, before["instances"].scores)
    assert isinstance(fuse_for_inference(model, fused=False, compiled=True), type(model))
