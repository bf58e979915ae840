"""What many tests need: a backbone of one layer, labelled batches, where the real data may be."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.structures import Boxes, Instances, Keypoints
from torch import Tensor, nn

REPOSITORY = Path(__file__).resolve().parents[1]


class TinyBackbone(Backbone):
    """One convolution of stride 4 to ``p2`` with 8 channels; pads inputs to multiples of 8."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 4, stride=4)
        self.channels = channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"p2": self.conv(x).relu()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"p2": ShapeSpec(channels=self.channels, stride=4)}

    @property
    def size_divisibility(self) -> int:
        return 8


def labelled_image(
    height: int = 64,
    width: int = 48,
    boxes: tuple[tuple[float, float, float, float], ...] = ((4, 6, 30, 60), (20, 2, 44, 40)),
    *,
    num_keypoints: int = 17,
    joints: bool = True,
    sem_seg: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """One entry of ``batched_inputs``: random pixels, people in ``boxes``, joints in them."""
    generator = torch.Generator().manual_seed(seed)
    instances = Instances((height, width))
    box = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    instances.gt_boxes = Boxes(box)
    instances.gt_classes = torch.zeros(len(box), dtype=torch.long)
    if joints:
        place = torch.rand((len(box), num_keypoints, 2), generator=generator)
        xy = box[:, None, :2] + place * (box[:, None, 2:] - box[:, None, :2])
        visible = torch.full((len(box), num_keypoints, 1), 2.0)
        instances.gt_keypoints = Keypoints(torch.cat([xy, visible], -1))
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    entry: dict[str, Any] = {
        "image": image,
        "height": height,
        "width": width,
        "file_name": f"image_{seed}.png",
        "image_id": seed,
        "instances": instances,
    }
    if sem_seg:
        labels = torch.zeros((height, width), dtype=torch.long)
        for x0, y0, x1, y1 in box.long().tolist():
            labels[y0:y1, x0:x1] = 1
        entry["sem_seg"] = labels
    return entry


def real_data() -> Path | None:
    """The folder of real images, if this machine has it."""
    folder = Path(os.environ.get("D2_MULTITASK_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    return folder if folder.is_dir() else None


needs_real_data = pytest.mark.skipif(real_data() is None, reason="no real data on this machine")
needs_hotcoco = pytest.mark.skipif(
    importlib.util.find_spec("hotcoco") is None, reason="hotcoco is not installed"
)
