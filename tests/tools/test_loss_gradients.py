"""tools/loss_gradients.py: measurements by hand, and its files and errors as a user meets them."""

from __future__ import annotations

import json
import math
from argparse import Namespace

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from d2_multitask.engine.trainer import MultitaskTrainer
from engine_support import registered_people, tiny_cfg
from studies.gradients.measure import balancing_weights, measure, read_curves
from tool_support import load_tool

tool = load_tool("loss_gradients.py")
INFINITE = float("inf")


class TwoTasks(nn.Module):
    """Features: the input times a weight, and twice that; losses of sums of them."""

    task_names = ("a", "b", "c")

    def __init__(self, **weights: float) -> None:
        super().__init__()
        self.backbone = Doubled()
        self.weights = weights

    def forward(self, batch):
        features = self.backbone(torch.stack([x["image"] for x in batch]))
        p2, p3 = features["p2"], features["p3"]
        losses = {"a_x": p2.sum(), "a_y": -p2.sum(), "b": p3.square().sum() / 2}
        losses["c"] = p2.new_zeros(())
        return {f"loss_{name}": weight * losses[name] for name, weight in self.weights.items()}


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return {"p2": self.weight * x, "p3": 2 * self.weight * x}


BATCH = [{"image": torch.tensor([3.0, 0.0, 4.0, 0.0])}]


def test_tasks_and_losses_by_hand():
    model = TwoTasks(a_x=3.0, a_y=1.0, b=3.0, c=1.0)
    found = measure(model, [BATCH], 7)
    # of a_x: 3 for each of four, of a_y -1; of b: 3 p3 = 3 * 2 * (3, 0, 4, 0), norm 30
    assert (found.iteration, found.losses["loss_b"]) == (7, 150.0)
    assert list(found.by_loss.norms.values()) == pytest.approx([6, 2, 30, 0])
    assert list(found.by_task.norms.values()) == pytest.approx([4, 30, 0])
    assert list(found.by_task.shares.values()) == pytest.approx([4 / 34, 30 / 34, 0])
    assert found.by_loss.pairs["loss_a_x", "loss_a_y"] == pytest.approx(-1)
    assert found.pairs == {("a", "b"): 0, ("a", "c"): 0, ("b", "c"): 0}
    assert found.by_task.condition == INFINITE  # c has no gradient
    assert model.backbone.weight.grad is None and not model.backbone._forward_hooks


def test_batches_are_as_one_large_batch_and_weights_count():
    other = [{"image": torch.tensor([0.0, 5.0, 12.0, 0.0])}]
    model = TwoTasks(a_x=1.0, b=1.0)
    found = measure(model, [BATCH, other], weights={"b": 0.5})
    # by the eight features of both: of a_x eight times 1; of b norms 10 and 26, halved
    norms = [math.sqrt(8), math.hypot(10, 26) / 2]
    assert list(found.by_task.norms.values()) == pytest.approx(norms)
    assert found.by_task.condition == pytest.approx(max(norms) / min(norms))
    assert found.losses["loss_b"] == pytest.approx((50 + 338) / 2 / 2)


@pytest.mark.parametrize(
    ("model", "batches", "message"),
    [
        (nn.Linear(1, 1), [BATCH], "Linear has no backbone"),
        (TwoTasks(a_x=1.0), [], "found no batch"),
        (TwoTasks(), [BATCH], "expected some of"),
        (TwoTasks(a_x=1.0, b=math.nan), [BATCH], r"Iteration 99: .*NaN .*'loss_b'"),
    ],
)
def test_bad_arguments(model, batches, message):
    with pytest.raises(ValueError, match=message):
        measure(model, batches, 99)


def test_checkpoints_of_a_training(tmp_path):
    """Automatic weights are those of the checkpoint; another network's config is an error."""
    with registered_people(tmp_path / "people") as people:
        cfg = tiny_cfg(people, tmp_path / "run", DATASETS__TEST=(), SOLVER__MAX_ITER=2)
        cfg.SOLVER.LOSS_BALANCING = "gradient_norm"
        trainer = MultitaskTrainer(cfg)
        trainer.train()
        balancer = trainer._trainer.balancer
        weights = dict(zip(balancer.tasks, balancer.weights.tolist(), strict=True))
        args = Namespace(run=tmp_path / "run", batches=1, config_file="other.yaml")
        (found,) = tool.measure_all(cfg, args)
        (tmp_path / "run/metrics.json").unlink()
        args.run, cfg.MODEL.WEIGHTS = None, str(tmp_path / "run/model_final.pth")
        (again,) = tool.measure_all(cfg, args)
        assert again == found and found.iteration == 1
        state = torch.load(cfg.MODEL.WEIGHTS, weights_only=False)
        assert balancing_weights(state) == weights and len(set(weights.values())) == 4
        del state["trainer"]
        torch.save(state, cfg.MODEL.WEIGHTS)
        (plain,) = tool.measure_all(cfg, args)
        assert found.losses["loss_seg"] == pytest.approx(weights["seg"] * plain.losses["loss_seg"])
        cfg.MODEL.TEACHERS = [{"WEIGHTS": cfg.MODEL.WEIGHTS, "TASKS": ["seg"]}]
        (taught,) = tool.measure_all(cfg, args)
        assert set(taught.losses) - set(plain.losses) == {"loss_seg_teacher"}
        cfg.MODEL.TEACHERS = []
        args.run, cfg.MODEL.DET_HEAD.BOX_LOSS = tmp_path / "run", "giou"
        with pytest.raises(ValueError, match=r"other.yaml: .* has no values for . tensors .*ltrb"):
            list(tool.measure_all(cfg, args))


def test_weights_that_are_not_all(tmp_path, capsys):
    with registered_people(tmp_path / "people") as people:
        cfg = tiny_cfg(people, tmp_path)
        (tmp_path / "config.yaml").write_text(cfg.dump())
        state = build_model(cfg).state_dict()
        part = {name: x for name, x in state.items() if not name.startswith("heads.seg.")}
        words = ["--config-file", str(tmp_path / "config.yaml"), "--batches", "1"]
        words += ["--output", str(tmp_path / "out"), "MODEL.WEIGHTS"]
        for content in (state, part):
            torch.save({"model": content}, tmp_path / "start.pth")
            assert tool.main([*words, str(tmp_path / "start.pth")]) == 0
            said = "tensors of the network, e.g. heads.seg." in capsys.readouterr().out
            assert said == (content is part)
    assert "they have their initial values" in (tmp_path / "out/gradients.md").read_text()


def test_wrong_options(tmp_path, capsys):
    (tmp_path / "file").touch()
    for words, message in (
        (["--run", "run", "MODEL.WEIGHTS", "a.pth"], "and MODEL.WEIGHTS, expected one"),
        (["--output", str(tmp_path / "file")], f"--output: found the file {tmp_path}/file, expect"),
    ):
        with pytest.raises(SystemExit):
            tool.main(["--config-file", "mcn_det.yaml", *words])
        assert message in capsys.readouterr().err


def test_what_a_training_logged(tmp_path):
    assert read_curves(tmp_path / "metrics.json") == {}
    lines = [{"iteration": i, "balance/weight-seg": i / 10, "time": 1.0} for i in (19, 39)]
    lines.append({"iteration": 59, "balance/weight-seg": math.nan})
    lines += [{"iteration": 69, "balance/weight-seg": "x"}, {"balance/weight-seg": 1.0}, [1]]
    text = "\n".join(map(json.dumps, lines)) + '\n{"iteration": 79, "balan'
    (tmp_path / "metrics.json").write_text(text)
    assert read_curves(tmp_path / "metrics.json") == {"weight": {"seg": {19: 1.9, 39: 3.9}}}
    assert balancing_weights({"trainer": {"_trainer": {}}}) == balancing_weights({}) == {}
