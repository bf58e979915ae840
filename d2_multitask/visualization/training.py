"""The pictures that a trainer logs: labels above, what the network says below."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata
from torch import Tensor, nn

from d2_multitask.visualization.grid import contact_sheet
from d2_multitask.visualization.metadata import dataset_metadata
from d2_multitask.visualization.predictions import draw_result
from d2_multitask.visualization.targets import draw_labels, draw_map, rgb_image

_LONG_SIDE = 400  # pixels a picture: large enough to see joints, small enough to log often


def draw_training_batch(
    cfg: CfgNode, model: nn.Module, batched_inputs: list[dict[str, Any]]
) -> dict[str, np.ndarray]:
    """:func:`training_pictures` with names and channel order from the config."""
    return training_pictures(
        model,
        batched_inputs,
        metadata=dataset_metadata(cfg),
        input_format=cfg.INPUT.FORMAT,
    )


def training_pictures(
    model: nn.Module,
    batched_inputs: list[dict[str, Any]],
    max_images: int = 4,
    *,
    metadata: Metadata | None = None,
    input_format: str = "BGR",
) -> dict[str, np.ndarray]:
    """Draw targets and predictions of a training batch.

    The network runs in evaluation mode without gradients, so batch statistics do not move; each
    module's mode is put back afterwards.

    Args:
        model: a ``MultitaskCenterNet``, possibly wrapped for distributed training.
        batched_inputs: the mapper's dicts, with whatever labels they carry.
        max_images: how many of them are drawn.
        metadata: of the data set; generic names where it is missing.
        input_format: ``INPUT.FORMAT``.

    Returns:
        name -> (H, W, 3) uint8 RGB: ``results`` (labels, results) and ``map_<name>`` for each map
        of the heads (target, prediction); the upper row is what is to be learnt.
    """
    network = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    inputs = batched_inputs[:max_images]
    with evaluation_mode(network), torch.no_grad():
        images = network.preprocess_image(inputs)
        targets, predictions = head_maps(network, inputs)
        # Without `height` and `width` the results have the size of the network input.
        results = network([{"image": x["image"]} for x in inputs])
    padded_hw = tuple(images.tensor.shape[-2:])
    pixels = [rgb_image(x, input_format) for x in inputs]
    pictures = {
        "results": _two_rows(
            [
                draw_labels(x, metadata, input_format=input_format, min_long_side=_LONG_SIDE)
                for x in inputs
            ],
            [
                draw_result(image, result, metadata, min_long_side=_LONG_SIDE)
                for image, result in zip(pixels, results, strict=True)
            ],
        )
    }
    for name in targets:
        rows = [
            [
                draw_map(image, values, padded_hw, min_long_side=_LONG_SIDE)
                for image, values in zip(pixels, maps[name], strict=True)
            ]
            for maps in (targets, predictions)
            if name in maps
        ]
        pictures[f"map_{name}"] = _two_rows(*rows)
    return pictures


@torch.no_grad()
def head_maps(
    network: nn.Module, batched_inputs: list[dict[str, Any]]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The heads' target maps and prediction maps of a batch, name -> (N, h, w) in [0, 1]."""
    images = network.preprocess_image(batched_inputs)
    features = network.backbone(images.tensor)
    targets: dict[str, Tensor] = {}
    predictions: dict[str, Tensor] = {}
    for head in network.heads.values():
        targets.update(head.target_maps(head.targets(batched_inputs, images)))
        predictions.update(head.prediction_maps(head.layers(features)))
    return targets, predictions


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode, then give every module the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _two_rows(upper: list[np.ndarray], lower: list[np.ndarray]) -> np.ndarray:
    captions = [f"{i + 1}: labels" for i in range(len(upper))]
    captions += [f"{i + 1}: predicted" for i in range(len(lower))]
    return contact_sheet(
        [*upper, *lower], captions, columns=len(upper), cell_width=_LONG_SIDE, gap=6
    )
