"""Teachers: which images they are asked about, and that they are no part of the network."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from d2_multitask.heads.base import Lesson
from d2_multitask.heads.box import BoxHead
from d2_multitask.heads.center import ObjectGrid
from d2_multitask.modeling.teachers import Teacher, Teachers
from modeling.test_mcn import model_of
from support import labelled_image, without

TASKS = ["seg", "det", "pose"]
TAUGHT = {f"loss_{task}_teacher" for task in ("seg", "center", "det", "pose")}


def thirds() -> list[dict]:
    """One image labelled for each task alone; the middle one has boxes, the last joints too."""
    return [
        without(labelled_image(seed=1), "instances"),
        labelled_image(seed=2, joints=False, sem_seg=False),
        labelled_image(seed=3, sem_seg=False),
    ]


def trained(tasks: list[str] = TASKS):
    """A network with objects that it is sure of."""
    network = model_of(tasks).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.02)
    if "center" in network.heads:
        network.heads["center"].heatmap[-1].bias.zero_()
        network.heads["pose"].keypoint_heatmap[-1].bias.zero_()
    return network


def test_losses_of_what_is_not_labelled_only() -> None:
    model = model_of(TASKS)
    plain = model(thirds())
    model.teachers = Teachers([Teacher(trained(), ("seg", "center", "det", "pose"))])
    losses = model(thirds())
    assert set(losses) == set(plain) | TAUGHT
    for name, value in plain.items():  # labels are learned as before
        assert torch.equal(losses[name], value), name
    assert all(losses[name] > 0 for name in TAUGHT)
    complete = model([labelled_image(seed=1), labelled_image(seed=2)])
    assert {name: float(complete[name]) for name in TAUGHT} == dict.fromkeys(TAUGHT, 0.0)
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_each_task_is_asked_about_its_own_images() -> None:
    """A teacher of `seg` sees the images without a map; labels of those do not matter then."""
    model = model_of(TASKS)
    model.teachers = Teachers([Teacher(trained(["seg"]), ("seg",))])
    both = model(thirds())["loss_seg_teacher"]
    pairs = [model([entry])["loss_seg_teacher"] for entry in thirds()]
    assert pairs[0] == 0
    torch.testing.assert_close(both, (pairs[1] + pairs[2]) / 2)


def test_images_of_other_sizes_have_the_padding_of_the_whole_batch() -> None:
    """The largest image is labelled, the teacher sees the small one alone."""
    small = without(labelled_image(32, 32, ((2, 2, 20, 30),), seed=1), "sem_seg", "instances")
    model = model_of(TASKS)
    model.load_state_dict(trained().state_dict())
    model.teachers = Teachers([Teacher(trained(), ("seg", "center", "det", "pose"))])
    losses = model([labelled_image(64, 96, seed=2), small])
    for name in TAUGHT:  # taught by itself, with the same padding
        torch.testing.assert_close(losses[name].detach(), torch.zeros(()), atol=1e-6, rtol=0)


def test_a_network_that_is_its_own_teacher_learns_nothing() -> None:
    model = model_of(TASKS)
    model.load_state_dict(trained().state_dict())
    model.teachers = Teachers([Teacher(trained(), ("seg", "center", "det", "pose"))])
    losses = model(thirds())
    for name in TAUGHT:
        torch.testing.assert_close(losses[name].detach(), torch.zeros(()), atol=1e-6, rtol=0)


def test_weights_and_the_mean_of_several_teachers() -> None:
    model, seg = model_of(TASKS), trained(["seg"])
    values = []
    for weights in ([1.0], [0.5], [1.0, 0.5]):
        model.teachers = Teachers([Teacher(seg, ("seg",), weight) for weight in weights])
        values.append(float(model(thirds())["loss_seg_teacher"].detach()))
    assert values[1:] == pytest.approx([values[0] / 2, values[0] * 0.75])


def test_channels_in_the_other_order() -> None:
    model, teacher = model_of(["seg"]), trained(["seg"])
    turned = copy.deepcopy(teacher)
    turned.pixel_mean, turned.pixel_std = teacher.pixel_mean.flip(0), teacher.pixel_std.flip(0)
    turned.backbone.conv.weight.copy_(teacher.backbone.conv.weight.flip(1))
    losses = []
    for one in (Teacher(teacher, ("seg",)), Teacher(turned, ("seg",), channels=(2, 1, 0))):
        model.teachers = Teachers([one])
        losses.append(model(thirds())["loss_seg_teacher"])
    torch.testing.assert_close(*losses)


def test_teachers_are_no_part_of_the_network() -> None:
    model = model_of(TASKS)
    names, count = list(model.state_dict()), sum(1 for _ in model.parameters())
    teacher = trained()
    model.teachers = Teachers([Teacher(teacher, ("seg",))])
    model.train()
    assert list(model.state_dict()) == names and sum(1 for _ in model.parameters()) == count
    assert not teacher.training
    assert copy.deepcopy(model).teachers is model.teachers
    model.teachers = lambda *_: pytest.fail("asked in evaluation mode")
    model.eval()([labelled_image()])


def test_boxes_by_giou_in_other_units() -> None:
    """The teacher's distances are in other units; a box that is the same costs nothing."""
    grid = ObjectGrid(channels=8)
    student = BoxHead(grid, box_loss="giou")
    teacher = BoxHead(grid, box_loss="giou", wh_scale=4.0)
    ltrb = torch.rand(1, 4, 5, 6, generator=torch.Generator().manual_seed(0)) + 2
    objects = torch.zeros(1, 1, 5, 6)
    objects[0, 0, 2, 3], objects[0, 0, 4, 4] = 0.5, 1.0
    where, rows = torch.ones(1, 1, 5, 6), torch.zeros(1, dtype=torch.int64)
    lesson = Lesson(teacher, {"ltrb": ltrb / 4}, objects, where, rows)
    assert float(student.distill({"ltrb": ltrb}, lesson)) == pytest.approx(0, abs=1e-5)
    other = ltrb.clone()
    other[0, :, 2, 3] += 1
    inner, outer = (F.softplus(x[0, :, 2, 3]) for x in (ltrb, other))
    sides = [(x[:2] + x[2:]).prod() for x in (inner, outer)]  # the inner box lies in the outer one
    wanted = (1 - sides[0] / sides[1]) * 0.5 / 2 * student.giou_weight
    torch.testing.assert_close(student.distill({"ltrb": other}, lesson), wanted)
