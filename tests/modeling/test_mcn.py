"""The meta-architecture: losses, results, choice of tasks, flip test, padding, autocast."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model

from d2_multitask.config import get_multitask_cfg
from d2_multitask.heads import TaskHead, build_heads
from d2_multitask.modeling import MultitaskCenterNet
from d2_multitask.modeling.inference import fuse_for_inference
from d2_multitask.targets import decode
from support import TinyBackbone, labelled_image

SUBSETS = [
    list(names)
    for size in (1, 2, 3)
    for names in itertools.combinations(("seg", "det", "pose"), size)
]
ENTRIES = {"seg": {"sem_seg"}, "det": {"instances"}, "pose": {"instances"}}
LOSSES = {
    "seg": {"loss_seg"},
    "det": {"loss_center_heatmap", "loss_center_offset", "loss_det_wh"},
    "pose": {
        "loss_center_heatmap",
        "loss_center_offset",
        "loss_pose_offset",
        "loss_pose_heatmap",
        "loss_pose_heatmap_offset",
    },
}


def model_of(tasks: list[str], **kwargs: Any) -> MultitaskCenterNet:
    torch.manual_seed(0)
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS = tasks
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    cfg.MODEL.SEM_SEG_HEAD.NORM = ""  # group statistics would see the padding
    backbone = TinyBackbone()
    return MultitaskCenterNet(
        backbone=backbone,
        heads=build_heads(cfg, backbone.output_shape()),
        pixel_mean=[100.0, 110.0, 120.0],
        pixel_std=[50.0, 55.0, 60.0],
        **kwargs,
    )


@pytest.mark.parametrize("tasks", SUBSETS, ids="+".join)
def test_every_subset_trains_and_answers(tasks: list[str]) -> None:
    model = model_of(tasks)
    losses = model([labelled_image(seed=1), labelled_image(40, 60, ((2, 2, 30, 38),), seed=2)])
    assert set(losses) == set().union(*(LOSSES[task] for task in tasks))
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    results = model.eval()([labelled_image(), {"image": torch.zeros(3, 30, 50)}])
    assert [set(r) for r in results] == [set().union(*(ENTRIES[t] for t in tasks))] * 2
    if "instances" in results[0]:
        fields = results[1]["instances"].get_fields()
        assert results[1]["instances"].image_size == (30, 50)
        assert ("pred_keypoints" in fields) == ("pose" in tasks)
        assert {"pred_boxes", "scores", "pred_classes"} <= set(fields)


@pytest.mark.parametrize("fused", [False, True])
def test_no_object_above_the_threshold(fused: bool) -> None:
    """No peak is left to decode; joints above their threshold do not matter then."""
    model = model_of(["seg", "det", "pose"]).eval()
    model.heads["center"].score_threshold = 1.0
    if fused:
        fuse_for_inference(model)
    batch = [labelled_image(), {"image": torch.zeros(3, 30, 50)}]
    for result in model(batch):
        assert result["instances"].pred_boxes.tensor.shape == (0, 4)
        assert result["instances"].pred_keypoints.shape == (0, 17, 3)


@pytest.mark.parametrize("fused", [False, True])
def test_leaving_out_weak_candidates_changes_nothing(
    fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same answers as from all candidates, of which the weak ones are dropped in the end."""
    model = model_of(["seg", "det", "pose"]).eval()
    # Scores of random weights lie around 0.1.
    model.heads["center"].score_threshold = model.heads["pose"].matching.score_threshold = 0.1
    if fused:
        fuse_for_inference(model)
    noise = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0)) * 255
    batch = [{"image": noise}, {"image": noise[:, :40].flip(2)}]
    few = model(batch)
    seen = []
    monkeypatch.setattr(
        decode,
        "_best",
        lambda scores, topk, threshold: seen.append(threshold) or scores.topk(topk, dim=-1),
    )
    everything = model(batch)
    assert seen == [0.1, 0.1]
    for ours, expected in zip(few, everything, strict=True):
        assert 0 < len(expected["instances"]) < 100
        for name, value in expected["instances"].get_fields().items():
            found = ours["instances"].get(name)
            if name == "pred_boxes":
                found, value = found.tensor, value.tensor
            torch.testing.assert_close(found, value)


def test_a_task_has_the_same_loss_beside_others() -> None:
    """Subsets share all code: with equal weights a task's losses do not depend on its company."""
    everything = model_of(["seg", "det", "pose"])
    alone = model_of(["det"])
    alone.load_state_dict(everything.state_dict(), strict=False)
    batch = [labelled_image(seed=1)]
    joint = everything(batch)
    for name, value in alone(batch).items():
        torch.testing.assert_close(value, joint[name])


def test_heads_that_nobody_asked_for_do_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(["seg", "det", "pose"]).eval()
    ran: list[str] = []
    for name, head in model.heads.items():
        original = head.layers
        monkeypatch.setattr(
            head, "layers", lambda f, n=name, run=original: (ran.append(n), run(f))[1]
        )
    (result,) = model([labelled_image()], tasks=["pose"])
    assert ran == ["center", "pose"]
    assert set(result) == {"instances"}
    ran.clear()
    model([labelled_image()], tasks=["seg"])
    assert ran == ["seg"]


def test_tasks_of_the_config_and_their_errors() -> None:
    model = model_of(["seg", "det"], test_tasks=["seg"]).eval()
    assert set(model([labelled_image()])[0]) == {"sem_seg"}
    with pytest.raises(ValueError, match="'pose'.*seg, center, det"):
        model([labelled_image()], tasks=["pose"])


def test_results_do_not_depend_on_padding() -> None:
    """An image answers the same beside a larger one; no object lies in the padding."""
    model = model_of(["seg", "det", "pose"]).eval()
    # A network with one stride-4 convolution and 3x3 heads sees padding next to it, so the image is
    # compared where padding cannot reach.
    small, large = labelled_image(40, 40, seed=1), labelled_image(96, 104, seed=2)
    alone, beside = model([small])[0], model([large, small])[1]
    torch.testing.assert_close(alone["sem_seg"][:, :32, :32], beside["sem_seg"][:, :32, :32])
    assert beside["instances"].image_size == (40, 40)
    assert (beside["instances"].pred_boxes.get_centers() <= 40).all()


def test_output_size_scales_boxes_joints_and_maps() -> None:
    model = model_of(["seg", "det", "pose"]).eval()
    entry = labelled_image(64, 48)
    # Boxes are clipped to the image, so scale a network whose boxes stay inside.
    with torch.no_grad():
        model.heads["det"].wh[-1].bias.fill_(1.0)
    same, double = model([entry])[0], model([{**entry, "height": 128, "width": 96}])[0]
    torch.testing.assert_close(
        double["instances"].pred_boxes.tensor, same["instances"].pred_boxes.tensor * 2
    )
    torch.testing.assert_close(
        double["instances"].pred_keypoints[..., :2],
        same["instances"].pred_keypoints[..., :2] * 2,
    )
    assert double["sem_seg"].shape == (2, 128, 96)


def test_flip_test_makes_answers_mirror_symmetric() -> None:
    """With the flip test, heatmaps and maps of a mirrored image are the mirrored ones exactly."""
    model = model_of(["seg", "det"], flip_test=True).eval()
    entry = labelled_image(64, 48)
    mirrored = {**entry, "image": entry["image"].flip(-1)}
    one, other = model([entry, mirrored])
    torch.testing.assert_close(one["sem_seg"], other["sem_seg"].flip(-1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        one["instances"].scores[:5], other["instances"].scores[:5], atol=1e-4, rtol=1e-4
    )


def test_autocast_keeps_losses_in_float32() -> None:
    model = model_of(["seg", "det", "pose"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model([labelled_image(seed=1)])
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    sum(losses.values()).backward()


def test_memory_order_changes_no_number() -> None:
    batch = [labelled_image(seed=1)]
    answers, losses = [], []
    for channels_last in (True, False):
        model = model_of(["seg", "det", "pose"], channels_last=channels_last)
        order = torch.channels_last if channels_last else torch.contiguous_format
        assert model.backbone.conv.weight.is_contiguous(memory_format=order)
        losses.append(model(batch))
        answers.append(model.eval()(batch)[0])
    for name, value in losses[0].items():
        torch.testing.assert_close(value, losses[1][name])
    torch.testing.assert_close(answers[0]["sem_seg"], answers[1]["sem_seg"])
    torch.testing.assert_close(answers[0]["instances"].scores, answers[1]["instances"].scores)


def test_normalisation_is_per_channel() -> None:
    model = model_of(["seg"])
    images = model.preprocess_image([{"image": torch.full((3, 8, 8), 155, dtype=torch.uint8)}])
    torch.testing.assert_close(
        images.tensor[0, :, 0, 0], torch.tensor([55 / 50, 45 / 55, 35 / 60], dtype=torch.float32)
    )


def test_head_order_is_the_running_order() -> None:
    model = model_of(["pose", "seg", "det"])
    assert list(model.heads) == ["center", "det", "pose", "seg"]
    assert all(isinstance(head, TaskHead) for head in model.heads.values())


def test_built_from_a_config_by_detectron2() -> None:
    cfg = get_multitask_cfg()
    cfg.MODEL.META_ARCHITECTURE = "MultitaskCenterNet"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_stride4_backbone"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    model = build_model(cfg)
    assert isinstance(model, MultitaskCenterNet)
    assert set(model.heads) == {"seg", "center", "det", "pose"}
    losses = model([labelled_image()])
    assert torch.isfinite(sum(losses.values()))


def test_frozen_modules_do_not_change() -> None:
    model = model_of(["seg", "det"], frozen=["backbone", "heads.center", "heads.det"])
    norm = torch.nn.BatchNorm2d(3)
    model.backbone.add_module("norm", norm)
    model.train()
    assert model.training and not model.backbone.training and not norm.training
    assert model.heads["seg"].training and not model.heads["det"].training
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained and all(name.startswith(("heads.seg.", "backbone.norm.")) for name in trained)


def test_frozen_modules_must_exist() -> None:
    with pytest.raises(ValueError, match=r"MODEL.FREEZE: found 'heads.pose'.*'heads.det'"):
        model_of(["det"], frozen=["heads.pose"])
