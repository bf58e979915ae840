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

from d2_multitask.data.sampler import TrainingImages, sampling_shares, seed_random_states

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


def sampled(sampling, rank=0, world_size=1, number=4000, monkeypatch=None):
    """Indices of the images of a process: 3 of "small", 12 of "large"."""
    dicts = [{"index": i, "dataset_name": "small" if i < 3 else "large"} for i in range(15)]
    if monkeypatch is not None:
        monkeypatch.setattr(comm, "get_rank", lambda: rank)
        monkeypatch.setattr(comm, "get_world_size", lambda: world_size)
    names = ["small", "large"]
    images = TrainingImages(
        dicts, dict, batch_size=4 // world_size, seed=3, sampling=sampling, set_names=names
    )
    return [image["index"] for image in itertools.islice(images, number)]


@pytest.mark.parametrize(
    ("sampling", "share"),
    [("proportional", 0.2), ("equal", 0.5), ("square_root", 1 / 3), ([1, 3], 0.25), ([0, 2], 0.0)],
)
def test_datasets_have_their_shares(sampling, share):
    indices = np.array(sampled(sampling))
    small = indices[indices < 3]
    assert len(small) / len(indices) == pytest.approx(share, abs=0.03)
    # Within a dataset each image comes once before any comes again.
    assert all(sorted(part) == [0, 1, 2] for part in small[: len(small) // 3 * 3].reshape(-1, 3))


def test_two_processes_share_the_order_of_one(monkeypatch):
    whole = sampled("equal", number=40)
    parts = [sampled("equal", rank, 2, 20, monkeypatch) for rank in range(2)]
    for batch in range(10):
        both = [i for part in parts for i in part[2 * batch : 2 * batch + 2]]
        assert sorted(both) == sorted(whole[4 * batch : 4 * batch + 4])


def test_a_sampled_order_begins_anywhere():
    dicts = [{"index": i, "dataset_name": "ab"[i % 3 > 0]} for i in range(9)]

    def images(start):
        made = TrainingImages(
            dicts, draw, batch_size=2, seed=1, sampling="equal", set_names=["a", "b"]
        )
        made.start = start
        return list(itertools.islice(made, 10))

    assert images(3)[:4] == images(0)[6:]


@pytest.mark.parametrize(
    "sampling", ["equl", [1], [1, 2, 3], [-1, 2], [0, 0], ["1", 2], [float("nan"), 1], 3]
)
def test_a_sampling_that_does_not_fit(sampling):
    with pytest.raises(ValueError, match=r"DATASETS.SAMPLING: found .*one\s+for each of"):
        sampling_shares(sampling, {"a": 5, "b": 1})


def test_a_dataset_without_images_has_no_share():
    with pytest.raises(ValueError, match=r"share for \['b'\]"):
        sampling_shares("equal", {"a": 5, "b": 0})
    assert sampling_shares([1, 0], {"a": 5, "b": 0}) == [1, 0]
