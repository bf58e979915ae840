"""The layers and the resizing that dense heads share."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch import Tensor

from d2_multitask.heads.base import Branch
from d2_multitask.heads.dense import (
    DenseHead,
    PyramidBranch,
    TopDownBranch,
    dense_shapes,
    resize_maps,
    to_input_size,
)

PYRAMID = {f"p{level}": ShapeSpec(channels=8, stride=2**level) for level in (2, 3, 4, 5)}


def pyramid_features(size: int = 64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(
            (2, shape.channels, size // shape.stride, size // shape.stride), generator=generator
        )
        for name, shape in PYRAMID.items()
    }


def test_a_pyramid_is_read_as_panoptic_fpn_does() -> None:
    """With Detectron2's own weights the branch is Detectron2's head."""
    torch.manual_seed(0)
    head = SemSegFPNHead(PYRAMID, num_classes=5, conv_dims=16, common_stride=4, norm="")
    branch = PyramidBranch(PYRAMID, 16, 5)
    branch.load_state_dict(head.state_dict())
    features = pyramid_features()
    torch.testing.assert_close(branch(features), head.layers(features))


def test_top_down_branch_adds_what_coarser_maps_say() -> None:
    """With all weights 1, a constant coarse map raises every cell of the result alike."""
    branch = TopDownBranch(PYRAMID, 4, 2)
    assert branch.in_features == ["p5", "p4", "p3", "p2"]
    with torch.no_grad():
        for name, value in branch.named_parameters():
            value.fill_(0.0 if name.endswith("bias") else 1.0)
    features = {name: torch.zeros_like(map_) for name, map_ in pyramid_features().items()}
    assert branch(features).shape == (2, 2, 16, 16)
    assert not branch(features).any()
    features["p5"] += 1
    answer = branch(features)
    inside = answer[..., 6:-6, 6:-6]
    # 8 channels, then a depthwise 3x3 and a 1x1 convolution of 4 channels at each of four levels.
    centre = 8 * (9 * 4) ** 4 * 4
    assert inside.max() <= centre and answer.min() > 0
    torch.testing.assert_close(answer, answer.flip(-1))


def test_separable_layers_by_number_of_features() -> None:
    one = DenseHead({"p2": PYRAMID["p2"]}, conv_dim=16, separable=True)
    assert len(one.branch(3)) == 3 and one.branch(3)[0].groups == 8
    many = DenseHead(PYRAMID, conv_dim=16, separable=True, norm="BN")
    assert type(many.branch(3)) is TopDownBranch
    assert many.run(many.branch(3), pyramid_features()).shape == (2, 3, 16, 16)


def test_layers_by_number_of_features() -> None:
    one, many = DenseHead({"p2": PYRAMID["p2"]}, conv_dim=16), DenseHead(PYRAMID, conv_dim=16)
    assert type(one.branch(3)) is Branch
    assert type(many.branch(3)) is PyramidBranch
    assert many.in_features == ["p2", "p3", "p4", "p5"]
    features = pyramid_features()
    assert one.run(one.branch(3), features).shape == (2, 3, 16, 16)
    assert many.run(many.branch(3), features).shape == (2, 3, 16, 16)


def test_sub_cells_lie_in_their_cell() -> None:
    """A cell's four outputs become its two rows of two sub-cells."""
    head = DenseHead({"p2": ShapeSpec(channels=4, stride=4)}, conv_dim=0, upscale=2)
    assert head.stride == 2
    branch = head.branch(1)
    with torch.no_grad():
        branch[0].weight.copy_(torch.eye(4)[:, :, None, None])
    feature = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]).T.reshape(1, 4, 1, 2)
    expected = torch.tensor([[1.0, 2.0, 5.0, 6.0], [3.0, 4.0, 7.0, 8.0]])
    torch.testing.assert_close(head.run(branch, {"p2": feature})[0, 0], expected)


@pytest.mark.parametrize("upscale", [0, 3, 8])
def test_sub_cells_must_fit(upscale: int) -> None:
    with pytest.raises(ValueError, match=f"UPSCALE.*found {upscale}, expected a divisor"):
        DenseHead({"p2": PYRAMID["p2"]}, upscale=upscale)


def test_unknown_or_no_features() -> None:
    with pytest.raises(ValueError, match=r"A_KEY: found 'p7'.*'p2'"):
        dense_shapes(PYRAMID, ["p2", "p7"], "A_KEY")
    with pytest.raises(ValueError, match="A_KEY: found nothing"):
        dense_shapes(PYRAMID, [], "A_KEY")


def test_to_input_size_cuts_what_lies_beyond_the_input() -> None:
    maps = torch.arange(6.0).view(1, 1, 2, 3)
    assert to_input_size(maps, 4, (7, 10)).shape == (1, 1, 7, 10)
    assert to_input_size(maps.bfloat16(), 1, (2, 3)).dtype == torch.float32


@pytest.mark.parametrize("stride", [1, 4])
def test_resizing_keeps_places(stride: int) -> None:
    """A column of the image stays where it is, whatever padding comes after it."""
    column = torch.arange(40) // stride
    maps = (torch.arange(64 // stride) == column[21])[None, None].float()
    maps = maps.expand(1, 64 // stride, -1)
    resized = resize_maps(maps, stride, (36, 40), (72, 80))
    assert resized.shape == (1, 72, 80)
    peak = resized[0, 30].argmax().item()
    assert abs(peak + 0.5 - 2 * (21 + 0.5)) <= 2 * stride
