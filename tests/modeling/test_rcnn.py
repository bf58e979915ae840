"""The R-CNN: every choice of tasks, labels that are missing, results, mistakes in the config."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.structures import Boxes, Instances

from d2_multitask.modeling import MultitaskRCNN
from modeling.rcnn_support import DENSE, losses_of, rcnn, rcnn_config, rcnn_image
from support import LABELS, without

DETECTION_LOSSES = {
    "loss_det_rpn_cls",
    "loss_det_rpn_loc",
    "loss_det_cls",
    "loss_det_box_reg",
}
LOSSES = {
    "det": DETECTION_LOSSES,
    "seg": {"loss_seg"},
    "parts": {"loss_parts"},
    "boundary": {"loss_boundary"},
    "occlusion": {"loss_occlusion_boundary", "loss_occlusion_direction"},
    "classification": {"loss_classification"},
    "foreground": {"loss_foreground_bce", "loss_foreground_dice"},
}
ENTRIES = {
    "det": "instances",
    "seg": "sem_seg",
    "parts": "part_seg",
    "boundary": "boundary",
    "occlusion": "occlusion",
    "classification": "image_labels",
    "foreground": "foreground",
}
SHAPES = {
    "sem_seg": (59, 120, 100),
    "part_seg": (7, 120, 100),
    "boundary": (120, 100),
    "occlusion": (2, 120, 100),
    "image_labels": (59,),
    "foreground": (120, 100),
}


@pytest.mark.parametrize(
    "tasks", [["det", *DENSE], *([task] for task in LOSSES), ["boundary", "det"]], ids="+".join
)
def test_every_task_can_be_left_out(tasks: list[str]) -> None:
    model = rcnn(tasks)
    losses = losses_of(model, [rcnn_image(1), rcnn_image(2)])
    expected = set().union(*(LOSSES[task] for task in tasks))
    expected |= {"loss_mask", "loss_pose"} if "det" in tasks else set()
    assert set(losses) == expected
    assert all(torch.isfinite(x) and x.shape == () for x in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    entry = {"image": rcnn_image()["image"], "height": 120, "width": 100}
    (result,) = model.eval()([entry])
    assert set(result) == {ENTRIES[task] for task in tasks}
    for key, value in result.items():
        if key != "instances":
            assert value.shape == SHAPES[key] and torch.isfinite(value).all()


def test_instances_of_the_results() -> None:
    model = rcnn(["det"]).eval()
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    (result,) = model([{"image": rcnn_image()["image"], "height": 120, "width": 100}])
    found = result["instances"]
    assert set(found.get_fields()) == {
        "pred_boxes",
        "scores",
        "pred_classes",
        "pred_masks",
        "pred_keypoints",
    }
    assert 0 < len(found) <= 30 and found.image_size == (120, 100)
    assert found.pred_masks.shape == (len(found), 120, 100)
    assert found.pred_keypoints.shape == (len(found), 14, 3)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("joints", [False, True])
def test_masks_and_joints_are_detectron2s_switches(masks: bool, joints: bool) -> None:
    model = rcnn(["det"], masks=masks, joints=joints)
    losses = losses_of(model, [rcnn_image()])
    assert ("loss_mask" in losses, "loss_pose" in losses) == (masks, joints)


def test_without_anything_of_ours_it_is_detectron2s_network() -> None:
    """The same weights give the same detections as in GeneralizedRCNN."""
    model = rcnn(["det"], "MODEL.MULTITASK_RCNN.KEYPOINT_CLASSES", []).eval()
    cfg = rcnn_config(["det"])
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    cfg.MODEL.PROPOSAL_GENERATOR.NAME, cfg.MODEL.ROI_HEADS.NAME = "RPN", "StandardROIHeads"
    cfg.MODEL.ROI_KEYPOINT_HEAD.NAME = "KRCNNConvDeconvUpsampleHead"
    theirs = build_model(cfg).eval()
    assert type(theirs) is GeneralizedRCNN
    theirs.load_state_dict(model.state_dict())
    for network in (model, theirs):
        network.roi_heads.box_predictor.test_score_thresh = 0.0
    entry = {"image": rcnn_image()["image"]}
    with torch.no_grad():
        own, other = model([entry])[0]["instances"], theirs([entry])[0]["instances"]
    assert len(own) == len(other) > 0
    for name in ("scores", "pred_classes", "pred_masks", "pred_keypoints"):
        torch.testing.assert_close(own.get(name), other.get(name), atol=1e-4, rtol=1e-4)


def test_an_image_without_labels_adds_nothing() -> None:
    model = rcnn()
    bare = without(rcnn_image(5), *LABELS)
    # Batch statistics would see the bare image.
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    alone, beside = losses_of(model, [rcnn_image(1)]), losses_of(model, [rcnn_image(1), bare])
    assert set(alone) == set(beside)
    for name, value in alone.items():
        torch.testing.assert_close(value, beside[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("missing", LABELS)
def test_each_kind_of_label_may_be_missing(missing: str) -> None:
    model = rcnn()
    batch = [without(rcnn_image(seed), missing) for seed in (1, 2)]
    losses = losses_of(model, batch)
    task = next(task for task, entry in ENTRIES.items() if missing in (entry, task))
    silent = LOSSES[task] | ({"loss_mask", "loss_pose"} if task == "det" else set())
    for name, value in losses.items():
        assert (value == 0) == (name in silent), name
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def people(joints: list[bool], masks: list[bool]) -> dict[str, Any]:
    """Two people; those without joints or mask have zeros there, as the mapper gives them."""
    entry = rcnn_image(1)
    instances = entry["instances"]
    instances.gt_keypoints.tensor[~torch.tensor(joints)] = 0
    instances.gt_masks.tensor[~torch.tensor(masks)] = False
    return entry


def test_a_person_without_joints_or_mask_teaches_the_other_heads() -> None:
    model = rcnn(["det"])
    everything = losses_of(model, [people([True, True], [True, True])])
    for joints, masks in (([False, False], [True, True]), ([True, True], [False, False])):
        losses = losses_of(model, [people(joints, masks)])
        for name in DETECTION_LOSSES:
            torch.testing.assert_close(losses[name], everything[name])
        assert (losses["loss_pose"] > 0) == joints[0]
        assert (losses["loss_mask"] > 0) == masks[0]


def test_an_unlabelled_mask_is_not_an_empty_one() -> None:
    """The other person's masks cost what they cost alone."""
    model = rcnn(["det"], joints=False)
    with torch.no_grad():
        model.roi_heads.mask_head.predictor.bias.fill_(3.0)  # claims masks everywhere
    labelled = losses_of(model, [people([True] * 2, [True, True])])["loss_mask"]
    half = losses_of(model, [people([True] * 2, [True, False])])["loss_mask"]
    torch.testing.assert_close(half, labelled, rtol=0.2, atol=0)
    emptied = people([True] * 2, [True, True])
    emptied["instances"].gt_masks.tensor[1, 10:70, 40:78] = False
    emptied["instances"].gt_masks.tensor[1, 10, 40] = True
    assert losses_of(model, [emptied])["loss_mask"] > 1.3 * labelled


@pytest.mark.parametrize("field", ["gt_masks", "gt_keypoints"])
def test_images_with_and_without_a_field_in_one_batch(field: str) -> None:
    model = rcnn(["det"])
    bare = rcnn_image(2)
    bare["instances"].remove(field)
    name = {"gt_masks": "loss_mask", "gt_keypoints": "loss_pose"}[field]
    losses = losses_of(model, [rcnn_image(1), bare])
    assert losses[name] > 0 and all(torch.isfinite(x) for x in losses.values())
    assert losses_of(model, [bare])[name] == 0


def test_images_without_objects_are_background() -> None:
    model = rcnn(["det"])
    entry = rcnn_image(1)
    entry["instances"] = entry["instances"][:0]
    with torch.no_grad():
        losses = losses_of(model, [entry])
    assert losses["loss_det_rpn_cls"] > 0 and losses["loss_det_cls"] > 0
    assert losses["loss_mask"] == 0 and losses["loss_pose"] == 0


def test_crowds_are_no_background() -> None:
    """All of the image ignored: what is not an object teaches nothing."""
    model = rcnn(["det"], masks=False, joints=False)
    entry = rcnn_image(1)
    entry["instances"] = entry["instances"][:0]
    ignored = {**entry, "ignore_mask": torch.ones(96, 80, dtype=torch.bool)}
    losses = losses_of(model, [ignored])
    assert losses["loss_det_cls"] == 0
    # Anchors that lie mostly outside the image are still background.
    assert losses["loss_det_rpn_cls"] < losses_of(model, [entry])["loss_det_rpn_cls"]


def test_tasks_that_nobody_asked_for_do_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model = rcnn().eval()
    ran: list[str] = []
    for name, head in model.heads.items():
        original = head.layers
        monkeypatch.setattr(
            head, "layers", lambda f, n=name, run=original: (ran.append(n), run(f))[1]
        )
    monkeypatch.setattr(model.roi_heads, "forward", lambda *_: pytest.fail("detection ran"))
    (result,) = model([rcnn_image()], tasks=["parts", "boundary"])
    assert ran == ["parts", "boundary"] and set(result) == {"part_seg", "boundary"}


def test_test_tasks() -> None:
    model = rcnn(None, "TEST.TASKS", ["det", "classification"]).eval()
    assert set(model([rcnn_image()])[0]) == {"instances", "image_labels"}
    with pytest.raises(ValueError, match="'pose'.*det, seg, parts"):
        model([rcnn_image()], tasks=["pose"])


def test_given_boxes() -> None:
    """Detectron2's test-time augmentation asks for masks and joints of known boxes."""
    model = rcnn(["det"]).eval()
    known = Instances((96, 80))
    known.pred_boxes = Boxes(torch.tensor([[8.0, 6, 50, 90], [40, 10, 78, 70]]))
    known.pred_classes = torch.tensor([14, 3])
    known.scores = torch.tensor([0.9, 0.8])
    (found,) = model.inference([rcnn_image()], [known], do_postprocess=False)
    assert found.pred_masks.shape[0] == 2
    assert (found.pred_keypoints[0, :, 2] > 0).all()  # a person
    assert (found.pred_keypoints[1] == 0).all()  # boats have no joints


def test_flip_test_averages_the_maps() -> None:
    opts = ("TEST.AUG.ENABLED", True, "TEST.AUG.FLIP", True)
    model = rcnn(["det", *DENSE], *opts, joints=False).eval()
    image = torch.randint(0, 256, (3, 96, 96), dtype=torch.uint8)  # a multiple of 32: no padding
    one, other = model([{"image": image}, {"image": image.flip(-1)}])
    for name in ("sem_seg", "part_seg", "boundary"):
        torch.testing.assert_close(one[name], other[name].flip(-1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(one["image_labels"], other["image_labels"], atol=1e-4, rtol=1e-4)
    mirrored = other["occlusion"].flip(-1) * torch.tensor([-1.0, 1.0])[:, None, None]
    torch.testing.assert_close(one["occlusion"], mirrored, atol=1e-4, rtol=1e-4)


def test_mixed_precision_keeps_losses_in_float32() -> None:
    model = rcnn()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(model, [rcnn_image(1), rcnn_image(2)])
    assert all(x.dtype == torch.float32 and torch.isfinite(x) for x in losses.values())
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_memory_order_changes_no_number() -> None:
    answers = []
    for channels_last in (True, False):
        model = rcnn(None, "MODEL.CHANNELS_LAST", channels_last).eval()
        answers.append(model([rcnn_image()])[0])
    for name in SHAPES:
        torch.testing.assert_close(answers[0][name], answers[1][name], atol=1e-4, rtol=1e-4)


def test_totals_of_tasks() -> None:
    model = rcnn()
    assert model.task_names == ["det", "mask", "pose", *DENSE]
    prefixes = tuple(f"loss_{task}" for task in model.task_names)
    assert all(name.startswith(prefixes) for name in losses_of(model, [rcnn_image()]))


@pytest.mark.parametrize(
    ("tasks", "opts", "message"),
    [
        ([], (), "MODEL.TASKS.*empty"),
        (["center"], ("MODEL.TASKS", ["det", "pose"]), "'pose'.*MODEL.KEYPOINT_ON"),
        (["seg"], ("MODEL.MASK_ON", True), "MODEL.MASK_ON.*'det'"),
        (["seg"], ("INPUT.RESIZE_TEST", "centernet_keep"), "INPUT.RESIZE_TEST.*'shortest_edge'"),
        (["seg"], ("MODEL.FREEZE", ["backbone"]), "MODEL.FREEZE.*FREEZE_AT"),
        (["boxes"], (), "unknown task 'boxes'"),
        (
            ["det"],
            ("MODEL.ROI_HEADS.NUM_CLASSES", 1),
            r"MULTITASK_RCNN.KEYPOINT_CLASSES: found \[14\], expected ids .* 1 object classes",
        ),
    ],
)
def test_mistakes_in_the_config(tasks: list[str], opts: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rcnn(tasks, *opts)


def test_registered() -> None:
    assert type(rcnn(["seg"])) is MultitaskRCNN
