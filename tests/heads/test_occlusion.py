"""Occlusion: boundaries, and the direction in which the object in front lies."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import ImageList
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from d2_multitask.config import get_multitask_cfg
from d2_multitask.heads import BatchLabels, Decoded, OcclusionHead, build_heads
from d2_multitask.heads.occlusion import spread_directions
from support import TinyBackbone, labelled_image, without


def occlusion_head(**keys: object) -> OcclusionHead:
    torch.manual_seed(0)
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS = ["occlusion"]
    for key, value in keys.items():
        cfg.MODEL.OCCLUSION_HEAD[key] = value
    return build_heads(cfg, TinyBackbone().output_shape())["occlusion"]


def field_of(rows: list[list[tuple[float, float]]]) -> Tensor:
    return torch.tensor(rows).permute(2, 0, 1)[None]


def test_directions_reach_the_pixels_beside_a_boundary() -> None:
    right, none = (1.0, 0.0), (0.0, 0.0)
    field = field_of([[none, none, none, right, none, none]])
    assert torch.equal(spread_directions(field, 0), field)
    expected = field_of([[none, none, right, right, right, none]])
    torch.testing.assert_close(spread_directions(field, 1), expected)


def test_opposite_directions_between_two_boundaries_cancel() -> None:
    right, left, none = (1.0, 0.0), (-1.0, 0.0), (0.0, 0.0)
    field = field_of([[right, none, left]])
    torch.testing.assert_close(spread_directions(field, 1), field)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 3))
def test_spread_directions_are_unit_vectors_or_nothing(seed: int, radius: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    angle = torch.rand((2, 9, 7), generator=generator) * 6.3
    there = torch.rand((2, 1, 9, 7), generator=generator) < 0.15
    field = torch.stack([angle.cos(), angle.sin()], 1) * there
    spread = spread_directions(field, radius)
    length = spread.norm(dim=1)
    assert (((length - 1).abs() < 1e-5) | (length == 0)).all()
    own = there.expand_as(field)
    assert torch.equal(spread[own], field[own])


def test_labels_of_padding_and_unlabelled_images() -> None:
    batch = [labelled_image(40, 30), without(labelled_image(24, 24), "occlusion")]
    images = ImageList.from_tensors([x["image"].float() for x in batch], 16)
    targets = occlusion_head(DIRECTION_RADIUS=0).targets(BatchLabels(batch, images))
    assert targets["occlusion_boundary"].shape == (2, 48, 32)
    expected = (batch[0]["occlusion"] != 0).any(0).long()
    assert torch.equal(targets["occlusion_boundary"][0, :40, :30], expected)
    assert (targets["occlusion_boundary"][0, 40:] == 255).all()
    assert (targets["occlusion_boundary"][1] == 255).all()
    assert torch.equal(targets["occlusion"][0, :, :40, :30], batch[0]["occlusion"])
    assert (targets["occlusion"][1] == 0).all()


def test_an_image_without_occlusion_is_labelled_all_the_same() -> None:
    """All zeros say that nothing hides anything; that is learned."""
    entry = labelled_image(boxes=())
    images = ImageList.from_tensors([entry["image"].float()], 8)
    head = occlusion_head()
    targets = head.targets(BatchLabels([entry], images))
    losses = head.losses(head.layers(TinyBackbone()(images.tensor)), targets)
    assert losses["loss_occlusion_boundary"] > 0
    assert losses["loss_occlusion_direction"] == 0


def test_answer_points_as_far_as_the_boundary_is_probable() -> None:
    head = occlusion_head()
    predictions = {
        "occlusion_boundary": torch.full((1, 1, 8, 8), torch.logit(torch.tensor(0.3)).item()),
        "occlusion": torch.tensor([3.0, -4.0])[None, :, None, None].expand(1, 2, 8, 8),
    }
    decoded = Decoded()
    head.inference(predictions, ImageList.from_tensors([torch.zeros(3, 8, 8)]), decoded)
    field = head.postprocess(decoded, 0, (8, 8), (8, 8))["occlusion"]
    assert field.shape == (2, 8, 8)
    torch.testing.assert_close(field[:, 3, 5], torch.tensor([0.3 * 0.6, -0.3 * 0.8]))


@pytest.mark.parametrize(("x", "mirrored_x"), [(1.0, -1.0), (-1.0, 1.0)])
def test_a_mirror_turns_left_and_right(x: float, mirrored_x: float) -> None:
    head = occlusion_head()

    def predictions(x: float) -> dict[str, Tensor]:
        field = torch.tensor([x, 0.5])[None, :, None, None].expand(1, 2, 4, 4)
        return {"occlusion": field, "occlusion_boundary": torch.zeros(1, 1, 4, 4)}

    merged = head.merge_flipped(predictions(x), predictions(mirrored_x))
    torch.testing.assert_close(merged["occlusion"], predictions(x)["occlusion"])
