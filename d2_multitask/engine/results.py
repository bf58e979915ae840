"""Results of one image: Detectron2's dicts as plain arrays, and back."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from d2_multitask.runtime import Result
from d2_multitask.runtime.model_info import ModelInfo

# Field of `Result` -> of Detectron2's ``Instances``, besides the boxes.
_FIELDS = {
    "scores": "scores",
    "classes": "pred_classes",
    "keypoints": "pred_keypoints",
    "masks": "pred_masks",
}


def to_result(result: dict[str, Any], image_size: tuple[int, int], info: ModelInfo) -> Result:
    """A result dict as plain arrays.

    Args:
        result: of one image, at the image's size.
        image_size: (h, w).
        info: of the network.
    """
    converted = Result(tuple(image_size), info)
    if "instances" in result:
        instances = result["instances"].to("cpu")
        converted.boxes = instances.pred_boxes.tensor.numpy()
        for name, field in _FIELDS.items():
            if instances.has(field):
                setattr(converted, name, instances.get(field).numpy())
    for name, value in result.items():
        if name == "image_labels":
            converted.image_labels = value.cpu().float().numpy()
        elif isinstance(value, Tensor):
            converted.maps[name] = value.cpu().float().numpy()
    return converted


def to_detectron2(result: Result) -> dict[str, Any]:
    """Plain arrays as the dict that Detectron2's evaluators read, on the CPU."""
    converted = {name: torch.from_numpy(value) for name, value in result.maps.items()}
    if result.image_labels is not None:
        converted["image_labels"] = torch.from_numpy(result.image_labels)
    if result.boxes is not None:
        arrays = {field: getattr(result, name) for name, field in _FIELDS.items()}
        converted["instances"] = Instances(
            result.image_size,
            pred_boxes=Boxes(torch.from_numpy(result.boxes)),
            **{field: torch.from_numpy(a) for field, a in arrays.items() if a is not None},
        )
    return converted
