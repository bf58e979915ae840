"""The ratios that this package promises, by name, each measured beside its target.

Both sides of a ratio run in turn in one process; a ratio is the median of the ratios turn by turn.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from benchmark.cost import build_all
from benchmark.evaluation import measure_evaluation
from benchmark.networks import (
    Builder,
    Contestant,
    Setting,
    build_bare_backbone,
    build_detectron2_backbone,
    build_detectron2_networks,
    build_networks,
    network_cfg,
)
from benchmark.timing import (
    Clock,
    Timing,
    describe_error,
    paired_ratio,
    time_interleaved,
)
from benchmark.training import (
    measure_loader,
    measure_steps,
    share_around_network,
    training_cfg,
)

ALL_TASKS = ("seg", "det", "pose")
SINGLE_TASKS = tuple((task,) for task in ALL_TASKS)
# Backbones of "joint against three single networks": config and overrides.
JOINT = {
    "R18": ("mcn_r18_seg_det_pose.yaml", ()),
    "R50": ("mcn_seg_det_pose.yaml", ()),
    "MobileNetV2": (
        "mcn_mobilenetv4_seg_det_pose.yaml",
        ("MODEL.FEATURE_EXTRACTOR.NAME", "torchvision/mobilenet_v2"),
    ),
    "DLA-34": ("centernet/mcn_dla34_seg_det_pose.yaml", ()),
}
LATENCY_TARGET, PARAMETERS_TARGET = 0.42, 0.36
LIGHT_R50, FAST = "mcn_r50_light_seg_det_pose.yaml", "mcn_fast_seg_det_pose.yaml"


@dataclass(frozen=True)
class Ratio:
    """A promise and what was measured.

    Attributes:
        value: ``nan`` if it could not be measured.
        target: the promise.
        at_least: whether larger values are better.
        error: why there is no value.
    """

    value: float
    target: float
    at_least: bool = False
    error: str = ""

    @property
    def is_met(self) -> bool:
        """Whether the promise is kept."""
        return self.value >= self.target if self.at_least else self.value <= self.target


Ratios = dict[str, Ratio]


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        runs: counted turns of each comparison of networks.
        warmup: turns before them.
        steps: training steps.
        images: drawn for training, and to be evaluated: ten times as many.
        clock: see `benchmark.timing.CLOCKS`.
    """

    runs: int = 8
    warmup: int = 2
    steps: int = 10
    images: int = 64
    clock: Clock = time.perf_counter


def measure_ratios(
    setting: Setting,
    effort: Effort,
    groups: Mapping[str, Callable[[Setting, Effort], Ratios]],
    report: Callable[[Ratios], Any] = lambda ratios: None,
) -> Ratios:
    """Measure group after group; a group that fails harms no other.

    Args:
        setting: how networks are run.
        effort: how much is measured.
        groups: some of :data:`GROUPS`.
        report: called with the ratios of each group when it is done.
    """
    ratios: Ratios = {}
    for name, measure in groups.items():
        try:
            measured = measure(setting, effort)
        except Exception as error:
            measured = {name: Ratio(math.nan, math.nan, error=describe_error(error))}
        report(measured)
        ratios.update(measured)
    return ratios


def in_own_process(
    measure: Callable[[Setting, Effort], Ratios],
) -> Callable[[Setting, Effort], Ratios]:
    """Measure as in a program that does nothing else.

    In one process the groups change each other's ratios by a fifth: memory that large networks have
    asked for and given back saves the later ones the system's work for new pages, and a network
    gains the more by it the larger its maps are.

    Args:
        measure: one of :data:`GROUPS`, or another function that can be pickled.

    Returns:
        The same, in a new process with as many threads; its exceptions are raised here.
    """

    def run(setting: Setting, effort: Effort) -> Ratios:
        with ProcessPoolExecutor(
            max_workers=1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=torch.set_num_threads,
            initargs=(torch.get_num_threads(),),
        ) as pool:
            return pool.submit(measure, setting, effort).result()

    return run


def joint_ratios(backbone: str, setting: Setting, effort: Effort) -> Ratios:
    """One network for three tasks against three networks: time and parameters."""
    config_file, opts = JOINT[backbone]

    def build(tasks: tuple[tuple[str, ...], ...]) -> Contestant:
        return build_networks(network_cfg(config_file, opts, setting), tasks, setting)

    names: dict[str, Builder] = {
        "joint": partial(build, (ALL_TASKS,)),
        "single": partial(build, SINGLE_TASKS),
    }
    timings, contestants, errors = _race(names, setting, effort)
    parameters = math.nan
    if len(contestants) == 2:
        counts = {name: c.num_parameters for name, c in contestants.items()}
        parameters = counts["joint"] / counts["single"]
    prefix = f"joint {backbone} / 3 single networks"
    return {
        f"{prefix}, latency": _time_ratio(timings, "joint", "single", LATENCY_TARGET, errors),
        f"{prefix}, parameters": Ratio(parameters, PARAMETERS_TARGET, error=_first(errors)),
    }


def r50_ratios(setting: Setting, effort: Effort) -> Ratios:
    """ResNet-50 against its own backbone and against Detectron2's networks for the same tasks."""
    config_file, opts = JOINT["R50"]
    cfg = partial(network_cfg, config_file, opts, setting)

    def joint() -> Contestant:
        return build_networks(cfg(), [ALL_TASKS], setting)

    # Apart: Detectron2's networks leave nothing in the caches to the one that comes after them.
    bare, _, bare_errors = _race(
        {"joint": joint, "bare": lambda: build_bare_backbone(cfg(), setting)}, setting, effort
    )
    names: dict[str, Builder] = {
        "joint": joint,
        "light": lambda: _whole(LIGHT_R50, setting),
        "detectron2": lambda: build_detectron2_networks(setting),
    }
    timings, _, errors = _race(names, setting, effort)
    composition = "Detectron2's Keypoint R-CNN + Panoptic FPN"
    return {
        "joint R50 / its bare backbone and neck": _time_ratio(
            bare, "joint", "bare", 1.25, bare_errors
        ),
        f"joint R50 / {composition}": _time_ratio(timings, "joint", "detectron2", 0.33, errors),
        f"joint R50 with a lighter neck / {composition}": _time_ratio(
            timings, "light", "detectron2", 0.25, errors
        ),
    }


def fast_ratios(setting: Setting, effort: Effort) -> Ratios:
    """The fast network, all tasks and decoding, against Detectron2's bare R18-FPN."""
    names: dict[str, Builder] = {
        "fast": lambda: _whole(FAST, setting),
        "detectron2": lambda: build_detectron2_backbone(setting),
    }
    timings, _, errors = _race(names, setting, effort)
    name = "fast network / Detectron2's bare R18-FPN (256)"
    return {name: _time_ratio(timings, "fast", "detectron2", 0.20, errors)}


def training_ratios(setting: Setting, effort: Effort, folder: Path | None = None) -> Ratios:
    """Data, targets and losses in a training step of the R18 network; speed of the loader.

    Args:
        setting: device and size are read.
        effort: how much is measured.
        folder: keeps the images; by default they are drawn anew and thrown away.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            return training_ratios(setting, effort, Path(temporary))
    cores = os.cpu_count() or 1
    cfg = training_cfg(*JOINT["R18"], setting, folder, effort.images, workers=cores)
    parts = measure_steps(cfg, effort.steps, clock=effort.clock)
    consumed = cfg.SOLVER.IMS_PER_BATCH / (parts["step"] - parts["data"])
    loaded = measure_loader(cfg, [cores], max(effort.steps, 2))[cores]
    return {
        "data, targets and losses / training step of R18": Ratio(share_around_network(parts), 0.15),
        "loader / what R18 consumes in training": Ratio(loaded / consumed, 2.0, at_least=True),
    }


def evaluation_ratios(setting: Setting, effort: Effort) -> Ratios:
    """COCO's box and keypoint metrics through our evaluator against pycocotools.

    Raises:
        ValueError: the numbers differ in the fourth digit.
    """
    measured = measure_evaluation(10 * effort.images, effort.clock)
    if measured["largest difference"] > 0.01:  # of 100
        raise ValueError(f"evaluation: AP differs by {measured['largest difference']:.4f} of 100")
    return {"pycocotools / our COCO evaluation": Ratio(measured["ratio"], 10.0, at_least=True)}


GROUPS: dict[str, Callable[[Setting, Effort], Ratios]] = {
    **{f"joint-{name}": partial(joint_ratios, name) for name in JOINT},
    "r50": r50_ratios,
    "fast": fast_ratios,
    "training": training_ratios,
    "evaluation": evaluation_ratios,
}


def _whole(config_file: str, setting: Setting) -> Contestant:
    cfg = network_cfg(config_file, (), setting)
    return build_networks(cfg, [cfg.MODEL.TASKS], setting)


def _race(
    builders: Mapping[str, Builder], setting: Setting, effort: Effort
) -> tuple[dict[str, Timing], dict[str, Contestant], dict[str, str]]:
    """Build and time; what fails is in the last of the three, with the reason."""
    errors: dict[str, str] = {}
    contestants = build_all(builders, errors)
    inputs = {name: c.prepare(setting.images(1)) for name, c in contestants.items()}
    functions = {name: partial(contestants[name], inputs[name]) for name in contestants}
    timings = time_interleaved(functions, effort.runs, effort.warmup, errors, effort.clock)
    return timings, contestants, errors


def _time_ratio(
    timings: Mapping[str, Timing], above: str, below: str, target: float, errors: Mapping[str, str]
) -> Ratio:
    for name in (above, below):
        if name not in timings:
            return Ratio(math.nan, target, error=errors.get(name, "not measured"))
    return Ratio(paired_ratio(timings[above], timings[below]), target)


def _first(errors: Mapping[str, str]) -> str:
    return next(iter(errors.values()), "")


def ratio_table(ratios: Mapping[str, Ratio]) -> str:
    """Markdown: value beside target."""
    lines = []
    for name, ratio in ratios.items():
        bound = "at least" if ratio.at_least else "at most"
        target = "" if math.isnan(ratio.target) else f"{bound} {ratio.target:.2f}"
        value = f"{ratio.value:.3f}" if math.isfinite(ratio.value) else f"failed: {ratio.error}"
        met = "" if ratio.error else "yes" if ratio.is_met else "no"
        lines.append((name, value, target, met))
    headers, align = ("ratio", "value", "target", "met"), ("left", "right", "right", "left")
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True, colalign=align)


def ratios_json(ratios: Mapping[str, Ratio]) -> dict[str, Any]:
    """``{"ratios": {name: {"value", "target", "at_least"}}}``; a failed one has "error" instead of
    a value.
    """
    entries: dict[str, Any] = {}
    for name, ratio in ratios.items():
        entry = {k: v for k, v in asdict(ratio).items() if v == v and v != ""}
        entries[name] = entry
    return {"ratios": entries}
