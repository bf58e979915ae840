"""What a study trains: rows (one config each) times seeds, each pair in a folder of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from d2_multitask.config import load_config
from d2_multitask.doctor.findings import sentence
from d2_multitask.engine.balancing import build_balancer
from d2_multitask.engine.best import check_counts
from d2_multitask.engine.loggers import check_loggers
from d2_multitask.engine.solver import build_optimizer
from d2_multitask.modeling.rcnn import DETECTION, MultitaskRCNN

# The rows of the MCN paper's Table 1, in its order.
TABLE_1_ROWS = ("seg", "det", "pose", "seg_det", "seg_pose", "det_pose", "seg_det_pose")
# The config file of each row.
PRESETS = {"cpu": "quick/mcn_{}.yaml", "coco": "mcn_{}.yaml"}
# A study sets these itself, in each of its runs.
OWN_KEYS = ("OUTPUT_DIR", "SEED", "MODEL.TASKS")
# Longer lists of tasks are counted, not spelt out.
MOST_NAMED = 4
# Two runs that differ in these alone learn the same.
IRRELEVANT_KEYS = frozenset(
    {
        "OUTPUT_DIR",
        "VIS_PERIOD",
        "CUDNN_BENCHMARK",
        "MODEL.DEVICE",
        "DATALOADER.NUM_WORKERS",
        "SOLVER.CHECKPOINT_PERIOD",
        "SOLVER.LOG_PERIOD",
        "TEST.EVAL_PERIOD",
    }
)


@dataclass(frozen=True)
class Row:
    """One network of the study.

    Attributes:
        name: its folder, such as ``seg_det``.
        label: its name in the table, such as ``Seg+Det``.
        tasks: of the network, see `network_tasks`; empty if the config cannot be read.
        config_file: a path, or the name of a config that comes with the package.
        position: its place in the table, from 0.
    """

    name: str
    label: str
    tasks: tuple[str, ...]
    config_file: str
    position: int


@dataclass(frozen=True)
class Run:
    """One training: a row with a seed, and the folder of everything that it writes."""

    row: Row
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """For people: ``Seg+Det, seed 1``."""
        return f"{self.row.label}, seed {self.seed}"

    @property
    def own_opts(self) -> list[str]:
        """The config keys that tell this run from others of its row, ``[KEY, VALUE, ...]``."""
        return ["SEED", str(self.seed), "OUTPUT_DIR", str(self.folder)]


def network_tasks(cfg: CfgNode) -> tuple[str, ...]:
    """``MODEL.TASKS``, and of an R-CNN what Detectron2's switches add to boxes.

    Such a network has "mask" and "pose" with "det" only, never alone.
    """
    tasks = list(cfg.MODEL.TASKS)
    if cfg.MODEL.META_ARCHITECTURE == MultitaskRCNN.__name__ and DETECTION in tasks:
        added = {"mask": cfg.MODEL.MASK_ON, "pose": cfg.MODEL.KEYPOINT_ON}
        place = tasks.index(DETECTION) + 1
        tasks[place:place] = [task for task, is_on in added.items() if is_on]
    return tuple(tasks)


def row_label(tasks: Sequence[str]) -> str:
    """The paper's name of a set of tasks: ``Only Seg``, ``Seg+Det``; of many: ``8 tasks``."""
    words = [task.replace("_", " ").capitalize() for task in tasks]
    if len(words) > MOST_NAMED:
        return f"{len(words)} tasks"
    return f"Only {words[0]}" if len(words) == 1 else "+".join(words)


def row_name(tasks: Sequence[str]) -> str:
    """The folder of a set of tasks: ``seg_det``; of many: ``8_tasks``."""
    return "_".join(tasks) if len(tasks) <= MOST_NAMED else f"{len(tasks)}_tasks"


def preset_rows(preset: str, names: Sequence[str] = ()) -> list[Row]:
    """The rows of a preset.

    Args:
        preset: a key of `PRESETS`.
        names: the rows wanted, empty = all.

    Raises:
        ValueError: unknown names.
    """
    rows = [
        Row(
            name,
            row_label(name.split("_")),
            tuple(name.split("_")),
            PRESETS[preset].format(name),
            i,
        )
        for i, name in enumerate(TABLE_1_ROWS)
    ]
    return _selected(rows, names)


def config_rows(files: Sequence[str], names: Sequence[str] = ()) -> list[Row]:
    """One row for each config file, in the order given.

    A row is named after its tasks, or after its file if several files have the same tasks. A file
    that cannot be read gets a row too: its training will say why.

    Args:
        files: paths, or names of configs that come with the package.
        names: the rows wanted, empty = all.

    Raises:
        ValueError: two files of one name, or unknown names.
    """
    tasks = [_tasks_of(file) for file in files]
    by_tasks = all(tasks) and len({frozenset(t) for t in tasks}) == len(tasks)
    by_tasks = by_tasks and len({row_name(t) for t in tasks}) == len(tasks)
    rows = []
    for position, (file, own) in enumerate(zip(files, tasks, strict=True)):
        stem = Path(file).stem
        name, label = (row_name(own), row_label(own)) if by_tasks else (stem, stem)
        rows.append(Row(name, label, own, file, position))
    if len({row.name for row in rows}) < len(rows):
        raise ValueError(
            f"--config-files: found several files of one name, {sorted(r.name for r in rows)}, "
            "expected different names, because the rows are named after them"
        )
    return _selected(rows, names)


def plan_runs(rows: Sequence[Row], seeds: Sequence[int], output: Path) -> list[Run]:
    """All rows with the first seed, then all with the second: a whole table comes early."""
    return [
        Run(row, seed, output / row.name / f"seed{seed}")
        for seed in dict.fromkeys(seeds)
        for row in rows
    ]


def check_opts(rows: Sequence[Row], opts: Sequence[str]) -> None:
    """Find mistakes before anything is trained: each row's network is built once.

    Raises:
        ValueError: a key is unknown or the study's own, or a value is wrong.
    """
    for key in OWN_KEYS:
        if key in opts[::2]:
            raise ValueError(
                f"command line: found {key}, which a study sets itself: use --output, --seeds, "
                "--rows or --config-files"
            )
    for row in rows:
        if row.tasks:  # else the config itself is wrong
            cfg = load_config(row.config_file, opts)
            try:
                _check_config(cfg)
            except Exception as error:  # also of a name that is not registered
                raise ValueError(f"{row.label}: {sentence(error)}") from error


def _check_config(cfg: CfgNode) -> None:
    """What `d2mt check` builds without data and weight files."""
    check_counts(cfg)
    check_loggers(cfg)
    model = _untrained(cfg)
    build_balancer(cfg, model)
    build_optimizer(cfg, model)


def changed_settings(run: Run, opts: Sequence[str]) -> list[str]:
    """What differs between the config that a run's folder was trained with and today's.

    Returns:
        ``KEY: then -> now`` for each difference, empty also if there is nothing to compare.
    """
    path = run.folder / "config.yaml"
    if not path.is_file() or not run.row.tasks:
        return []
    then = _flat(yaml.safe_load(path.read_text(encoding="utf-8")))
    cfg = load_config(run.row.config_file, [*opts, *run.own_opts])
    now = _flat(yaml.safe_load(cfg.dump()))
    # A key of only one of the two came or went with a change of the code.
    shared = sorted(set(then) & set(now) - IRRELEVANT_KEYS)
    return [f"{key}: {then[key]} -> {now[key]}" for key in shared if then[key] != now[key]]


def count_parameters(cfg: CfgNode) -> int:
    """Parameters of the network that a config describes, learned and frozen."""
    return sum(parameter.numel() for parameter in _untrained(cfg).parameters())


def _untrained(cfg: CfgNode) -> nn.Module:
    """The network of a config without its weights, which might have to be downloaded."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = "", "cpu"
    cfg.MODEL.FEATURE_EXTRACTOR.WEIGHTS, cfg.MODEL.FEATURE_EXTRACTOR.PRETRAINED = "", False
    return build_model(cfg)


def _tasks_of(file: str) -> tuple[str, ...]:
    try:
        return network_tasks(load_config(file))
    except ValueError:
        return ()


def _selected(rows: list[Row], names: Sequence[str]) -> list[Row]:
    known = [row.name for row in rows]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"--rows: found {', '.join(unknown)}, expected some of: {', '.join(known)}"
        )
    return [row for row in rows if not names or row.name in names]


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """``{"A": {"B": 1}}`` -> ``{"A.B": 1}``."""
    if not isinstance(node, dict):
        return {prefix[:-1]: node}
    return {
        key: value
        for name, inner in node.items()
        for key, value in _flat(inner, f"{prefix}{name}.").items()
    }
