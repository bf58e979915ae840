from __future__ import annotations

import gc
import json
import logging
import math
import os
from pathlib import Path

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.modeling import build_model

from d2_multitask.checkpoint import MultitaskCheckpointer
from d2_multitask.data.folder_lock import FolderLock, LockHeldError
from d2_multitask.data.sampler import STOP_SIGNALS
from d2_multitask.engine import trainer as trainer_module
from d2_multitask.engine.trainer import MultitaskTrainer, load_for_evaluation
from engine_support import registered_people, tiny_cfg


@pytest.fixture(autouse=True)
def detectron2_logger(caplog):
    """DefaultTrainer sets Detectron2's logger up for good unless it is set up."""
    caplog.set_level(logging.INFO, logger="detectron2")
    caplog.set_level(logging.INFO, logger="d2_multitask")


@pytest.fixture
def people(tmp_path):
    with registered_people(tmp_path / "people") as name:
        yield name


def train(cfg, resume: bool = False) -> MultitaskTrainer:
    trainer = MultitaskTrainer(cfg)
    trainer.resume_or_load(resume)
    trainer.train()
    return trainer


def results_of(cfg):
    return json.loads((Path(cfg.OUTPUT_DIR) / "results.json").read_text())


def test_trains_evaluates_once_and_writes_results(people, tmp_path, monkeypatch):
    evaluated = []
    test = MultitaskTrainer.test.__func__
    monkeypatch.setattr(
        MultitaskTrainer,
        "test",
        classmethod(lambda cls, *args: evaluated.append(1) or test(cls, *args)),
    )
    cfg = tiny_cfg(people, tmp_path / "out")
    train(cfg)
    assert evaluated == [1]
    results = results_of(cfg)
    assert set(results) == {"bbox", "keypoints", "sem_seg"}
    assert 0 <= results["sem_seg"]["IoU-person"] <= 100
    assert results["bbox"]["APl"] is None
    lines = [json.loads(x) for x in (tmp_path / "out" / "metrics.json").read_text().splitlines()]
    logged = {key for line in lines for key in line}
    assert {"task/seg", "task/det", "task/pose", "loss_seg", "lr", "bbox/AP"} <= logged
    assert (tmp_path / "out" / "model_final.pth").is_file()


def test_learns_the_four_images(people, tmp_path):
    """The loop as a whole learns: losses fall by a lot on bright boxes."""
    cfg = tiny_cfg(people, tmp_path, SOLVER__MAX_ITER=40, SOLVER__BASE_LR=0.02, DATASETS__TEST=())
    trainer = train(cfg)
    losses = [value for value, _ in trainer.storage.history("loss_seg").values()]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_evaluation_runs_a_copy_and_training_goes_on(people, tmp_path, monkeypatch):
    """The copy without norms is evaluated; the network keeps its weights, names and mode."""
    evaluated = []
    original = trainer_module.inference_model
    monkeypatch.setattr(
        trainer_module,
        "inference_model",
        lambda cfg, model: evaluated.append(original(cfg, model)) or evaluated[-1],
    )
    cfg = tiny_cfg(people, tmp_path, SOLVER__MAX_ITER=4, TEST__EVAL_PERIOD=2)
    trainer = train(cfg)
    assert len(evaluated) == 2 and trainer.model.training
    assert all(copy is not trainer.model for copy in evaluated)
    assert not any(p.requires_grad for p in evaluated[0].parameters())
    assert all(p.requires_grad for p in trainer.model.parameters())
    saved = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    assert set(saved) == set(trainer.model.state_dict())


def test_several_test_sets_have_results_each(people, tmp_path):
    with registered_people(tmp_path / "more", num_images=2) as other:
        cfg = tiny_cfg(people, tmp_path / "out", MODEL__TASKS=["seg"])
        cfg.DATASETS.TEST = (people, other)
        MultitaskTrainer.test(cfg, build_model(cfg))
        assert set(results_of(cfg)) == {people, other}
        assert set(results_of(cfg)[other]) == {"sem_seg"}


def test_no_test_set_is_a_warning(people, tmp_path, caplog):
    cfg = tiny_cfg(people, tmp_path / "out", DATASETS__TEST=())
    assert MultitaskTrainer.test(cfg, build_model(cfg)) == {}
    assert "DATASETS.TEST is empty" in caplog.text


def test_mistake_in_the_evaluation_shows_before_training(people, tmp_path):
    cfg = tiny_cfg(people, tmp_path, TEST__KEYPOINT_OKS_SIGMAS=[0.1] * 5)
    with pytest.raises(ValueError, match=r"TEST\.KEYPOINT_OKS_SIGMAS: found 5 values, expected 17"):
        MultitaskTrainer(cfg)


def test_broken_loss_names_the_images(people, tmp_path):
    trainer = MultitaskTrainer(tiny_cfg(people, tmp_path, DATASETS__TEST=()))
    head = trainer.model.heads["seg"]
    losses = head.losses
    head.losses = lambda *args: {k: v * math.nan for k, v in losses(*args).items()}
    with pytest.raises(
        FloatingPointError, match=r"(?s)iteration 0: loss_seg = nan.*people/\d\.png"
    ):
        trainer.train()


def test_data_problems_are_reported_at_the_end(people, tmp_path, caplog):
    trainer = MultitaskTrainer(tiny_cfg(people, tmp_path, DATASETS__TEST=(), SOLVER__MAX_ITER=6))
    (tmp_path / "people" / "3.png").write_bytes(b"no image")
    trainer.train()
    end = caplog.text[caplog.text.index("Problems in the data") :]
    assert "3.png" in end


def test_pictures_go_to_tensorboard(people, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tiny_cfg(people, tmp_path / "out", VIS_PERIOD=2, DATASETS__TEST=()))
    (file,) = (tmp_path / "out").glob("events*")
    events = EventAccumulator(str(file), size_guidance={"images": 0})
    events.Reload()
    assert "pictures/results" in events.Tags()["images"]
    assert [image.step for image in events.Images("pictures/results")] == [1]


def test_average_is_evaluated_saved_and_loaded(people, tmp_path, monkeypatch):
    evaluated = []
    test = MultitaskTrainer.test.__func__

    def remember(cls, cfg, model, evaluators=None):
        evaluated.append(model)
        return test(cls, cfg, model, evaluators)

    monkeypatch.setattr(MultitaskTrainer, "test", classmethod(remember))
    cfg = tiny_cfg(people, tmp_path / "out", SOLVER__EMA__ENABLED=True)
    trainer = train(cfg)
    assert evaluated == [trainer.weight_average.model]
    assert trainer.weight_average.num_updates == 3
    cfg.MODEL.WEIGHTS = str(tmp_path / "out" / "model_final.pth")
    for enabled, source in ((True, trainer.weight_average.model), (False, trainer.model)):
        cfg.SOLVER.EMA.ENABLED = enabled
        model = build_model(cfg)
        load_for_evaluation(cfg, model)
        for name, value in source.state_dict().items():
            assert torch.equal(model.state_dict()[name], value), name
    different = [
        not torch.equal(a, b)
        for a, b in zip(
            trainer.model.parameters(), trainer.weight_average.model.parameters(), strict=True
        )
    ]
    assert any(different)


@pytest.mark.parametrize("ema", [False, True])
def test_resumes_where_it_stopped(ema, people, tmp_path):
    cfg = tiny_cfg(people, tmp_path, DATASETS__TEST=(), SOLVER__EMA__ENABLED=ema)
    first = train(cfg)
    cfg.SOLVER.MAX_ITER = 5
    second = MultitaskTrainer(cfg)
    second.resume_or_load(True)
    assert second.start_iter == 3
    for name, value in first.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), name
    assert second.optimizer.state_dict()["state"][0]["step"] == 3
    if ema:
        assert second.weight_average.num_updates == 3
    second.train()
    assert second.iter == 5
    if ema:
        assert second.weight_average.num_updates == 5


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_signal_finishes_the_step_saves_and_resume_goes_on(number, people, tmp_path):
    class Kill(HookBase):
        def before_step(self) -> None:
            if self.trainer.iter == 1:
                os.kill(os.getpid(), number)

    cfg = tiny_cfg(people, tmp_path, DATASETS__TEST=(), SOLVER__EMA__ENABLED=True)
    first = MultitaskTrainer(cfg)
    first.register_hooks([Kill()])
    with pytest.raises(SystemExit) as stop:
        first.train()
    assert stop.value.code == 128 + number
    second = MultitaskTrainer(cfg)
    second.resume_or_load(True)
    assert second.start_iter == 2 == second.weight_average.num_updates
    assert second.scheduler.last_epoch == 2
    for name, value in first.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), name
    second.train()
    assert second.iter == 3


def test_second_training_in_one_folder_is_refused(people, tmp_path):
    cfg = tiny_cfg(people, tmp_path, DATASETS__TEST=())
    trainer = MultitaskTrainer(cfg)
    with FolderLock(tmp_path), pytest.raises(LockHeldError, match=f"process {os.getpid()}"):
        trainer.train()
    trainer.train()  # free again


def test_resume_of_a_finished_training_evaluates_only(people, tmp_path):
    cfg = tiny_cfg(people, tmp_path / "out")
    train(cfg)
    results = tmp_path / "out" / "results.json"
    before = results.read_text()
    results.unlink()
    train(cfg, resume=True)
    assert results.read_text() == before


def test_mixed_precision_trains_on_the_cpu(people, tmp_path, recwarn):
    cfg = tiny_cfg(people, tmp_path, SOLVER__AMP__ENABLED=True, DATASETS__TEST=())
    trainer = train(cfg)
    assert math.isfinite(trainer.storage.history("total_loss").latest())
    assert not [w for w in recwarn if "GradScaler" in str(w.message)]


@pytest.mark.parametrize("resume", [False, True])
def test_random_weights_are_a_loud_warning(resume, people, tmp_path, caplog):
    cfg = tiny_cfg(people, tmp_path / "new")
    load_for_evaluation(cfg, build_model(cfg), resume=resume)
    assert "RANDOM weights" in caplog.text
    assert "MODEL.WEIGHTS" in caplog.text


def test_checkpoint_without_an_average_is_a_warning(people, tmp_path, caplog):
    cfg = tiny_cfg(people, tmp_path)
    model = build_model(cfg)
    MultitaskCheckpointer(model, str(tmp_path)).save("plain")
    cfg.MODEL.WEIGHTS = str(tmp_path / "plain.pth")
    cfg.SOLVER.EMA.ENABLED = True
    load_for_evaluation(cfg, model)
    assert "has no averaged weights" in caplog.text


class TensorCount(HookBase):
    """Number of tensors alive after some steps."""

    def __init__(self, *iterations: int) -> None:
        self.iterations = iterations
        self.counts = []

    def after_step(self) -> None:
        if self.trainer.iter in self.iterations:
            gc.collect()
            self.counts.append(sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects()))


def test_memory_does_not_grow(people, tmp_path):
    cfg = tiny_cfg(people, tmp_path, SOLVER__MAX_ITER=25, DATASETS__TEST=())
    cfg.SOLVER.EMA.ENABLED = True
    trainer = MultitaskTrainer(cfg)
    count = TensorCount(3, 24)
    trainer.register_hooks([count])
    trainer.train()
    # The number of objects in a batch varies by chance: a few tensors more or less are no leak.
    assert abs(count.counts[1] - count.counts[0]) < 20


def test_log_period_is_that_of_the_config(people, tmp_path):
    from detectron2.engine.hooks import PeriodicWriter

    trainer = MultitaskTrainer(tiny_cfg(people, tmp_path, SOLVER__LOG_PERIOD=7))
    (writer,) = (hook for hook in trainer._hooks if isinstance(hook, PeriodicWriter))
    assert writer._period == 7
