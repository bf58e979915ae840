"""Speed of the training loader: a folder of images against the same images in shards."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

import pack_shards
from benchmark.training import loader_speed
from d2_multitask.data.datasets.folders import register_image_folder
from d2_multitask.data.datasets.shards import register_shards

PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "docs/pictures/photographs"
IMAGES_PER_SHARD = 32  # some windows of shards pass in a turn


def measure_shards(cfg: CfgNode, folder: Path, num_images: int, batches: int, turns: int) -> dict:
    """Images a second, and the ratios to the folder turn by turn, by the wall clock and by what the
    processors computed, which other programs disturb less.

    The loaders run in turn, each a new one with empty queues. Shards behind addresses come from a
    server on loopback, into a cache that is empty at the beginning of each turn.

    Args:
        cfg: of the loader.
        folder: for the images and shards.
        num_images: photographs that are written, as large as ImageNet's.
        batches: counted batches of a turn.
        turns: of all loaders.
    """
    write_photographs(folder / "images", num_images)
    words = ["--output", str(folder / "shards"), "--images-per-shard", str(IMAGES_PER_SHARD)]
    if pack_shards.main(["--images", str(folder / "images"), *words]):
        raise RuntimeError("the shards could not be packed")
    cfg = cfg.clone()
    with _served(folder / "shards") as address:
        register_image_folder("benchmark_folder", folder / "images")
        register_shards("benchmark_shards", str(folder / "shards/shards.json"))
        register_shards("benchmark_http", f"{address}/shards.json")
        names = ("benchmark_folder", "benchmark_shards", "benchmark_http")
        speeds: dict[str, list[float]] = {name: [] for name in names}
        costs: dict[str, list[float]] = {name: [] for name in names}
        for turn, name in itertools.product(range(turns), names):
            os.environ["D2_MULTITASK_SHARD_CACHE"] = str(folder / f"cache_{turn}")
            cfg.DATASETS.TRAIN = (name,)
            before = _processor_seconds()
            speeds[name].append(loader_speed(cfg, batches))
            gc.collect()  # ends the workers, whose time counts only then
            costs[name].append(_processor_seconds() - before)
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    labels = dict(zip(names, ("folder", "shards", "shards over HTTP"), strict=True))
    numbers = {f"{labels[name]}, images/s": statistics.median(speeds[name]) for name in names}
    for name in names[1:]:
        ratios = [a / b for a, b in zip(speeds[name], speeds[names[0]], strict=True)]
        numbers |= _spread(f"{labels[name]} / folder, images/s", ratios)
        ratios = [b / a for a, b in zip(costs[name], costs[names[0]], strict=True)]
        numbers |= _spread(f"{labels[name]} / folder, images/processor s", ratios)
    return numbers


def _spread(name: str, ratios: list[float]) -> dict[str, float]:
    return {
        name: statistics.median(ratios),
        f"{name}, lowest": min(ratios),
        f"{name}, highest": max(ratios),
    }


def _processor_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    return sum(os.times()[:4])


def write_photographs(folder: Path, number: int) -> None:
    """Parts of the repository's photographs as JPEG files of 500x375 pixels."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    photographs = [Image.open(path).convert("RGB") for path in sorted(PHOTOGRAPHS.glob("*.jpg"))]
    for index in range(number):
        image = photographs[index % len(photographs)]
        share = generator.uniform(0.5, 1)
        width, height = image.width * share, image.height * share
        x, y = generator.uniform(0, (image.width - width, image.height - height))
        part = image.resize((500, 375), box=(x, y, x + width, y + height))
        part.save(folder / f"{index:06d}.jpg", quality=95)


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[str]:
    """A server in a process of its own, as it would be."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--bind", "127.0.0.1", "--directory", str(folder), str(port)]
    os.environ["no_proxy"] = "127.0.0.1"
    server = subprocess.Popen(
        [sys.executable, "-m", "http.server", *words], stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()
