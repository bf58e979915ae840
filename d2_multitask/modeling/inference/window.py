"""Results in a window of the network input -> results of the image that lies there."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from torch import Tensor

Window = tuple[float, float, float, float]


def crop_result(
    result: dict[str, Any],
    window: Window,
    input_size: tuple[int, int],
    output_size: tuple[int, int],
) -> dict[str, Any]:
    """Cut one image's result out of that of its framed network input.

    Args:
        result: in pixels of the network input; instances, maps (C, h, w) of ``input_size``, and
            whatever has no place, which stays as it is.
        window: (x0, y0, x1, y1), where the image lies in the input.
        input_size: (h, w) of the input.
        output_size: (h, w) of the image asked for.

    Returns:
        The same keys, in pixels of ``output_size``.
    """
    cropped = {}
    for name, value in result.items():
        if isinstance(value, Instances):
            value = _crop_instances(value, window, output_size)
        elif isinstance(value, Tensor) and value.dim() >= 2 and value.shape[-2:] == input_size:
            value = _crop_map(value, window, output_size)
        cropped[name] = value
    return cropped


def _crop_instances(
    instances: Instances, window: Window, output_size: tuple[int, int]
) -> Instances:
    x0, y0, x1, y1 = window
    moved = Instances((y1 - y0, x1 - x0), **instances.get_fields())
    boxes = moved.pred_boxes.clone()
    boxes.tensor -= boxes.tensor.new_tensor([x0, y0, x0, y0])
    moved.pred_boxes = boxes
    if moved.has("pred_keypoints"):
        keypoints = moved.pred_keypoints
        moved.pred_keypoints = keypoints - keypoints.new_tensor([x0, y0, 0])
    return detector_postprocess(moved, *output_size)


def _crop_map(values: Tensor, window: Window, output_size: tuple[int, int]) -> Tensor:
    """(C, h, w) or (h, w) floats -> the window's part, resized; other types are cut only."""
    x0, y0, x1, y1 = (round(side) for side in window)
    values = values[..., max(y0, 0) : max(y1, 1), max(x0, 0) : max(x1, 1)]
    if values.shape[-2:] == output_size:
        return values
    is_map = values.dim() == 2
    mode = "bilinear" if values.is_floating_point() else "nearest-exact"
    options = {"align_corners": False} if mode == "bilinear" else {}
    resized = F.interpolate(
        (values[None] if is_map else values)[None].float(), output_size, mode=mode, **options
    )[0].to(values.dtype)
    return resized[0] if is_map else resized
