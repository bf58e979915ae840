"""The training images in their endless order, and the loader around the worker processes.

Workers send what is wrong with the data to the main process, and leave signals to it.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetFromList
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from d2_multitask.data.problems import DATA_REPORT, PROBLEMS_KEY, ProblemReport
from d2_multitask.data.shards import ShardedImages, ShardOrder

# SIGUSR1 is what Slurm sends before the time is over; Windows has none.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)
)


DATASET_KEY = "dataset_name"
"""Key of an image's dict: the dataset it is from, if a training has several."""

# Share of a dataset in the batches by the number of its images: values of DATASETS.SAMPLING.
_SAMPLING = {"proportional": float, "equal": lambda number: 1.0, "square_root": math.sqrt}
_CHOICES = 1000  # datasets that are drawn at once


def sampling_shares(sampling: Any, sizes: Mapping[str, int]) -> list[float] | None:
    """``DATASETS.SAMPLING`` -> the share of each dataset in the batches, in the order of ``sizes``.

    Args:
        sampling: ``None`` or "proportional", "equal", "square_root", or a weight of each dataset.
        sizes: images of each dataset of the training.

    Returns:
        Shares with sum 1; ``None`` if each image is taken once in a pass.

    Raises:
        ValueError: an unknown word, or weights that are not one a dataset, below 0, or all 0; or a
            dataset without images would get a share.
    """
    if sampling in (None, "proportional"):
        return None
    where, number = "DATASETS.SAMPLING", len(sizes)
    if isinstance(sampling, str):
        if sampling not in _SAMPLING:
            raise ValueError(
                f"{where}: found {sampling!r}, expected one of {list(_SAMPLING)} or {number} "
                f"weights, one for each of {list(sizes)}"
            )
        weights = [_SAMPLING[sampling](size) for size in sizes.values()]
    else:
        weights = list(sampling) if isinstance(sampling, list | tuple) else [sampling]
        good = len(weights) == number and all(type(w) in (int, float) for w in weights)
        if not good or not all(0 <= w < math.inf for w in weights) or not sum(weights) > 0:
            raise ValueError(
                f"{where}: found {sampling!r}, expected {number} weights from 0, not all 0, one "
                f"for each of {list(sizes)}"
            )
    empty = [name for (name, size), w in zip(sizes.items(), weights, strict=True) if w and not size]
    if empty:
        raise ValueError(
            f"{where}: found a share for {empty}, of which no image is left for training; expected "
            "weight 0, or leave them out of DATASETS.TRAIN"
        )
    return [weight / sum(weights) for weight in weights]


class SampledOrder:
    """Endless indices of images whose datasets have given shares, from the seed alone.

    The dataset of each image is drawn at random; the images of one come in its own shuffled order,
    each once before any comes again. Processes take turns, as in Detectron2's ``TrainingSampler``.
    """

    def __init__(
        self, members: Sequence[Sequence[int]], shares: Sequence[float], seed: int
    ) -> None:
        """
        Args:
            members: indices of the images of each dataset.
            shares: of each dataset, with sum 1.
            seed: from 0, the same in all processes.
        """
        self._members, self._shares, self._seed = members, shares, seed
        self._rank, self._world_size = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        yield from itertools.islice(self._all(), self._rank, None, self._world_size)

    def _all(self) -> Iterator[int]:
        orders = [self._shuffled(number) for number in range(len(self._members))]
        choices = np.random.default_rng(self._seed)
        while True:
            for number in choices.choice(len(orders), _CHOICES, p=self._shares):
                yield next(orders[number])

    def _shuffled(self, number: int) -> Iterator[int]:
        random_numbers = np.random.default_rng((self._seed, number))
        while True:
            yield from random_numbers.permutation(self._members[number]).tolist()


class TrainingImages(IterableDataset[dict[str, Any]]):
    """Detectron2's shuffled order, batches and mapped images, from any batch on.

    Detectron2 begins again with the first image after each interruption, and its workers draw
    other random numbers for the same image. Here the images of batch b, and the random numbers of
    their augmentation, depend on the seed and on b alone: not on where the training began, nor on
    the number of worker processes. Each worker makes every n-th batch, which is the order in which
    a ``DataLoader`` asks for them.

    Attributes:
        start: batches of this process that are used up already. Set it before iterating.
        set_names: see the arguments.
    """

    start = 0

    def __init__(
        self,
        dataset_dicts: Sequence[dict[str, Any]] | ShardedImages,
        mapper: Callable[[dict[str, Any]], dict[str, Any] | None],
        *,
        batch_size: int,
        seed: int | None = None,
        group_by_shape: bool = False,
        sampling: Any = None,
        set_names: Sequence[str] = (),
    ) -> None:
        """
        Args:
            dataset_dicts: in Detectron2's format, at least one. Those of shards come in the order
                of `ShardOrder`, and have no shape to be grouped by.
            mapper: draws from the global random states; ``None`` asks for another image.
            batch_size: images a batch of this process.
            seed: from 0; ``None`` = another one each time, the same in all processes.
            group_by_shape: only upright or only wide images in a batch, as Detectron2's
                ``DATALOADER.ASPECT_RATIO_GROUPING``; sizes are the dicts' ``height``, ``width``.
            sampling: see `sampling_shares`.
            set_names: the datasets, which the dicts name as ``dataset_name``.

        Raises:
            ValueError: ``sampling`` does not fit the datasets.
        """
        self._mapper = mapper
        self._batch_size = batch_size
        self._seed = comm.shared_random_seed() if seed is None else seed
        # A worker that is not forked does not know them.
        self._rank, self._world_size = comm.get_rank(), comm.get_world_size()
        if isinstance(dataset_dicts, ShardedImages):
            self.set_names = []
            self._dicts, self._order = dataset_dicts, ShardOrder(dataset_dicts, self._seed)
            self._wide = None
            return
        self._dicts = DatasetFromList(list(dataset_dicts), copy=False)
        self.set_names = list(set_names)
        members: dict[str, list[int]] = {name: [] for name in set_names}
        for index, record in enumerate(dataset_dicts if members else ()):
            members[record[DATASET_KEY]].append(index)
        self._order: Iterable[int] = TrainingSampler(len(dataset_dicts), seed=self._seed)
        sizes = {name: len(indices) for name, indices in members.items()}
        shares = sampling_shares(sampling, sizes)
        if shares is not None:
            self._order = SampledOrder(list(members.values()), shares, self._seed)
        wide = [d.get("width", 0) > d.get("height", 0) for d in dataset_dicts]
        self._wide = np.array(wide) if group_by_shape else np.zeros(len(wide), dtype=bool)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        order, skipped = self._order, 0
        if isinstance(order, ShardOrder):  # shards of earlier batches are not even fetched
            order, skipped = order.after(self.start * self._batch_size), self.start
        batches = enumerate(self._batches(order), skipped)
        for number, batch in itertools.islice(batches, self.start - skipped + first, None, step):
            for place, index in enumerate(batch):
                yield self._map(index, number * self._batch_size + place)

    def _batches(self, order: Iterable[int]) -> Iterator[list[int]]:
        buckets: tuple[list[int], list[int]] = ([], [])
        for index in order:
            bucket = buckets[0 if self._wide is None else int(self._wide[index])]
            bucket.append(index)
            if len(bucket) == self._batch_size:
                yield bucket[:]
                bucket.clear()

    def _map(self, index: int, place: int) -> dict[str, Any]:
        """The image of ``index``, or others in its place until one can be used."""
        # The place among the images of all processes: their random numbers, like their order, do
        # not depend on how many processes share them.
        numbers = (self._seed, 0, place * self._world_size + self._rank)
        others = None
        while True:
            seed_random_states(*numbers)
            image = self._mapper(self._dicts[index])
            if image is not None:
                return image
            others = others or np.random.default_rng(numbers)
            if isinstance(self._dicts, ShardedImages):
                index = self._dicts.another(index, others)
            else:
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


class ReportingLoader:
    """A data loader that moves the workers' problems from the batches to the main report.

    Args:
        data_loader: yields lists of image dicts, as Detectron2's loaders do.
        images: what ``data_loader`` reads from, for those who want to move it.
    """

    def __init__(
        self,
        data_loader: Iterable[list[dict[str, Any]]],
        report: ProblemReport = DATA_REPORT,
        images: Any = None,
    ) -> None:
        _leave_signals_to_parent(data_loader)
        self.data_loader = data_loader
        self.report = report
        self.images = images

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for batch in self.data_loader:
            for image in batch:
                self.report.merge(image.pop(PROBLEMS_KEY, ()))
            yield batch

    def __len__(self) -> int:
        return len(self.data_loader)


def _leave_signals_to_parent(loader: Any) -> None:
    """Let a loader's workers ignore `STOP_SIGNALS`, which often go to all processes at once.

    The main process decides what becomes of the step; workers end with it, as PyTorch's watch it.

    The loader is PyTorch's, or one of Detectron2's around it; others stay as they are.
    """
    while not isinstance(loader, DataLoader):
        if not hasattr(loader, "dataset"):
            return
        loader = loader.dataset
    loader.worker_init_fn = partial(_ignore_signals, loader.worker_init_fn)


def _ignore_signals(then: Callable[[int], None] | None, worker_id: int) -> None:
    for number in STOP_SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_when_parent_says, daemon=True).start()
    if then is not None:
        then(worker_id)


def _end_when_parent_says() -> None:
    """SIGTERM of the parent, which waits for the end after it, counts; that of others does not."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
