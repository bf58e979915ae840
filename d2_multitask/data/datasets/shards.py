"""Shards as a dataset without labels: which there are, how many images each holds, checked."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import urllib.parse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.utils import comm

from d2_multitask.data.datasets.catalog import needs_labels, register
from d2_multitask.data.shard_files import (
    ShardError,
    cache,
    fetched,
    images_in,
    is_remote,
    shard_size,
)
from d2_multitask.data.shards import WINDOW, Shard, ShardedImages

_MOST_SHARDS = 1_000_000


@dataclass(frozen=True)
class ShardSet:
    """What ``DatasetCatalog`` holds for registered shards; calling it lists their images.

    Attributes: as the arguments of `register_shards`.
    """

    name: str
    shards: str

    def __call__(self) -> list[dict[str, Any]]:
        """A dict for each image, for evaluation; training does not need them at once."""
        return list(ShardedImages(self.found()))

    def found(self) -> list[Shard]:
        """The shards, each checked by one of the processes: whether it is there, and whole.

        Raises:
            ValueError: one is not, or the index cannot be read; names it and says what to do.
        """
        try:
            if self.shards.endswith(".json"):
                shards = _indexed(self.shards)
            else:
                shards = [Shard(name, 0, 0) for name in expand_braces(self.shards)]
            if any(is_remote(shard.name) and not shard.count for shard in shards):
                raise ShardError(
                    f"{self.shards}: found shards behind addresses without an index; make one with "
                    f"python datasets/pack_shards.py --index '{self.shards}' --output shards.json, "
                    "and name it as SHARDS"
                )
            if not shards:
                raise ShardError(f"{self.shards}: found no shard, expected at least one")
            with ThreadPoolExecutor(16) as pool:
                return list(pool.map(_checked, shards, itertools.count()))
        except ShardError as error:
            raise ValueError(f"Dataset {self.name!r}: {error}") from None


def register_shards(name: str, shards: str) -> None:
    """Register tar files of images, without any labels. Doing it again changes nothing.

    Args:
        name: for ``DATASETS.TRAIN`` and ``TEST``.
        shards: paths or http(s) addresses in brace notation, ``images-{000000..000099}.tar``; or
            path or address of an index in JSON, as webdataset's package wids makes them and
            datasets/pack_shards.py does, which shards behind addresses must have.

    Raises:
        ValueError: the name is taken by another dataset.
    """
    register(name, ShardSet(name, shards), image_root=shards, evaluator_type="image_folder")


def training_shards(cfg: CfgNode, times: dict[str, int]) -> ShardedImages | None:
    """The images of ``DATASETS.TRAIN`` if these are shards.

    Raises:
        ValueError: only some of them are, a task needs labels, other shares than the numbers of
            images are wanted, or the cache is too small.
    """
    sets = {name: DatasetCatalog.data.get(name) for name in cfg.DATASETS.TRAIN}
    names = [name for name, dataset in sets.items() if isinstance(dataset, ShardSet)]
    if not names:
        return None
    if len(names) < len(sets) or needs_labels(cfg.MODEL.TASKS):
        raise ValueError(
            f"DATASETS.TRAIN: found the shards {names} among {list(sets)} for the tasks "
            f"{list(cfg.MODEL.TASKS)}, expected shards alone, for the task 'reconstruction' alone, "
            "which needs no labels; pack other images with datasets/pack_shards.py"
        )
    if cfg.DATASETS.SAMPLING not in (None, "proportional"):
        raise ValueError(
            f"DATASETS.SAMPLING: found {cfg.DATASETS.SAMPLING!r} for shards, expected "
            "'proportional'; DATASETS.TRAIN_REPEAT_FACTOR takes those of a set several times"
        )
    shards = [shard for name in names for shard in sets[name].found() * times[name]]
    _check_cache(shards)
    return ShardedImages(shards)


def expand_braces(pattern: str) -> list[str]:
    """``a-{08..10}.tar`` -> ``a-08.tar``, ``a-09.tar``, ``a-10.tar``; several, also ``{x,y}``."""
    ranges = re.findall(r"\{(\d+)\.\.(\d+)\}", pattern)
    number = math.prod(int(last) - int(first) + 1 for first, last in ranges)
    if number > _MOST_SHARDS:
        raise ShardError(f"{pattern}: found {number} shards, expected at most {_MOST_SHARDS}")
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if match is None:
        return [pattern]
    first, last, words = match.groups()
    if words is None:
        words = [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
    else:
        words = words.split(",")
    return [
        name
        for word in words
        for name in expand_braces(pattern[: match.start()] + word + pattern[match.end() :])
    ]


def _indexed(index: str) -> list[Shard]:
    """Shards of an index, whose names are relative to its place."""
    try:
        content = json.loads(fetched(index) if is_remote(index) else Path(index).read_bytes())
        return [_entry(index, **entry) for entry in content["shardlist"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ShardError(
            f"{index}: cannot be read as an index of shards: {type(error).__name__}: {error}; make "
            "it with datasets/pack_shards.py --index"
        ) from None


def _entry(index: str, url: str, nsamples: int, filesize: int = 0, **_: Any) -> Shard:
    if not (isinstance(url, str) and type(nsamples) is type(filesize) is int and nsamples > 0):
        raise ValueError(f"found {url!r}, {nsamples!r}, {filesize!r}, expected a name and numbers")
    if is_remote(index):
        url = urllib.parse.urljoin(index, url)
    elif not is_remote(url):
        url = os.path.join(os.path.dirname(index), url)
    return Shard(url, nsamples, filesize)


def _checked(shard: Shard, number: int) -> Shard:
    """With its number of images and bytes."""
    if not shard.count:
        return Shard(shard.name, len(images_in(shard.name)), shard_size(shard.name))
    if number % comm.get_world_size() != comm.get_rank():
        return shard
    size = shard_size(shard.name)
    if shard.size and size != shard.size:
        raise ShardError(
            f"{shard.name}: found {size} bytes, expected {shard.size} as the index says: it is cut "
            "or another one; copy it again"
        )
    return shard._replace(size=size)


def _check_cache(shards: Sequence[Shard]) -> None:
    """It must hold what is used, what comes next, and what slower workers still read."""
    sizes = [shard.size for shard in set(shards) if is_remote(shard.name)]
    needed = min(sum(sizes), 3 * WINDOW * comm.get_local_size() * max(sizes, default=0))
    folder, limit = cache()
    if needed > limit:
        raise ValueError(
            f"D2_MULTITASK_SHARD_CACHE_GB: found {limit / 1e9:g} for the cache {folder}, expected "
            f"{needed / 1e9:.1f} or more for shards of {max(sizes) / 1e9:.2f} GB and "
            f"{comm.get_local_size()} processes on this computer; or make smaller shards"
        )
