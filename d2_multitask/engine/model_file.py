"""Weight files that are enough by themselves: their config and names, written and read."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from d2_multitask.checkpoint import Description, read_description
from d2_multitask.checkpoint.description import known_names
from d2_multitask.config import get_multitask_cfg, load_config, merge_options, parse_config
from d2_multitask.data.datasets.catalog import loaded_metadata
from d2_multitask.data.datasets.from_config import register_datasets
from d2_multitask.engine.setup import fall_back_to_cpu
from d2_multitask.version import __version__

logger = logging.getLogger(__name__)

# What belongs to the machine or to the start of a training; a weight file has its own defaults.
_MACHINE_KEYS = (
    *("OUTPUT_DIR", "MODEL.DEVICE", "MODEL.WEIGHTS", "MODEL.FEATURE_EXTRACTOR.WEIGHTS"),
    "MODEL.TEACHERS",
)


def describe(cfg: CfgNode) -> str:
    """The text that makes a weight file of this config complete, see `Description`.

    ``OUTPUT_DIR``, ``MODEL.DEVICE`` and the weights that training started from are left at their
    defaults. Names are those of ``DATASETS.TRAIN`` and ``DATASETS.TEST``; of datasets that
    disagree the first one's.
    """
    cfg = cfg.clone()
    cfg.defrost()
    _forget_machine(cfg)
    names = {}
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if name not in DatasetCatalog:
            continue
        try:
            # A dataset that was not loaded yet is only read if it alone has names.
            metadata = MetadataCatalog.get(name) if names else loaded_metadata(name)
        except (ValueError, OSError, KeyError) as error:
            logger.warning("No names from dataset %r, which cannot be read: %s", name, error)
            continue
        names = {**known_names(metadata.as_dict()), **names}
    return Description(cfg.dump(), names, __version__).to_json()


def trained_config(
    weights: str | os.PathLike[str] = "",
    config_file: str | os.PathLike[str] = "",
    opts: Sequence[str] = (),
    config_key: str = "--config-file FILE",
) -> tuple[CfgNode, Metadata | None]:
    """The config of a trained network, from a config file if there is one, else from the weights.

    Args:
        weights: a weight file; it becomes ``MODEL.WEIGHTS``.
        config_file: as of `load_config`.
        opts: ``["KEY", "VALUE", ...]``.
        config_key: where a config file is named, for messages.

    Returns:
        The config, not frozen; and the names in the weight file, if its config is used. Then it is
        for the GPU, if there is one.

    Raises:
        ValueError: the file has no config and none is given; it is no weight file, or malformed.
        FileNotFoundError: there is no such file.
    """
    weights = os.fspath(weights)
    if Path(weights).suffix.lower() in (".onnx", ".xml"):
        raise ValueError(
            f"{weights}: found the name of an exported network, expected weights (.pth, "
            ".safetensors); exported ones are for d2mt predict, track, view and eval"
        )
    if config_file:
        cfg, names = load_config(config_file, opts), None
    else:
        description = read_description(weights)
        if description is None:
            raise ValueError(
                f"{weights} has no config inside, as weight files of other programs and of older "
                f"versions; say whose network it is: {config_key}"
            )
        cfg = parse_config(description.config, f"{weights}: its config")
        _forget_machine(cfg)
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
        merge_options(cfg, opts)
        names = Metadata(**description.names)
    if weights:
        cfg.MODEL.WEIGHTS = weights
    return cfg, names


def prediction_config(
    weights: str | os.PathLike[str] = "",
    config_file: str | os.PathLike[str] = "",
    opts: Sequence[str] = (),
) -> tuple[CfgNode, Metadata | None]:
    """:func:`trained_config`, frozen, for a machine where the training data need not be."""
    cfg, names = trained_config(weights, config_file, opts)
    if warning := fall_back_to_cpu(cfg):
        logger.warning(warning)
    try:
        register_datasets(cfg.DATASETS.REGISTER)
    except (ValueError, OSError) as error:
        if names is None:  # only names depend on it
            logger.warning("The datasets are not here, so generic names are used: %s", error)
    cfg.freeze()
    return cfg, names


def _forget_machine(cfg: CfgNode) -> None:
    default = get_multitask_cfg()
    for key in _MACHINE_KEYS:
        *nodes, last = key.split(".")
        node, other = cfg, default
        for name in nodes:
            node, other = node[name], other[name]
        node[last] = other[last]
