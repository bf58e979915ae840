from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.utils.events import EventStorage

from d2_multitask.engine import hooks
from d2_multitask.engine.hooks import PicturesHook, TimedProgress


class Lines:
    """An EventWriter that remembers at which iteration it wrote."""

    def __init__(self, trainer) -> None:
        self.trainer = trainer
        self.written = []

    def write(self) -> None:
        self.written.append(self.trainer.iter)


@pytest.mark.parametrize(
    ("seconds_per_step", "expected"),
    [
        pytest.param(0.1, [], id="Detectron2's lines are frequent enough"),
        pytest.param(4.0, [2, 7], id="every third step; Detectron2 writes at 4 and 9"),
        pytest.param(30.0, [0, 1, 2, 3, 5, 6, 7, 8], id="every step"),
    ],
)
def test_a_line_at_least_every_ten_seconds(seconds_per_step, expected, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(hooks.time, "monotonic", lambda: now[0])
    trainer = SimpleNamespace(iter=0, max_iter=10)
    lines = Lines(trainer)
    hook = TimedProgress(lines, period=5, seconds=10)
    hook.trainer = trainer
    hook.before_train()
    for trainer.iter in range(10):
        now[0] += seconds_per_step
        hook.after_step()
    assert lines.written == expected


def pictures_trainer():
    return SimpleNamespace(iter=0, model="model", last_batch=["image"], storage=EventStorage())


def test_pictures_are_drawn_each_period():
    calls = []

    def draw(model, batch):
        calls.append((trainer.iter, model, batch))
        return {"results": np.zeros((5, 7, 3), dtype=np.uint8)}

    trainer = pictures_trainer()
    hook = PicturesHook(3, draw)
    hook.trainer = trainer
    for trainer.iter in range(7):
        hook.after_step()
    assert calls == [(2, "model", ["image"]), (5, "model", ["image"])]
    name, picture, _ = trainer.storage._vis_data[0]
    assert name == "results"
    assert picture.shape == (3, 5, 7)


def test_picture_that_fails_does_not_end_the_training(caplog):
    def draw(model, batch):
        raise RuntimeError("no font")

    hook = PicturesHook(1, draw)
    hook.trainer = pictures_trainer()
    hook.after_step()
    assert "cannot be drawn" in caplog.text
    assert "no font" in caplog.text
