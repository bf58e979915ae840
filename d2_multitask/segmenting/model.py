"""The autoencoder of a config, with trained weights."""

from __future__ import annotations

import zlib
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.modeling import build_model

from d2_multitask.config import load_config
from d2_multitask.engine.predictor import find_weights
from d2_multitask.engine.setup import fall_back_to_cpu, find_config_file
from d2_multitask.engine.trainer import load_for_evaluation
from d2_multitask.modeling.mae import MaskedAutoencoder

_CHUNK = 2**24


def load_autoencoder(config_file: str, opts: list[str]) -> tuple[CfgNode, MaskedAutoencoder]:
    """Build the network of a config and load ``MODEL.WEIGHTS``, or what ``OUTPUT_DIR`` holds.

    Args:
        config_file: path, or name below ``configs/``.
        opts: ``KEY VALUE`` pairs.

    Returns:
        The config, frozen, and the network in evaluation mode.

    Raises:
        ValueError: the config is another network's, there are no weights, or they do not fit.
    """
    cfg = load_config(find_config_file(config_file), opts)
    fall_back_to_cpu(cfg)
    if cfg.MODEL.META_ARCHITECTURE != MaskedAutoencoder.__name__:
        raise ValueError(
            f"MODEL.META_ARCHITECTURE: found {cfg.MODEL.META_ARCHITECTURE!r}, expected "
            f"{MaskedAutoencoder.__name__!r}, which reconstructs patches"
        )
    cfg.MODEL.WEIGHTS = find_weights(cfg)
    cfg.freeze()
    model = build_model(cfg).eval()
    load_for_evaluation(cfg, model)
    return cfg, model


def checksum(file: str | Path) -> str:
    """CRC-32 of a file, to know whether weights are the same."""
    value = 0
    with open(file, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return f"{value:08x}"
