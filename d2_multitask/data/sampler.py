"""The training images in their endless order, from any place in it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetFromList
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from torch.utils.data import IterableDataset, get_worker_info


class TrainingImages(IterableDataset[dict[str, Any]]):
    """Detectron2's shuffled order, batches and mapped images, from any batch on.

    Detectron2 begins again with the first image after each interruption, and its workers draw
    other random numbers for the same image. Here the images of batch b, and the random numbers of
    their augmentation, depend on the seed and on b alone: not on where the training began, nor on
    the number of worker processes. Each worker makes every n-th batch, which is the order in which
    a ``DataLoader`` asks for them.

    Attributes:
        start: batches of this process that are used up already. Set it before iterating.
    """

    start = 0

    def __init__(
        self,
        dataset_dicts: Sequence[dict[str, Any]],
        mapper: Callable[[dict[str, Any]], dict[str, Any] | None],
        *,
        batch_size: int,
        seed: int | None = None,
        group_by_shape: bool = False,
    ) -> None:
        """
        Args:
            dataset_dicts: in Detectron2's format, at least one.
            mapper: draws from the global random states; ``None`` asks for another image.
            batch_size: images a batch of this process.
            seed: from 0; ``None`` = another one each time, the same in all processes.
            group_by_shape: only upright or only wide images in a batch, as Detectron2's
                ``DATALOADER.ASPECT_RATIO_GROUPING``; sizes are the dicts' ``height``, ``width``.
        """
        self._dicts = DatasetFromList(list(dataset_dicts), copy=False)
        self._mapper = mapper
        self._batch_size = batch_size
        self._seed = comm.shared_random_seed() if seed is None else seed
        self._rank = comm.get_rank()  # a worker that is not forked does not know it
        self._order = TrainingSampler(len(dataset_dicts), seed=self._seed)
        wide = [d.get("width", 0) > d.get("height", 0) for d in dataset_dicts]
        self._wide = np.array(wide) if group_by_shape else np.zeros(len(wide), dtype=bool)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        batches = enumerate(self._batches(self._order))
        for number, batch in itertools.islice(batches, self.start + first, None, step):
            for place, index in enumerate(batch):
                yield self._map(index, number * self._batch_size + place)

    def _batches(self, order: Iterable[int]) -> Iterator[list[int]]:
        buckets: tuple[list[int], list[int]] = ([], [])
        for index in order:
            bucket = buckets[int(self._wide[index])]
            bucket.append(index)
            if len(bucket) == self._batch_size:
                yield bucket[:]
                bucket.clear()

    def _map(self, index: int, place: int) -> dict[str, Any]:
        """The image of ``index``, or others in its place until one can be used."""
        numbers = (self._seed, self._rank, place)
        others = None
        while True:
            seed_random_states(*numbers)
            image = self._mapper(self._dicts[index])
            if image is not None:
                return image
            others = others or np.random.default_rng(numbers)
            index = int(others.integers(len(self._dicts)))


def seed_random_states(*numbers: int) -> None:
    """Seed Python's, NumPy's and PyTorch's global random states with numbers from 0 together."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (what Detectron2's augmentations draw from)
    # What torch.manual_seed does, which keeps a stack trace for each device that nothing uses yet:
    # in worker processes, for each image.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
