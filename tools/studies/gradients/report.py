"""Measurements as Markdown and JSON, and what to do."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean

from detectron2.config import CfgNode
from tabulate import tabulate

from d2_multitask.engine.setup import flat
from d2_multitask.engine.task_gradients import GradientStatistics
from studies.gradients.measure import Measurement

# Of an even share: with 4.5 % of four tasks segmentation learned as well as alone, with 1.2 % not.
SMALL = 0.1
# Cosines of tasks that have nothing in common are within some hundredths of 0.
OPPOSED = -0.1

_NODES = {"seg": ("SEM_SEG_HEAD",), "reconstruction": ("MAE_BACKBONE",)}
_RCNN_NODES = {"det": ("RPN", "ROI_BOX_HEAD"), "mask": (), "pose": ("ROI_KEYPOINT_HEAD",)}


def weight_keys(cfg: CfgNode, task: str) -> list[str]:
    """Config keys of the weights of a task's losses; Detectron2 has none for masks."""
    nodes = _NODES | (_RCNN_NODES if "RCNN" in cfg.MODEL.META_ARCHITECTURE else {})
    keys = [
        f"MODEL.{node}.{key}"
        for node in nodes.get(task, (f"{task.upper()}_HEAD",))
        for key in flat(cfg.MODEL.get(node, {}))
        if key.endswith("_WEIGHT") and key != "POSITIVE_WEIGHT"  # of pixels, not of a loss
    ]
    if task == "det" and "RCNN" not in cfg.MODEL.META_ARCHITECTURE:
        node = cfg.MODEL.DET_HEAD
        unused = "WH_WEIGHT" if node.BOX_LOSS == "giou" else "GIOU_WEIGHT"
        keys.remove(f"MODEL.DET_HEAD.{unused}")
        keys = [k for k in keys if node.REFINE.STAGES or "REFINE" not in k]
    return keys


def advice(cfg: CfgNode, measurements: Sequence[Measurement]) -> list[str]:
    """What to do, one sentence each; shares and cosines are means over the measurements."""
    shares = mean_shares(measurements)
    if len(shares) == 1:
        return [f"The network has one task, {next(iter(shares))}: there is nothing to compare."]
    sentences = []
    for task, share in shares.items():
        if share == 0:
            sentences.append(
                f"{task} has no gradient: none of its labels reached the network. Measure more "
                "--batches, or look at the labels of DATASETS.TRAIN with d2mt check."
            )
        elif share < SMALL / len(shares):
            ways = [f"raise {' and '.join(keys)}"] if (keys := weight_keys(cfg, task)) else []
            if cfg.SOLVER.LOSS_BALANCING == "none":
                ways.append("set SOLVER.LOSS_BALANCING gradient_norm")
            sentences.append(
                f"{task} contributes {100 * share:.1f} % of the shared gradient; "
                f"{' or '.join(ways) or 'SOLVER.LOSS_BALANCING is set already'}."
            )
    for (a, b), cosines in _cosines(measurements).items():
        opposed = sum(cosine < OPPOSED for cosine in cosines)
        if 2 * opposed > len(cosines):
            sentences.append(
                f"{a} and {b} pull against each other in {opposed} of {len(cosines)} measurements "
                f"(mean cosine {fmean(cosines):+.2f}); try SOLVER.LOSS_BALANCING upgrad, and "
                "compare with a network for each (tools/compare_tasks.py)."
            )
    least = min(shares, key=shares.__getitem__)
    return sentences or [
        f"Every task moves the shared features (the least is {least}, {100 * shares[least]:.1f} %) "
        "and no two pull against each other: there is nothing to do."
    ]


def fresh_note(measurements: Sequence[Measurement]) -> list[str]:
    """A sentence if the weight file has not all of the network."""
    fresh = measurements[-1].fresh
    if not fresh:
        return []
    return [
        f"MODEL.WEIGHTS has no values for {len(fresh)} tensors of the network, e.g. {fresh[0]}: "
        "they have their initial values."
    ]


def mean_shares(measurements: Sequence[Measurement]) -> dict[str, float]:
    """Task -> share, mean over the measurements."""
    shares = [m.by_task.shares for m in measurements]
    return {task: fmean(s[task] for s in shares) for task in shares[0]}


def _cosines(measurements: Sequence[Measurement]) -> dict[tuple[str, str], list[float]]:
    return {pair: [m.pairs[pair] for m in measurements] for pair in measurements[0].pairs}


def report_markdown(measurements: Sequence[Measurement], sentences: Sequence[str]) -> str:
    """Advice, shares by iteration, cosines between tasks, and the losses of the last one."""
    last, tasks = measurements[-1], list(measurements[0].by_task.norms)
    shares = [
        [str(m.iteration), *(f"{100 * s:.1f}" for s in m.by_task.shares.values()), _condition(m)]
        for m in measurements
    ]
    cosines = {pair: fmean(values) for pair, values in _cosines(measurements).items()}
    cosines |= {(b, a): value for (a, b), value in cosines.items()}
    matrix = [[a, *("" if a == b else _signed(cosines[a, b]) for b in tasks)] for a in tasks]
    by_loss = last.by_loss
    losses = [
        [
            name,
            f"{value:.4g}",
            f"{by_loss.norms[name]:.4g}",
            f"{100 * by_loss.shares[name]:.1f}",
            _signed(by_loss.cosines[name]),
        ]
        for name, value in last.losses.items()
    ]
    parts = [
        "# Gradients of the shared features",
        "\n".join(sentences),
        "Share of each task, %:",
        _table(["iteration", *tasks, "condition number"], shares),
    ]
    if len(tasks) > 1:
        parts += ["Cosine between tasks, mean over the iterations:", _table(["", *tasks], matrix)]
    headers = ["loss", "value", "gradient", "share, %", "cosine to the others"]
    parts += [f"Losses at iteration {last.iteration}:", _table(headers, losses)]
    return "\n\n".join(parts) + "\n"


def _condition(measurement: Measurement) -> str:
    condition = measurement.by_task.condition
    return "∞" if math.isinf(condition) else f"{condition:.3g}"


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"  # never "-0.00"


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    align = ["left", *["right"] * (len(headers) - 1)]
    return tabulate(rows, headers, "github", colalign=align, disable_numparse=True)


def report_json(measurements: Sequence[Measurement], sentences: Sequence[str]) -> str:
    """All numbers; an infinite condition number is ``null``."""
    rows = [
        {"iteration": m.iteration, "values": m.losses}
        | {"tasks": _plain(m.by_task), "losses": _plain(m.by_loss)}
        for m in measurements
    ]
    return json.dumps({"advice": sentences, "measurements": rows}, indent=2) + "\n"


def _plain(found: GradientStatistics) -> dict[str, object]:
    condition = None if math.isinf(found.condition) else found.condition
    pairs = {", ".join(pair): cosine for pair, cosine in found.pairs.items()}
    return {**asdict(found), "pairs": pairs, "condition": condition}
