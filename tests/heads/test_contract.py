"""The contract of every registered head, whatever it is called."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.structures import ImageList

from d2_multitask.config import get_multitask_cfg
from d2_multitask.heads import TASK_HEAD_REGISTRY, BatchLabels, Decoded, build_heads
from support import LABELS, TinyBackbone, labelled_image, without

HEADS = sorted(name for name, _ in TASK_HEAD_REGISTRY)


def crowded(entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "ignore_mask": torch.ones(entry["image"].shape[1:], dtype=torch.bool)}


BATCHES = {
    "objects": [labelled_image(seed=1), labelled_image(seed=2)],
    "nobody": [labelled_image(boxes=()), labelled_image(boxes=())],
    "half labelled": [
        labelled_image(seed=1),
        without(labelled_image(seed=2), *LABELS),
    ],
    "unlabelled": [without(labelled_image(), *LABELS)],
    "no joints": [labelled_image(joints=False), labelled_image(seed=2)],
    "odd sizes": [
        labelled_image(37, 51, ((1, 1, 20, 30),)),
        labelled_image(64, 21, ((0, 0, 5, 60),)),
    ],
    "crowd": [crowded(labelled_image())],
}
LABELLED = {"objects", "half labelled", "no joints", "odd sizes"}


def head_of(name: str) -> Any:
    torch.manual_seed(0)
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS = [name]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    return build_heads(cfg, TinyBackbone().output_shape())


def images_of(batch: list[dict[str, Any]]) -> ImageList:
    return ImageList.from_tensors([x["image"].float() / 128 - 1 for x in batch], 8)


@pytest.mark.parametrize("batch_name", BATCHES)
@pytest.mark.parametrize("name", HEADS)
def test_losses_are_finite_and_reach_every_parameter(name: str, batch_name: str) -> None:
    batch = BATCHES[batch_name]
    images = images_of(batch)
    heads, backbone = head_of(name), TinyBackbone()
    losses = {}
    features = backbone(images.tensor)
    for head in heads.values():
        losses.update(head.losses(head.layers(features), head.targets(BatchLabels(batch, images))))
    assert losses and all(key.startswith("loss_") for key in losses)
    assert all(value.shape == () and torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    for parameter_name, parameter in heads.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
        if batch_name in LABELLED:
            assert parameter.grad.abs().sum() > 0, parameter_name
    assert backbone.conv.weight.grad is not None


@pytest.mark.parametrize("name", HEADS)
def test_an_unlabelled_image_adds_nothing(name: str) -> None:
    """The losses of a labelled image are the same with an unlabelled one beside it."""
    heads, backbone = head_of(name), TinyBackbone()
    bare = without(labelled_image(seed=5), *LABELS)

    def losses(batch: list[dict[str, Any]]) -> dict[str, float]:
        images = images_of(batch)
        features = backbone(images.tensor)
        found: dict[str, float] = {}
        for head in heads.values():
            terms = head.losses(head.layers(features), head.targets(BatchLabels(batch, images)))
            found.update({key: value.item() for key, value in terms.items()})
        return found

    alone, beside = losses([labelled_image(seed=1)]), losses([labelled_image(seed=1), bare])
    assert alone == pytest.approx(beside, rel=1e-5)
    assert all(value == 0 for value in losses([bare]).values())


@pytest.mark.parametrize("batch_name", BATCHES)
@pytest.mark.parametrize("name", HEADS)
def test_one_result_an_image(name: str, batch_name: str) -> None:
    batch = BATCHES[batch_name]
    images = images_of(batch)
    heads, features = head_of(name), TinyBackbone()(images.tensor)
    decoded = Decoded()
    for head in heads.values():
        head.inference(head.layers(features), images, decoded)
    for index, size in enumerate(images.image_sizes):
        result: dict[str, Any] = {}
        for head in heads.values():
            result.update(head.postprocess(decoded, index, size, (50, 70)))
        assert result
        if "instances" in result:
            assert result["instances"].image_size == (50, 70)
        for key in {"sem_seg", "part_seg", "boundary", "occlusion", "foreground"} & set(result):
            assert result[key].shape[-2:] == (50, 70)


@pytest.mark.parametrize("name", HEADS)
def test_maps_for_pictures(name: str) -> None:
    batch = BATCHES["objects"]
    images = images_of(batch)
    features = TinyBackbone()(images.tensor)
    for head in head_of(name).values():
        maps = {
            **head.target_maps(head.targets(BatchLabels(batch, images))),
            **head.prediction_maps(head.layers(features)),
        }
        for value in maps.values():
            assert value.dim() == 3 and len(value) == len(batch)
            assert value.min() >= 0 and value.max() <= 1


@pytest.mark.parametrize("name", HEADS)
def test_flipping_twice_changes_nothing(name: str) -> None:
    """Predictions of a mirrored scene, merged, equal those of the scene itself."""
    images = images_of(BATCHES["objects"])
    features = TinyBackbone()(images.tensor)
    for head in head_of(name).values():
        predictions = head.layers(features)
        mirrored = {key: value.flip(-1) for key, value in predictions.items()}
        if "keypoint_offset" in mirrored:
            offset = mirrored["keypoint_offset"].unflatten(1, (-1, 2)).clone()
            offset[:, :, 0] = 1 - offset[:, :, 0]
            mirrored["keypoint_offset"] = offset.flatten(1, 2)
        if "occlusion" in mirrored:
            mirrored["occlusion"] = mirrored["occlusion"] * torch.tensor([-1.0, 1.0])[:, None, None]
        merged = head.merge_flipped(predictions, mirrored)
        for key, value in predictions.items():
            torch.testing.assert_close(merged[key], value, atol=1e-4, rtol=1e-4)


def test_what_heads_share_is_made_once() -> None:
    images = ImageList(torch.zeros(1, 3, 64, 48), [(64, 48)])
    mask = torch.zeros(64, 48, dtype=torch.bool)
    mask[0, 5] = True
    labels = BatchLabels([{**labelled_image(), "ignore_mask": mask}], images)
    assert labels.objects(4) is labels.objects(4) is not labels.objects(8)
    assert labels.cells(4, 1) is labels.cells(4, 1) is not labels.cells(4, 0)
    assert labels.ignored_cells(4) is labels.ignored_cells(4)
    assert labels.ignored_cells(4).nonzero().tolist() == [[0, 0, 0, 1]]
    assert len(labels.objects(4).boxes) == 2
    assert set(labels.cells(4, 0).object_index.tolist()) == {0, 1}


def test_what_heads_share_follows_the_labels() -> None:
    images = ImageList(torch.zeros(1, 3, 64, 48), [(64, 48)])
    batch = [labelled_image()]
    assert len(BatchLabels(batch, images).objects(4).boxes) == 2
    batch[0]["instances"] = batch[0]["instances"][:1]
    labels = BatchLabels(batch, images)
    assert len(labels.objects(4).boxes) == 1
    assert set(labels.cells(4, 0).object_index.tolist()) == {0}
    assert not labels.ignored_cells(4).any()
