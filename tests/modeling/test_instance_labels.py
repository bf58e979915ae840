"""Object labels for the R-CNN: shared masks, areas that do not count."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import BitMasks, Instances
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_multitask.modeling.roi_heads import ImageLabels, SharedBitMasks, covered_share
from support import labelled_image, without


def some_masks() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand((3, 20, 30), generator=generator) > 0.4
    masks[1] = False
    return masks


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(torch.tensor([2, 0, 2, 1]), id="any, several times"),
        pytest.param(torch.tensor([False, True, True]), id="chosen"),
        pytest.param(slice(1, 3), id="slice"),
        pytest.param(-1, id="the last"),
        pytest.param(slice(0, 0), id="none"),
    ],
)
def test_shared_masks_are_detectron2s_without_the_copies(rows) -> None:
    own, theirs = SharedBitMasks(some_masks())[rows], BitMasks(some_masks())[rows]
    assert own.tensor.shape[0] == 3 and len(own) == len(theirs)
    assert torch.equal(own.nonempty(), theirs.nonempty())
    boxes = torch.tensor([[1.5, 2.0, 20.0, 15.0]]).repeat(len(own), 1) + torch.rand(len(own), 1)
    assert torch.equal(own.crop_and_resize(boxes, 14), theirs.crop_and_resize(boxes, 14))


def test_shared_masks_travel_with_instances() -> None:
    instances = Instances((20, 30), gt_masks=SharedBitMasks(some_masks()))
    twice = instances[torch.tensor([2, 0])][torch.tensor([True, False])].to("cpu")
    assert twice.gt_masks.index.tolist() == [2]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31))
def test_covered_share_equals_counting(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand((9, 12), generator=generator) > 0.5
    corner = torch.randint(-3, 12, (5, 2), generator=generator)
    side = torch.randint(1, 9, (5, 2), generator=generator)
    boxes = torch.cat([corner, corner + side], 1)
    expected = []
    for x1, y1, x2, y2 in boxes.tolist():
        seen = mask[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)].sum().item()
        expected.append(seen / ((x2 - x1) * (y2 - y1)))
    torch.testing.assert_close(covered_share(boxes.float(), mask), torch.tensor(expected))


def test_labels_of_an_entry() -> None:
    entry = {**labelled_image(), "ignore_mask": torch.ones(64, 48, dtype=torch.bool)}
    labels = ImageLabels.of(entry, torch.device("cpu"))
    assert labels.image_size == (64, 48) and len(labels) == 2
    assert isinstance(labels.gt_masks, SharedBitMasks) and labels.ignore_mask.all()
    bare = ImageLabels.of(without(entry, "instances"), torch.device("cpu"))
    assert len(bare) == 0 and bare.gt_boxes.tensor.shape == (0, 4) and bare.ignore_mask is None
