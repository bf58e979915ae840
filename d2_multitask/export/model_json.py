"""What an exported file says about itself: one JSON text under the key ``d2_multitask``.

With it the file alone is enough: names, thresholds, the order of channels, how an image becomes the
network input and how the answers become pixels of the image. `d2_multitask.runtime` reads it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import Metadata

from d2_multitask.engine.trained_model import model_info
from d2_multitask.export.network import TOKENS, ExportedNetwork
from d2_multitask.heads.dense import DenseHead
from d2_multitask.runtime.model_info import FORMAT_VERSION, InputInfo, OutputInfo


def model_json(
    cfg: CfgNode, metadata: Metadata, network: ExportedNetwork, outputs: Sequence[str], name: str
) -> dict[str, Any]:
    """The content of the file's JSON.

    Args:
        cfg: the config of the network.
        metadata: of `cfg_metadata`.
        network: what was recorded.
        outputs: names of its answers.
        name: of the config.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.TASKS = network.names
    info = model_info(cfg, metadata)
    strides = {
        head.label: head.stride for head in network.heads.values() if isinstance(head, DenseHead)
    }
    known = {TOKENS: OutputInfo("encoder", network.divisor, TOKENS), **info.outputs}
    described = {}
    for output in outputs:
        one = known.get(output, OutputInfo(output))
        described[output] = dataclasses.replace(one, stride=strides.get(output, one.stride))
    info = dataclasses.replace(
        info, config=name, input=_input(info.input, cfg, network), outputs=described
    )
    return {"format_version": FORMAT_VERSION, **dataclasses.asdict(info)}


def _input(info: InputInfo, cfg: CfgNode, network: ExportedNetwork) -> InputInfo:
    padding = getattr(getattr(network.model, "backbone", None), "padding_constraints", {})
    info = dataclasses.replace(info, divisor=network.divisor, square=padding.get("square_size", 0))
    crop = cfg.INPUT.CENTER_CROP_TEST
    return dataclasses.replace(info, resize="center_crop", size=tuple(crop)) if crop else info
