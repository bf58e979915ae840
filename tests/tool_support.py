"""What tests of tools/ need: to run a tool as a user does, to load it, a small autoencoder."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from detectron2.modeling import build_model

from d2_multitask.checkpoint.reading import DESCRIPTION_KEY
from d2_multitask.config import load_config
from d2_multitask.engine.model_file import describe
from support import REPOSITORY

SMALL_MAE = (
    *("MODEL.MAE.EMBED_DIM", "24", "MODEL.MAE.DEPTH", "1", "MODEL.MAE.NUM_HEADS", "2"),
    *("MODEL.MAE.DECODER_EMBED_DIM", "16", "MODEL.MAE.DECODER_DEPTH", "1"),
    *("MODEL.MAE.MASK_RATIO", "[0.5, 0.9]"),
)
"""Overrides that make the quick configs of autoencoders fast."""


def run_tool(
    name: str, folder: Path, *words: object, datasets: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a tool of this checkout in a process of its own, with one thread.

    Args:
        name: of the file in tools/.
        folder: the working folder.
        words: of the command line.
        datasets: ``DETECTRON2_DATASETS``; ``None`` = that of the tests.
    """
    return _run([str(REPOSITORY / "tools" / name), *map(str, words)], folder, datasets)


def run_command(
    name: str, folder: Path, *words: object, datasets: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command of `d2mt`, likewise."""
    return _run(["-m", "d2_multitask", name, *map(str, words)], folder, datasets)


def run_python(
    folder: Path, *words: object, datasets: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python with options of its own; a word ``tools/...`` is a tool of this checkout."""
    texts = [str(word) for word in words]
    texts = [str(REPOSITORY / word) if word.startswith("tools/") else word for word in texts]
    return _run(texts, folder, datasets)


def _run(words: list[str], folder: Path, datasets: Path | None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    if datasets is not None:
        environment["DETECTRON2_DATASETS"] = str(datasets)
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def load_tool(name: str) -> ModuleType:
    """A tool as a module, for cases that need no process of their own (6 s for its imports)."""
    path = REPOSITORY / "tools" / name
    spec = importlib.util.spec_from_file_location(f"{path.stem}_tool", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return _without_logger(module)


def load_command(name: str) -> ModuleType:
    """The module of a command of `d2mt`, likewise."""
    return _without_logger(importlib.import_module(f"d2_multitask.cli.{name}"))


def _without_logger(module: ModuleType) -> ModuleType:
    """Detectron2's logger would no longer pass messages on, also not to later tests."""
    if hasattr(module, "setup_logger"):
        module.setup_logger = lambda **_: None
    return module


def small_network(folder: Path) -> Path:
    """Write what a training leaves, with random weights: config.yaml and model_final.pth.

    Returns:
        The path of the weights, which have config and names inside; three tasks.
    """
    cfg = load_config("quick/mcn_seg_det_pose.yaml")
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    cfg.MODEL.CENTER_HEAD.SCORE_THRESH_TEST = 0.0
    cfg.OUTPUT_DIR = str(folder)
    cfg.DATASETS.TEST = ("nobody_registered_this",)
    (folder / "config.yaml").write_text(cfg.dump())
    torch.manual_seed(0)
    path = folder / "model_final.pth"
    torch.save({"model": build_model(cfg).state_dict(), DESCRIPTION_KEY: describe(cfg)}, path)
    return path


def save_small_mae(file: Path, config: str, overrides: Sequence[str] = SMALL_MAE) -> None:
    """Write random weights of an autoencoder.

    Args:
        file: to write.
        config: name below configs/.
        overrides: of the config.
    """
    torch.manual_seed(0)
    model = build_model(load_config(config, list(overrides)))
    torch.save({"model": model.state_dict()}, file)
