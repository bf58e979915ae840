"""The copy for inference answers the same; the network itself may be trained on."""

from __future__ import annotations

import copy

import pytest
import torch

from d2_multitask.modeling.inference import fuse_for_inference
from fusion_support import network
from support import labelled_image


@pytest.mark.parametrize("norm", ["", "BN"])
@pytest.mark.parametrize("flip_test", [False, True])
def test_answers_are_the_same(norm: str, flip_test: bool) -> None:
    model = network(["seg", "det", "pose"], norm, flip_test=flip_test).eval()
    batch = [labelled_image(seed=1), labelled_image(40, 60, ((2, 2, 30, 38),), seed=2)]
    for before, after in zip(model(batch), fuse_for_inference(model)(batch), strict=True):
        torch.testing.assert_close(after["sem_seg"], before["sem_seg"])
        old, new = before["instances"], after["instances"]
        assert len(old) > 5
        torch.testing.assert_close(new.scores, old.scores)
        torch.testing.assert_close(new.pred_boxes.tensor, old.pred_boxes.tensor)
        torch.testing.assert_close(new.pred_keypoints, old.pred_keypoints, rtol=1e-4, atol=1e-3)


def test_the_network_itself_is_not_touched() -> None:
    model = network(["seg", "det", "pose"], "BN").train()
    before = copy.deepcopy(model.state_dict())
    batch = [labelled_image(seed=1)]
    fused = fuse_for_inference(model)
    assert model.training and not fused.training
    assert not any(p.requires_grad for p in fused.parameters())
    assert {n: v.data_ptr() for n, v in model.state_dict().items()}.keys() == before.keys()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    sum(model(batch).values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_heads_can_still_be_chosen() -> None:
    fused = fuse_for_inference(network(["seg", "det", "pose"], "BN"))
    assert set(fused([labelled_image()], tasks=["seg"])[0]) == {"sem_seg"}
    fields = fused([labelled_image()], tasks=["pose"])[0]["instances"].get_fields()
    assert "pred_keypoints" in fields


def test_any_module_may_be_given() -> None:
    layer = torch.nn.Linear(3, 2)
    torch.testing.assert_close(fuse_for_inference(layer)(torch.ones(1, 3)), layer(torch.ones(1, 3)))
