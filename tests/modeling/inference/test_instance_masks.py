"""Masks that are added to a network's results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from d2_multitask.modeling.inference.instance_masks import InstanceMaskNetwork, MaskOptions
from d2_multitask.runtime.masks import instance_masks

OPTIONS = MaskOptions(["person"], ["background", "person"], [(0, 1)], panoptic=True)


class Network(nn.Module):
    """Two objects side by side, of which one is unsure."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.instances = Instances(
            (20, 30),
            pred_boxes=Boxes(torch.tensor([[0.0, 0, 18, 20], [12, 0, 30, 20]])),
            scores=torch.tensor([0.9, 0.8]),
            pred_classes=torch.zeros(2, dtype=torch.int64),
            pred_keypoints=torch.rand(2, 2, 3, generator=generator) * torch.tensor([30, 20, 1]),
        )
        self.sem_seg = torch.rand(2, 20, 30, generator=generator)

    def forward(self, batched_inputs: list[Any], tasks: Any = ("seg", "pose")) -> list[Any]:
        whole = {"instances": self.instances, "sem_seg": self.sem_seg}
        return [whole if "seg" in tasks else {"instances": self.instances} for _ in batched_inputs]


def test_results_get_masks_and_segments() -> None:
    network = Network()
    (result,) = InstanceMaskNetwork(network, OPTIONS)([{}])
    found = network.instances
    expected = instance_masks(
        network.sem_seg.argmax(0).numpy(),
        found.pred_boxes.tensor.numpy(),
        found.scores.numpy(),
        np.array([1, 1]),
        found.pred_keypoints.numpy(),
        [(0, 1)],
    )
    masks = result["instances"].pred_masks
    assert masks.dtype == torch.bool and (masks.numpy() == expected).all() and masks.any()
    ids, segments = result["panoptic_seg"]
    assert ids.dtype == torch.int32
    assert [(ids == 1).equal(masks[0]), (ids == 2).equal(masks[1])] == [True, True]
    assert [segment["category_id"] for segment in segments] == [0, 0]


def test_other_tasks_stay_as_they_are() -> None:
    (result,) = InstanceMaskNetwork(Network(), OPTIONS)([{}], tasks=["pose"])
    assert list(result) == ["instances"] and not result["instances"].has("pred_masks")


def test_an_object_class_without_semantic_class() -> None:
    with pytest.raises(ValueError, match="no semantic class"):
        InstanceMaskNetwork(Network(), MaskOptions(["cat"], ["background", "person"]))
