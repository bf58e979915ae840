"""The pictures that a trainer logs: labels above, predictions below; reconstructions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import Metadata
from torch import Tensor, nn

from d2_multitask.heads import BatchLabels
from d2_multitask.modeling.mae import MaskedAutoencoder
from d2_multitask.visualization import style
from d2_multitask.visualization.contact_sheet import contact_sheet
from d2_multitask.visualization.predictions import draw_result
from d2_multitask.visualization.targets import draw_labels, draw_map, rgb_image

_LONG_SIDE = 400  # pixels a picture: large enough to see keypoints, small enough to log often
_SIZE = {"min_long_side": _LONG_SIDE}

CAPTIONS = ("original", "visible patches", "reconstruction", "all patches as predicted", "error")
_REMOVED = 128  # grey of removed patches
_CELL = 224  # pixels


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

    ``model``: a ``MultitaskCenterNet`` or ``MaskedAutoencoder``, possibly wrapped for distributed
    training. ``batched_inputs``: the mapper's dicts, with whatever labels they carry.
    ``max_images``: how many of them are drawn.

    Returns:
        name -> (H, W, 3) uint8 RGB: ``pictures/results`` (labels, results) and ``pictures/<map>``
        for each map of the heads (target, prediction); the upper row is what is to be learned. Of a
        ``MaskedAutoencoder`` ``pictures/reconstruction``.
    """
    network = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    inputs = batched_inputs[:max_images]
    if isinstance(network, MaskedAutoencoder):
        with evaluation_mode(network):
            sheet = draw_reconstructions(inputs, network(inputs), input_format=input_format)
        return {"pictures/reconstruction": sheet}
    with evaluation_mode(network), torch.no_grad():
        targets, padded_hw = target_maps(network, inputs)
        predictions = prediction_maps(network, inputs)
        # Without `height` and `width` the results have the size of the network input.
        results = network([{"image": x["image"]} for x in inputs])
    pixels = [rgb_image(x, input_format) for x in inputs]
    pictures = {
        "pictures/results": _two_rows(
            [draw_labels(x, metadata, input_format=input_format, **_SIZE) for x in inputs],
            [draw_result(*pair, metadata, **_SIZE) for pair in zip(pixels, results, strict=True)],
        )
    }
    for name in targets:
        rows = [
            [draw_map(*pair, padded_hw, **_SIZE) for pair in zip(pixels, maps[name], strict=True)]
            for maps in (targets, predictions)
            if name in maps
        ]
        pictures[f"pictures/{name}"] = _two_rows(*rows)
    return pictures


@torch.no_grad()
def target_maps(
    network: nn.Module, batched_inputs: list[dict[str, Any]]
) -> tuple[dict[str, Tensor], tuple[int, int]]:
    """Targets of the heads for a batch; the network itself does not run.

    Returns:
        name -> (N, h, w) in [0, 1], and the (H, W) of the padded input that the maps cover.

    Raises:
        ValueError: the network has no task heads.
    """
    if not hasattr(network, "heads"):
        raise ValueError(
            f"{type(network).__name__} learns from the images themselves: it has no targets to draw"
        )
    images = network.preprocess_image(batched_inputs)
    labels = BatchLabels(batched_inputs, images)
    maps: dict[str, Tensor] = {}
    for head in network.heads.values():
        maps.update(head.target_maps(head.targets(labels)))
    return maps, tuple(images.tensor.shape[-2:])


@torch.no_grad()
def prediction_maps(network: nn.Module, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Predictions of the heads for a batch: name -> (N, h, w) in [0, 1]."""
    features = network.backbone(network.preprocess_image(batched_inputs).tensor)
    maps: dict[str, Tensor] = {}
    for head in network.heads.values():
        maps.update(head.prediction_maps(head.layers(features)))
    return maps


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


def _two_rows(upper: list[np.ndarray], lower: Sequence[np.ndarray] = ()) -> np.ndarray:
    captions = [f"{i + 1}: labels" for i in range(len(upper))]
    captions += [f"{i + 1}: predicted" for i in range(len(lower))]
    return contact_sheet(
        [*upper, *lower], captions, columns=len(upper), cell_width=_LONG_SIDE, gap=6
    )


def draw_reconstructions(
    batched_inputs: Sequence[dict[str, Any]],
    results: Sequence[dict[str, Any]],
    *,
    input_format: str = "RGB",
    cell_width: int = _CELL,
) -> np.ndarray:
    """One row per image.

    ``batched_inputs``: what the network was called with. ``results``: what it returned in
    evaluation mode, see `MaskedAutoencoder.inference`. ``cell_width``: width of a picture in the
    sheet.

    Returns:
        (H, W, 3) uint8 RGB: the columns of `CAPTIONS`. In "reconstruction" the visible patches are
        the original's; the error is shown as its root, yellow = the largest of the image.
    """
    pictures, captions = [], []
    for batched_input, result in zip(batched_inputs, results, strict=True):
        pictures += reconstruction_pictures(batched_input, result, input_format)
        captions += CAPTIONS
    return contact_sheet(pictures, captions, columns=len(CAPTIONS), cell_width=cell_width, gap=6)


def reconstruction_pictures(
    batched_input: dict[str, Any], result: dict[str, Any], input_format: str = "RGB"
) -> list[np.ndarray]:
    """The pictures of one row, each (H, W, 3) uint8 RGB, in the order of `CAPTIONS`."""
    original = rgb_image(batched_input, input_format)
    predicted = rgb_image({"image": result["reconstruction"].round()}, input_format)
    height, width = original.shape[:2]
    mask = result["patch_mask"].cpu().numpy()
    removed = np.kron(mask, np.ones((height // mask.shape[0], width // mask.shape[1]), bool))
    seen = original.copy()
    seen[removed] = _REMOVED
    completed = original.copy()
    completed[removed] = predicted[removed]
    error = result["patch_error"].float().clamp(min=0).sqrt().cpu().numpy()
    shades = np.uint8(255 * error / max(float(error.max()), 1e-12))
    colors = cv2.applyColorMap(shades, style.HEATMAP_COLORS)[..., ::-1]
    colors = cv2.resize(colors, (width, height), interpolation=cv2.INTER_NEAREST)
    return [original, seen, completed, predicted, np.ascontiguousarray(colors)]
