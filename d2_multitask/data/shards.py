"""The images of many shards in an order that depends on the seed alone, a few shards at a time."""

from __future__ import annotations

import bisect
import itertools
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from detectron2.utils import comm
from torch.utils.data import get_worker_info

from d2_multitask.data.shard_files import ShardError, address, images_in, is_remote, local_path

WINDOW = 8
"""Shards whose images are shuffled together."""


class Shard(NamedTuple):
    """A shard by its path or address, its number of images and its size in bytes."""

    name: str
    count: int
    size: int


class ShardedImages:
    """A sequence of Detectron2's dicts that knows of each shard how many images it holds, no more.

    What is where in a shard is read when its first image is asked for.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        """
        Args:
            shards: at least one.
        """
        self.shards = list(shards)
        self.firsts = [0, *itertools.accumulate(shard.count for shard in shards)]

    def __len__(self) -> int:
        return self.firsts[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``file_name``, an address that ``PathManager`` opens, and ``image_id``.

        Raises:
            ShardError: the shard cannot be had, is cut, or holds another number of images.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = self._shard_of(index)
        shard = self.shards[number]
        image = images_in(shard.name, shard.count)[index - self.firsts[number]]
        name = os.path.basename(shard.name.partition("?")[0])
        return {"file_name": address(shard.name, image), "image_id": f"{name}/{image.name}"}

    def another(self, index: int, numbers: np.random.Generator) -> int:
        """A random image of the same shard, which is at hand."""
        number = self._shard_of(index)
        return int(numbers.integers(self.firsts[number], self.firsts[number + 1]))

    def _shard_of(self, index: int) -> int:
        return bisect.bisect_right(self.firsts, index) - 1


class ShardOrder:
    """An endless order of images, for one of several processes.

    In each epoch the shards are shuffled, and their images in this order are cut into as many equal
    parts as there are processes: all parts together hold each image once, and a process reads its
    share of the shards only (two processes may share one, at a cut). Within a part, the
    images of `WINDOW` shards are shuffled together, and the next shards are fetched meanwhile.
    """

    def __init__(
        self, images: ShardedImages, seed: int, rank: int | None = None, world: int | None = None
    ) -> None:
        """
        Args:
            images: at least one for each process.
            seed: the same in all processes.
            rank: number of this process, ``None`` = as ``comm`` says.
            world: number of processes, likewise.
        """
        self._images, self._seed = images, seed
        self._rank = comm.get_rank() if rank is None else rank
        self._world = comm.get_world_size() if world is None else world
        if len(images) < self._world:
            raise ValueError(
                f"DATASETS.TRAIN: found {len(images)} images for {self._world} processes, expected "
                "one for each"
            )

    def after(self, start: int) -> Iterator[int]:
        """Numbers of images, without the first ``start``, which cost next to nothing."""
        for (numbers, pieces), (_, following) in itertools.pairwise(self._windows()):
            size = sum(stop - first for _, first, stop in pieces)
            if start >= size:
                start -= size
                continue
            self._fetch(following)
            indices = np.concatenate([np.arange(first, stop) for _, first, stop in pieces])
            np.random.default_rng(numbers).shuffle(indices)
            yield from indices[start:].tolist()
            start = 0

    def _windows(self) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
        """Random seeds, and rows (shard, first image, the one after the last), without end."""
        firsts, total = self._images.firsts, len(self._images)
        begin, end = (total * rank // self._world for rank in (self._rank, self._rank + 1))
        for epoch in itertools.count():
            order = np.random.default_rng((self._seed, epoch)).permutation(len(firsts) - 1)
            pieces, position = [], 0
            for shard in order.tolist():
                first, stop = firsts[shard], firsts[shard + 1]
                low, high = max(begin - position, 0), min(end - position, stop - first)
                if low < high:
                    pieces.append((shard, first + low, first + high))
                position += stop - first
            windows = np.array_split(pieces, -(-len(pieces) // WINDOW))  # of about equal size
            for number, window in enumerate(windows):
                yield (self._seed, epoch, self._rank, number), window

    def _fetch(self, pieces: np.ndarray) -> None:
        """Start to copy the shards that are needed next; each worker begins with another one."""
        names = [self._images.shards[shard].name for shard in pieces[:, 0]]
        worker = get_worker_info()
        first = 0 if worker is None else worker.id % len(names)

        def fetch() -> None:
            for name in names[first:] + names[:first]:
                with suppress(ShardError):  # it is told when an image is needed
                    local_path(name)

        if any(map(is_remote, names)):
            threading.Thread(target=fetch, daemon=True).start()
