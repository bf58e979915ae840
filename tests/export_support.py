"""A small network, exported once for all tests, and images."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode

from d2_multitask.config import get_multitask_cfg
from d2_multitask.export import export_file
from d2_multitask.modeling import MultitaskCenterNet
from fusion_support import network

TASKS = ["seg", "det", "pose"]
THRESHOLD = 0.13


def small_network(tasks: list[str] | None = None, **options: Any) -> MultitaskCenterNet:
    """With weights that find objects in noise."""
    model = network(tasks or TASKS, norm="BN", **options).eval()
    if "det" in model.heads:
        torch.nn.init.constant_(model.heads["det"].wh[-1].bias, 3.0)  # no box is empty
    if "center" in model.heads:
        model.heads["center"].score_threshold = THRESHOLD
    return model


def small_config(tasks: list[str] | None = None) -> CfgNode:
    """The config of `small_network`, as far as exporting reads it."""
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS = tasks or TASKS
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    cfg.MODEL.CENTER_HEAD.SCORE_THRESH_TEST = THRESHOLD
    cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = 60  # not a multiple of the stride of 4
    return cfg


def blobs(height: int, width: int, seed: int = 0) -> np.ndarray:
    """An image (H, W, 3) uint8 of coloured blocks."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 256, (-(-height // 6), -(-width // 6), 3), dtype=np.uint8)
    return np.ascontiguousarray(blocks.repeat(6, 0).repeat(6, 1)[:height, :width])


@functools.cache
def exported() -> Path:
    """The network as an ONNX file, which takes some seconds."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "model.onnx"
    export_file(small_config(), small_network(), path, name="small.yaml")
    return path
