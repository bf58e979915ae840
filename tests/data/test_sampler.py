"""The order of the training images, and their random numbers, from any place in it."""

from __future__ import annotations

import itertools
import traceback
from collections import Counter

import numpy as np
import pytest
import torch
from detectron2.data import build_batch_data_loader
from detectron2.utils import comm

from d2_multitask.data.sampler import TrainingImages, seed_random_states

DICTS = [{"index": i, "height": 2, "width": 1 + 2 * (i % 2)} for i in range(7)]


def draw(record: dict) -> dict | None:
    """An image that holds what augmentation draws; one of the images cannot be used."""
    if record["index"] == 5:
        return None
    return {**record, "drawn": float(np.random.rand())}  # noqa: NPY002 (Detectron2's state)


def batches(start: int, number: int, workers: int = 0, grouped: bool = False) -> list[list[dict]]:
    images = TrainingImages(DICTS, draw, batch_size=2, seed=4, group_by_shape=grouped)
    images.start = start
    loader = build_batch_data_loader(images, None, 2, num_workers=workers)
    return list(itertools.islice(loader, number))


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_depend_on_their_number_alone(workers, grouped):
    whole = batches(0, 12, grouped=grouped)
    assert batches(0, 12, workers, grouped) == whole
    assert batches(5, 7, workers, grouped) == whole[5:]
    drawn = [image["drawn"] for batch in whole for image in batch]
    assert len(set(drawn)) == len(drawn)  # another one each time that an image is seen


def test_processes_draw_other_numbers_also_in_workers_that_are_not_forked(monkeypatch):
    """Such a worker knows of no other process: its rank is 0."""
    drawn = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        images = TrainingImages(DICTS, lambda _: np.random.rand(), batch_size=1, seed=0)  # noqa: NPY002
        monkeypatch.setattr(comm, "get_rank", lambda: 0)
        drawn.append(next(iter(images)))
    assert drawn[0] != drawn[1]


def test_every_image_once_an_epoch():
    images = TrainingImages(DICTS, dict, batch_size=1, seed=0)
    for epoch in range(2):
        images.start = epoch * len(DICTS)
        seen = Counter(image["index"] for image in itertools.islice(images, len(DICTS)))
        assert seen == Counter(range(len(DICTS)))


def test_batches_of_one_shape():
    mixed, grouped = (
        [len({image["width"] for image in batch}) for batch in map(originals, range(20))]
        for originals in (order(False), order(True))
    )
    assert max(mixed) == 2
    assert max(grouped) == 1


def order(grouped: bool):
    images = TrainingImages(DICTS, dict, batch_size=2, seed=4, group_by_shape=grouped)
    made = list(itertools.islice(images, 40))
    return lambda number: made[2 * number : 2 * number + 2]


def test_seeding_leaves_no_stack_trace_behind(monkeypatch):
    """``torch.manual_seed`` formats one for each kind of device, in workers for each image."""
    monkeypatch.setattr(traceback, "format_stack", lambda *_: pytest.fail("stack trace"))
    seed_random_states(1, 2)
    drawn = torch.rand(3)
    seed_random_states(1, 2)
    assert torch.equal(torch.rand(3), drawn)
