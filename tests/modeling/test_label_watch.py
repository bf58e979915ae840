"""A task that never meets a label is named, whatever the trainer."""

from __future__ import annotations

import logging

import torch

from d2_multitask.losses import LabelWatch


def test_task_without_labels_is_named_once_a_period(caplog) -> None:
    watch = LabelWatch(period=3)
    seen, unseen = torch.tensor(1.0), torch.tensor(0.0, requires_grad=True)
    with caplog.at_level(logging.WARNING):
        for batch in range(7):
            # Pose meets a label in one batch of each period, and in one of its losses.
            pose = seen if batch in (1, 5) else unseen
            watch.update(
                {"loss_seg": unseen, "loss_pose_offset": unseen, "loss_pose_heatmap": pose}
            )
    assert len(caplog.messages) == 2
    assert all("Task 'seg' has learned nothing in 3 batches" in m for m in caplog.messages)


def test_teachers_that_teach_nothing_are_named(caplog) -> None:
    one, zero = torch.tensor(1.0), torch.tensor(0.0)
    for taught, warnings in ((zero, 1), (one, 0)):
        watch = LabelWatch(period=2)
        caplog.clear()
        for pose in (zero, taught):
            losses = {"loss_seg": one, "loss_pose_offset": one}
            watch.update({**losses, "loss_seg_teacher": zero, "loss_pose_teacher": pose})
        assert len(caplog.messages) == warnings
        assert all("MODEL.TEACHERS have taught nothing in 2" in m for m in caplog.messages)


def test_tasks_that_take_turns_are_counted_by_name(caplog, monkeypatch) -> None:
    """Datasets take turns, so that each batch has other losses than the one before."""
    watch = LabelWatch(period=6)
    one, zero = torch.tensor(1.0), torch.tensor(0.0)
    looks = []
    to_list = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda t: looks.append(t) or to_list(t))
    batches = [{"loss_det_size": one, "loss_seg": zero}, {"loss_pose_offset": one}, {}]
    with caplog.at_level(logging.WARNING):
        for batch in range(13):
            watch.update(batches[batch % 3])
    assert len(caplog.messages) == 2
    assert all("Task 'seg' has learned nothing in 6 batches" in m for m in caplog.messages)
    assert len(looks) == 2  # each makes the processor wait for the device
