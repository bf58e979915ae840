"""What happens around a network in training: where a step's time goes, and how fast data comes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine.train_loop import SimpleTrainer
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from benchmark.networks import Setting, network_cfg
from benchmark.parts import PartTimer
from benchmark.timing import Clock, time_once
from d2_multitask.data.datasets.coco import register_coco_format
from d2_multitask.data.loader import build_train_loader
from d2_multitask.engine.solver import build_optimizer
from d2_multitask.engine.step import build_step
from synthetic.people import SceneConfig, write_synthetic_people

# What a network learns from and by, but for the network itself.
AROUND_THE_NETWORK = ("data", "targets", "losses")
DATASET = "benchmark_people"


def register_people(folder: Path, num_images: int, short_side: int) -> str:
    """Draw synthetic people of a given image size, unless they are there, and register them.

    Args:
        folder: where they are kept.
        num_images: how many.
        short_side: of the images, pixels.

    Returns:
        The name of the dataset.
    """
    config = SceneConfig(short_side=(short_side, short_side))
    json_file = write_synthetic_people(
        folder, "train", num_images, 0, config=config, overwrite=True
    )
    if DATASET in DatasetCatalog:  # of an earlier call, maybe in another folder
        DatasetCatalog.remove(DATASET)
        MetadataCatalog.remove(DATASET)
    register_coco_format(DATASET, str(json_file), str(json_file.parents[1] / "train" / "images"))
    return DATASET


def training_cfg(
    config_file: str,
    opts: Sequence[str],
    setting: Setting,
    folder: Path,
    num_images: int,
    workers: int,
) -> CfgNode:
    """A network on synthetic people as large as COCO's images; two crops a batch.

    Args:
        config_file: of the network.
        opts: overrides.
        setting: device and size are read.
        folder: keeps the images.
        num_images: how many are drawn.
        workers: of the loader.
    """
    cfg = network_cfg(config_file, opts, setting)
    # COCO's shorter sides are 480 for crops of 512.
    name = register_people(folder, num_images, max(setting.size * 15 // 16, 64))
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), ()
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.INPUT.SCALE_CROP.SIZE = (setting.size, setting.size)
    cfg.SOLVER.IMS_PER_BATCH = 2
    return cfg


class _TimedLoader:
    """A loader whose every batch counts for "data"."""

    def __init__(self, loader: Iterable[Any], timer: PartTimer) -> None:
        self._loader, self._timer = loader, timer

    def __iter__(self) -> Iterator[Any]:
        iterator = iter(self._loader)
        fetch = self._timer.timed(lambda: next(iterator), "data")
        while True:
            yield fetch()


def measure_steps(
    cfg: CfgNode,
    steps: int = 10,
    warmup: int = 3,
    clock: Clock = time.perf_counter,
    loader: Iterable[list[dict[str, Any]]] | None = None,
) -> dict[str, float]:
    """Split training steps, as our trainer runs them.

    Args:
        cfg: of the network, the solver and the data; see :func:`register_people`.
        steps: counted steps.
        warmup: steps before them; workers fill their queues meanwhile.
        clock: see `benchmark.timing.CLOCKS`. "cpu" does not see what workers
            compute, but what waiting for them costs is not computed either: use "wall" for "data".
        loader: batches, instead of those of the config.

    Returns:
        part -> median seconds per step: "data" (waiting for it), "forward" (network and
        preprocessing), "targets", "losses", "backward" (with logging), "optimizer"; and "step".
    """
    model = build_model(cfg).train()
    timer = PartTimer(clock)
    batches = build_train_loader(cfg) if loader is None else loader
    optimizer = build_optimizer(cfg, model)
    step = build_step(cfg, model, _TimedLoader(batches, timer), optimizer)
    _watch_step(timer, step, model)
    counted = []
    with EventStorage() as storage:
        for number in range(warmup + steps):
            step.iter = storage.iter = number
            timer.reset()
            step.run_step()
            if number >= warmup:
                counted.append(dict(timer.seconds))
    parts = {name: statistics.median(run[name] for run in counted) for name in counted[0]}
    return {**parts, "step": statistics.median(sum(run.values()) for run in counted)}


def _watch_step(timer: PartTimer, step: SimpleTrainer, model: nn.Module) -> None:
    timer.watch(step, "run_step", "backward")
    timer.watch(model, "forward", "forward")
    for head in model.heads.values():
        timer.watch(head, "targets", "targets")
        timer.watch(head, "losses", "losses")
    timer.watch(step.optimizer, "step", "optimizer")
    timer.watch(step.optimizer, "zero_grad", "optimizer")


def share_around_network(parts: dict[str, float]) -> float:
    """Part of a step that goes into data, targets and losses together, of :func:`measure_steps`."""
    return sum(parts.get(name, 0.0) for name in AROUND_THE_NETWORK) / parts["step"]


def measure_loader(
    cfg: CfgNode, workers: Sequence[int] = (0, 1, 2), num_batches: int = 12
) -> dict[int, float]:
    """Images a second of the training loader alone.

    Args:
        cfg: of the data.
        workers: values of ``DATALOADER.NUM_WORKERS`` to try.
        num_batches: counted batches, after those that the workers have ready in advance.

    Returns:
        workers -> images per second.
    """
    speeds = {}
    for number in workers:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = number
        speeds[number] = loader_speed(cfg, num_batches)
    return speeds


def loader_speed(cfg: CfgNode, num_batches: int) -> float:
    """Images a second of the training loader of a config, see :func:`measure_loader`."""
    iterator = iter(build_train_loader(cfg))
    # PyTorch keeps two batches a worker ready; the count begins when the queue is in balance.
    for _ in range(2 * cfg.DATALOADER.NUM_WORKERS + 1):
        next(iterator)
    # The clock on the wall: workers are processes of their own.
    seconds = time_once(partial(_take, iterator, num_batches))
    return num_batches * cfg.SOLVER.IMS_PER_BATCH / seconds


def _take(iterator: Iterator[Any], number: int) -> None:
    for _ in range(number):
        next(iterator)
