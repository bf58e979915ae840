"""The best checkpoint, patience and the last checkpoints; a resumed run ends as a whole one."""

from __future__ import annotations

import json
import logging
import math
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.engine.hooks import BestCheckpointer
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

from d2_multitask.checkpoint import read_description
from d2_multitask.engine.best import Best, BestMetric, EarlyStop, LastCheckpoints
from d2_multitask.engine.trainer import MultitaskTrainer, load_for_evaluation
from engine_support import assert_same, registered_people, tiny_cfg
from worker_support import in_two_processes


@pytest.fixture(autouse=True)
def detectron2_logger(caplog):
    """DefaultTrainer sets Detectron2's logger up for good unless it is set up."""
    caplog.set_level(logging.INFO, logger="detectron2")
    caplog.set_level(logging.INFO, logger="d2_multitask")


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    with registered_people(tmp_path_factory.mktemp("best")) as name:
        yield name


@pytest.mark.parametrize(
    ("text", "results", "mode", "expected"),
    [
        ("bbox/AP", {"bbox/AP": 40.0, "bbox/AP50": 60.0}, "max", 40),
        ("a_set/sem_seg/IoU-traffic light", {"a_set/sem_seg/IoU-traffic light": 3}, "max", 3),
        ("min reconstruction/error", {"reconstruction/error": 0.5}, "min", 0.5),
        ("bbox/AP:50 + keypoints/AP:40", {"bbox/AP": 25, "keypoints/AP": 30}, "max", 0.625),
        ("bbox/AP:50 + min x/error:1", {"bbox/AP": 25, "x/error": 4}, "max", 0.375),
        ("bbox/AP:50 + segm/AP:40", {"bbox/AP": 25, "segm/AP": math.nan}, "max", math.nan),
        ("bbox/AP", {}, "max", math.nan),
    ],
)
def test_scores(text, results, mode, expected):
    metric = BestMetric(text)
    assert metric.mode == mode
    assert metric.score(results) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bbox/AP + keypoints/AP:50", "expected a reference with each"),
        ("bbox/AP:high", "bbox/AP: found the reference 'high', expected a number above 0"),
        ("bbox/AP:0", "found the reference '0'"),
    ],
)
def test_malformed_metrics(text, message):
    with pytest.raises(ValueError, match=rf"TEST\.BEST_METRIC.*{message}"):
        BestMetric(text)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"TEST__BEST_METRIC": "bbox/Ap"}, r"found 'bbox/Ap'.*did you mean .*bbox/AP.* sem_seg/mI"),
        ({"TEST__BEST_METRIC": "other/bbox/AP"}, "no evaluator gives"),
        ({"SOLVER__PATIENCE": -1}, r"SOLVER\.PATIENCE: found -1, expected 0 \(no early stop\)"),
        (
            {"SOLVER__KEEP_CHECKPOINTS": -2},
            r"KEEP_CHECKPOINTS: found -2, expected 0 \(all\)",
        ),
        ({"SOLVER__PATIENCE": 2}, r"SOLVER\.PATIENCE: found 2 without TEST\.BEST_METRIC"),
        ({"TEST__BEST_METRIC": "bbox/AP", "TEST__EVAL_PERIOD": 0}, r"found TEST\.EVAL_PERIOD 0"),
        ({"TEST__BEST_METRIC": "bbox/AP", "DATASETS__TEST": ()}, "none, as DATASETS.TEST"),
    ],
)
def test_mistakes_show_before_training(more, message, people, tmp_path):
    with pytest.raises(ValueError, match=message):
        MultitaskTrainer(tiny_cfg(people, tmp_path, **{"TEST__EVAL_PERIOD": 1, **more}))


def test_names_of_several_sets_have_the_sets_in_front(people, tmp_path):
    with registered_people(tmp_path / "more", num_images=2) as other:
        cfg = tiny_cfg(people, tmp_path, TEST__EVAL_PERIOD=1)
        cfg.DATASETS.TEST = (people, other)
        cfg.TEST.BEST_METRIC = f"{other}/bbox/AP"
        MultitaskTrainer(cfg)
        cfg.TEST.BEST_METRIC = "bbox/AP"
        with pytest.raises(ValueError, match=f"{people}/bbox/AP, .*{other}/sem_seg/mIoU"):
            MultitaskTrainer(cfg)


STEPS, PERIOD = 24, 2
# Of the evaluations after iterations 1, 3, 5, ...
SCORES = [10, 30, math.nan, 20, 29, 35, 35, 1, 2, 3, 4, 5]


class ScriptedTrainer(MultitaskTrainer):
    """Its evaluations take no time and give the numbers of a list."""

    scores = SCORES

    def evaluate(self):
        score = self.scores[min(self.iter, self.max_iter - 1) // PERIOD]
        self._last_eval_results = {"bbox": {"AP": float(score)}}
        return self._last_eval_results


class Stop(HookBase):
    """Killed after a step, in its evaluation, or asked to stop by a signal."""

    def __init__(self, at: int, how: str) -> None:
        self._at, self._how = at, how

    def after_step(self) -> None:
        if self.trainer.iter != self._at:
            return
        if self._how == "killed":
            raise InterruptedError
        if self._how == "signal":
            self.trainer._stop._received = 15
        else:
            self.trainer.scores = None  # the evaluation fails


def scripted(people: str, folder: Path, **more) -> ScriptedTrainer:
    cfg = tiny_cfg(people, folder, MODEL__TASKS=["det"], SOLVER__MAX_ITER=STEPS)
    cfg.TEST.BEST_METRIC, cfg.TEST.EVAL_PERIOD = "bbox/AP", PERIOD
    cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.KEEP_CHECKPOINTS = 3, 2
    cfg.SOLVER.PATIENCE, cfg.SOLVER.EMA.ENABLED = 4, True
    for key, value in more.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    seed_all_rng(1)
    trainer = ScriptedTrainer(cfg)
    trainer.resume_or_load(True)
    return trainer


def ending(folder: Path) -> dict:
    """All that a training leaves behind."""
    files = {path.name: torch.load(path, weights_only=True) for path in folder.glob("*.pth")}
    results = json.loads((folder / "results.json").read_text())
    return files | {"results": results, "tag": (folder / "last_checkpoint").read_text()}


@pytest.fixture(scope="module")
def whole(people, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    trainer = scripted(people, folder)
    results = trainer.train()
    return folder, results


def test_ends_by_patience_as_a_complete_run(whole, caplog):
    folder, results = whole
    end = ending(folder)
    # 35 at iteration 11 is the best; 35, 1, 2, 3 are no better; NaN at 5 is none.
    assert {name: file["iteration"] for name, file in end.items() if ".pth" in name} == {
        "model_best.pth": 11,
        "model_final.pth": 19,
        "model_0000014.pth": 14,
        "model_0000017.pth": 17,
    }
    assert end["tag"] == "model_final.pth"
    assert results == {"bbox": {"AP": 3.0}}
    assert end["results"] == {"bbox": {"AP": 3.0}, "best": {"iteration": 11, "score": 35.0}}
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert [x["val_score"] for x in lines if "val_score" in x][-1] == 3.0
    assert read_description(folder / "model_best.pth") == read_description(
        folder / "model_final.pth"
    )


def test_resuming_an_ended_training_trains_nothing(whole, people, tmp_path, caplog):
    folder, _ = whole
    before = ending(folder)
    scripted(people, folder).train()
    assert "Nothing is left to train: 4 evaluations without a better bbox/AP" in caplog.text
    assert_same(ending(folder), before)


@pytest.mark.parametrize(
    ("at", "how", "error"),
    [
        *((at, "signal", SystemExit) for at in (4, 5, 11, 17, 19)),
        *((at, "killed", InterruptedError) for at in (11, 15)),
        *((at, "evaluation", TypeError) for at in (5, 11, 17)),
    ],
)
def test_interrupted_training_ends_as_the_whole_one(at, how, error, whole, people, tmp_path):
    trainer = scripted(people, tmp_path)
    stop = Stop(at, how)
    stop.trainer = trainer
    trainer._hooks.insert(len(trainer._hooks) if how == "killed" else 0, stop)
    with pytest.raises(error):
        trainer.train()
    scripted(people, tmp_path).train()
    assert_same(ending(tmp_path), ending(whole[0]))


def test_nothing_else_is_deleted(people, tmp_path):
    """Not what a checkpoint of somebody else's names."""
    outside, own = tmp_path / "outside.pth", tmp_path / "out" / "model_best.pth"
    outside.write_text("kept")
    hooks = scripted(people, own.parent)._hooks
    (last,) = (h for h in hooks if isinstance(h, LastCheckpoints))
    own.write_text("kept")
    names = ["../outside.pth", str(outside), "model_best.pth", "../model_0000001.pth"]
    last.load_state_dict({"names": [*names, "model_0000001.pth", "model_0000002.pth"]})
    last.before_train()
    assert outside.exists() and own.exists()
    assert last.state_dict() == {"names": ["model_0000001.pth", "model_0000002.pth"]}


def test_without_patience_the_last_evaluation_counts(people, tmp_path):
    scores = [*SCORES[:-1], 50]
    trainer = scripted(people, tmp_path, SOLVER__PATIENCE=0)
    trainer.scores = scores
    trainer.train()
    end = ending(tmp_path)
    for name in ("model_best.pth", "model_final.pth"):
        assert end[name]["iteration"] == end[name]["trainer"]["iteration"] == STEPS - 1
    assert end["tag"] == "model_final.pth"


def test_never_best_without_a_number(people, tmp_path, caplog):
    trainer = scripted(people, tmp_path)
    trainer.scores = [math.nan] * 12
    trainer.train()
    assert not (tmp_path / "model_best.pth").exists()
    assert "bbox/AP is nan: it is not compared" in caplog.text
    assert "4 evaluations without a better bbox/AP (there is no best)" in caplog.text


def test_another_metric_starts_anew(people, tmp_path, caplog):
    trainer = scripted(people, tmp_path, SOLVER__MAX_ITER=6)
    trainer.train()
    trainer = scripted(people, tmp_path, SOLVER__MAX_ITER=8, TEST__BEST_METRIC="min bbox/AP")
    trainer.train()
    assert "TEST.BEST_METRIC was 'bbox/AP': the best of 'min bbox/AP' starts anew" in caplog.text
    assert ending(tmp_path)["results"]["best"] == {"iteration": 7, "score": 20}


def test_best_has_the_evaluated_weights(people, tmp_path):
    """Evaluated again, model_best.pth has the score that made it the best: that of the average."""
    cfg = tiny_cfg(people, tmp_path, SOLVER__MAX_ITER=6, SOLVER__BASE_LR=0.01)
    cfg.TEST.BEST_METRIC = "bbox/AP:50 + sem_seg/IoU-person:60"
    cfg.TEST.EVAL_PERIOD, cfg.SOLVER.EMA.ENABLED = 2, True
    MultitaskTrainer(cfg).train()
    best = json.loads((tmp_path / "results.json").read_text())["best"]
    model = build_model(cfg)
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_best.pth")
    load_for_evaluation(cfg, model)
    found = MultitaskTrainer.test(cfg, model)
    score = (found["bbox"]["AP"] / 50 + found["sem_seg"]["IoU-person"] / 60) / 2
    assert score == pytest.approx(best["score"], rel=1e-9)


def test_detectron2s_own_best_checkpointer(people, tmp_path):
    class Trainer(DefaultTrainer):
        @classmethod
        def build_evaluator(cls, cfg, dataset_name):
            return MultitaskTrainer.build_evaluator(cfg, dataset_name)

    cfg = tiny_cfg(people, tmp_path, TEST__EVAL_PERIOD=1, MODEL__TASKS=["det", "seg"])
    trainer = Trainer(cfg)
    best = BestCheckpointer(1, trainer.checkpointer, "sem_seg/mIoU")
    trainer.register_hooks([best])
    trainer.train()
    assert (tmp_path / "model_best.pth").is_file()
    assert best.best_metric > 0


def end_in_a_process(rank: int) -> int:
    """Where a rank stops; the other ones have no results."""
    cfg = tiny_cfg("", Path("."), TEST__EVAL_PERIOD=1, SOLVER__PATIENCE=2)
    cfg.TEST.BEST_METRIC, cfg.OUTPUT_DIR = "bbox/AP", tempfile.mkdtemp()
    checkpointer = SimpleNamespace(save=lambda *args, **more: None)
    hook = Best(cfg, checkpointer, lambda: None)
    score = {"value": 5.0}
    storage = SimpleNamespace(
        iter=0,
        latest=lambda: {"bbox/AP": (score["value"], storage.iter)} if rank == 0 else {},
        put_scalar=lambda *args, **more: None,
    )
    hook.trainer = SimpleNamespace(iter=0, max_iter=9, storage=storage, _last_eval_results={})
    for iteration in range(9):
        hook.trainer.iter = storage.iter = iteration
        score["value"] = [1, 2, 2, 3, 3, 3, 9, 9, 9][iteration]
        try:
            hook.after_step()
        except EarlyStop:
            return iteration
    return -1


def test_all_processes_end_when_one_does(monkeypatch):
    monkeypatch.setattr(comm, "all_gather", lambda value: [value])
    assert end_in_a_process(0) == 5
    monkeypatch.setattr(comm, "all_gather", lambda value: [value, True])
    assert end_in_a_process(1) == 0


@pytest.mark.slow
def test_two_processes_end_after_the_same_step(tmp_path):
    assert in_two_processes(end_in_a_process, tmp_path) == [5, 5]
