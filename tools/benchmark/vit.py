"""Time and memory of our transformer backbone beside Detectron2's `ViT` of the same weights."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling.backbone.vit import ViT
from tabulate import tabulate
from torch import Tensor, nn

from benchmark.counting import peak_memory
from benchmark.timing import Clock, paired_ratio, time_interleaved
from d2_multitask.modeling.backbones import MAEViT
from d2_multitask.modeling.backbones.vit import vit_arguments
from d2_multitask.modeling.mae.blocks import layer_norm

OURS, THEIRS = "ours", "Detectron2"


@dataclass(frozen=True)
class Comparison:
    """One call of both networks.

    Attributes:
        seconds: median, by network.
        ratio: of the times turn by turn, ours / Detectron2's.
        peak_memory: bytes beside the weights, by network.
        difference: largest, of the two answers.
    """

    seconds: dict[str, float]
    ratio: float
    peak_memory: dict[str, int]
    difference: float


def measure_vit(
    cfg: CfgNode, images: Tensor, runs: int, warmup: int = 1, clock: Clock = time.perf_counter
) -> dict[str, Comparison]:
    """Measure forward pass, and forward and backward pass, without and with relative positions.

    Args:
        cfg: read: ``MODEL.MAE`` and ``MODEL.VIT``, whose windows and global blocks both get.
        images: (N, 3, H, H); the patch divides H.
        runs: counted runs of each.
        warmup: runs of each before that.
        clock: see `benchmark.timing.CLOCKS`.

    Returns:
        What is called -> numbers.

    Raises:
        ValueError: the images or the grid of stored positions are not square, which Detectron2's
            needs.
    """
    results = {}
    for use_rel_pos in (False, True):
        networks = build_pair(cfg, images, use_rel_pos)
        with torch.no_grad():
            answers = [network(images)["last_feat"] for network in networks.values()]
        difference = (answers[0] - answers[1]).abs().max().item()
        del answers
        positions = "relative positions" if use_rel_pos else "no relative positions"
        for name, call in (("forward", _forward), ("forward and backward", _forward_and_backward)):
            calls = {key: partial(call, network, images) for key, network in networks.items()}
            results[f"{positions}, {name}"] = _compare(calls, runs, warmup, clock, difference)
    return results


def _compare(
    calls: Mapping[str, Callable[[], Any]], runs: int, warmup: int, clock: Clock, difference: float
) -> Comparison:
    timings = time_interleaved(calls, runs, warmup, clock=clock)
    return Comparison(
        {name: timing.median for name, timing in timings.items()},
        paired_ratio(timings[OURS], timings[THEIRS]),
        {name: peak_memory(call) for name, call in calls.items()},
        difference,
    )


def build_pair(cfg: CfgNode, images: Tensor, use_rel_pos: bool) -> dict[str, nn.Module]:
    """Our backbone and Detectron2's, with the same random weights; see `measure_vit`.

    Returns:
        `OURS` and `THEIRS` -> network in training mode, without stochastic depth.
    """
    arguments = vit_arguments(cfg)
    size, patch_size = _square(images.shape[-2:], "images"), arguments["patch_size"]
    # What Detectron2's cannot do, or does by chance, is off.
    off = {"drop_path": 0.0, "final_norm": False, "freeze_blocks": 0, "position_resize": "bicubic"}
    given = {"use_rel_pos": use_rel_pos, "rel_pos_image_size": (size, size)}
    ours = MAEViT(**{**arguments, **off, **given})
    with torch.no_grad():  # they begin at zero
        for name, parameter in ours.named_parameters():
            if ".rel_pos_" in name:
                nn.init.trunc_normal_(parameter, std=0.02)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Importing from timm.models.layers", FutureWarning)
        theirs = ViT(
            img_size=size,
            patch_size=patch_size,
            embed_dim=arguments["embed_dim"],
            depth=arguments["depth"],
            num_heads=arguments["num_heads"],
            norm_layer=layer_norm,
            use_rel_pos=use_rel_pos,
            window_size=arguments["window_size"],
            window_block_indexes=[i for i, block in enumerate(ours.blocks) if block.window_size],
            pretrain_img_size=_square(arguments["image_size"], "MODEL.MAE.IMAGE_SIZE"),
        )
    theirs.load_state_dict(ours.state_dict())
    return {name: net.to(images.device) for name, net in ((OURS, ours), (THEIRS, theirs))}


def _square(hw: tuple[int, ...], what: str) -> int:
    height, width = hw
    if height != width:
        raise ValueError(f"{what}: found {height}x{width}, expected a square, as Detectron2 does")
    return height


@torch.no_grad()
def _forward(network: nn.Module, images: Tensor) -> None:
    network(images)


def _forward_and_backward(network: nn.Module, images: Tensor) -> None:
    network.zero_grad()
    network(images)["last_feat"].sum().backward()


def vit_table(results: Mapping[str, Comparison]) -> str:
    """Markdown: a line for each call, times in milliseconds and memory in megabytes."""
    headers = ["call"]
    headers += [f"{name}, ms" for name in (OURS, THEIRS)] + ["ratio"]
    headers += [f"{name}, MB" for name in (OURS, THEIRS)] + ["ratio", "largest difference"]
    rows = []
    for name, result in results.items():
        memory = [result.peak_memory[key] for key in (OURS, THEIRS)]
        row = [name, *(f"{result.seconds[key] * 1e3:.0f}" for key in (OURS, THEIRS))]
        row += [f"{result.ratio:.2f}", *(f"{value / 1e6:.0f}" for value in memory)]
        row += [f"{memory[0] / memory[1]:.2f}" if memory[1] else "", f"{result.difference:.1e}"]
        rows.append(row)
    align = ("left", *["right"] * (len(headers) - 1))
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True, colalign=align)
