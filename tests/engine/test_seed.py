"""``SEED`` makes trainings of different networks comparable: same start, same order of images."""

from __future__ import annotations

import itertools

import pytest
import torch
from detectron2.utils.env import seed_all_rng

from d2_multitask.engine.trainer import MultitaskTrainer
from engine_support import registered_people, tiny_cfg


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seed")
    with registered_people(folder, num_images=5) as name:
        yield name


def seeded_trainer(people, folder, **overrides) -> MultitaskTrainer:
    cfg = tiny_cfg(people, folder, DATASETS__TEST=(), **overrides)
    seed_all_rng(cfg.SEED)  # what a command line does first
    return MultitaskTrainer(cfg)


def batches(trainer: MultitaskTrainer, number: int = 4) -> list[list[dict]]:
    return list(itertools.islice(iter(trainer.data_loader), number))


def names(batches: list[list[dict]]) -> list[str]:
    return [image["file_name"] for batch in batches for image in batch]


@pytest.mark.parametrize("workers", [0, 2])
def test_another_task_set_sees_the_same_images_in_the_same_order(people, tmp_path, workers):
    own, other = (
        batches(
            seeded_trainer(people, tmp_path, MODEL__TASKS=tasks, DATALOADER__NUM_WORKERS=workers)
        )
        for tasks in (["seg"], ["seg", "det", "pose"])
    )
    assert names(own) == names(other)
    for first, second in zip(own, other, strict=True):
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a["image"], b["image"])
            assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)


def test_another_task_set_starts_with_the_same_backbone(people, tmp_path):
    first, second, reseeded = (
        seeded_trainer(people, tmp_path, MODEL__TASKS=tasks, SEED=seed).model.backbone.conv.weight
        for tasks, seed in ((["seg"], 1), (["det", "pose"], 1), (["seg"], 2))
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, reseeded)


def test_another_seed_gives_another_order(people, tmp_path):
    orders = [names(batches(seeded_trainer(people, tmp_path, SEED=seed))) for seed in (1, 2)]
    assert orders[0] != orders[1]


def test_resumed_training_goes_on_in_the_order_of_images(people, tmp_path):
    whole = names(batches(seeded_trainer(people, tmp_path / "whole"), 6))
    seen = []
    for until in (2, 5):  # interrupted after two iterations
        trainer = seeded_trainer(people, tmp_path / "parts", SOLVER__MAX_ITER=until)
        trainer.resume_or_load(resume=True)
        after_step = trainer.after_step
        trainer.after_step = lambda t=trainer, a=after_step: (seen.append(t.last_batch), a())
        trainer.train()
    assert names(seen) == whole[:10]


@pytest.mark.parametrize("workers", [0, 2])
def test_interrupted_training_equals_the_uninterrupted_one(people, tmp_path, workers):
    def train(folder: str, stops: list[int]) -> dict[str, torch.Tensor]:
        for stop in stops:
            trainer = seeded_trainer(
                people, tmp_path / folder, SOLVER__MAX_ITER=6, DATALOADER__NUM_WORKERS=workers
            )
            trainer.resume_or_load(resume=True)
            trainer.max_iter = stop
            trainer.train()
        return trainer.model.state_dict()

    whole, parts = train("whole", [6]), train("parts", [1, 3, 6])
    for name, value in whole.items():
        assert torch.equal(parts[name], value), name
