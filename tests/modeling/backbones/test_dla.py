"""The shape of DLA's trees, and what reaches the feature that heads read."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from d2_multitask.modeling.backbones.dla import DLA, Tree
from d2_multitask.modeling.backbones.dla_up import DLAUp, IterativeAggregation

NARROW = (2, 4, 6, 8, 10, 12)


def test_what_a_root_mixes() -> None:
    shallow = Tree(1, 4, 8, stride=2)
    assert shallow.root.conv.in_channels == 16
    deep = Tree(2, 4, 8, stride=2, input_to_root=True)
    assert deep.tree1.root.conv.in_channels == 16
    # two blocks, the stage's input (4), the answer of the first tree
    assert deep.tree2.root.conv.in_channels == 8 + 8 + 4 + 8
    assert deep(torch.randn(1, 4, 8, 12)).shape == (1, 8, 4, 6)


def test_a_depth_one_tree_by_hand() -> None:
    """Blocks that only pass their shortcut on, and a root that sums: 1 + 1 = 2 times the input."""
    tree = Tree(1, 1, 1, stride=2).eval()
    for block in (tree.tree1, tree.tree2):
        nn.init.zeros_(block.conv2.weight)
    nn.init.ones_(tree.root.conv.weight)
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert tree(x).item() == pytest.approx(2 * 4.0, rel=1e-4)  # max pooling takes the 4


def test_aggregation_by_hand() -> None:
    """With layers that pass on: the last map is the sum of all, interpolated."""
    layer = IterativeAggregation([1, 1, 1], 1, [2, 4], deformable=False).eval()
    for conv in (*layer.projections, *layer.nodes):
        nn.init.zeros_(conv.weight)
        conv.weight.data[:, :, 1, 1] = 1
    maps = [torch.full((1, 1, 16 // f, 16 // f), v) for f, v in ((1, 1.0), (2, 10.0), (4, 100.0))]
    first, second, third = layer(maps)
    assert first is maps[0]
    # Away from the borders, where the interpolation fades into the padding.
    assert second[0, 0, 8, 8].item() == pytest.approx(11, rel=1e-3)
    assert third[0, 0, 8, 8].item() == pytest.approx(111, rel=1e-3)


@pytest.mark.parametrize("deformable", [False, True])
def test_every_parameter_learns(deformable: bool) -> None:
    torch.manual_seed(0)
    backbone = DLAUp(DLA(channels=NARROW), deformable=deformable)
    p2 = backbone(torch.randn(2, 3, 64, 96))["p2"]
    assert p2.shape == (2, 6, 16, 24)
    p2.square().sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_wrong_number_of_channels() -> None:
    with pytest.raises(ValueError, match=r"MODEL.DLA.CHANNELS: found \[1, 2\].*6 numbers"):
        DLA(channels=[1, 2])
