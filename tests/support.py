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
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
from torch import Tensor, nn

REPOSITORY = Path(__file__).resolve().parents[1]
# Everything in an entry of ``batched_inputs`` that tells what is to be learned.
LABELS = (
    "instances",
    "sem_seg",
    "part_seg",
    "boundary",
    "occlusion",
    "image_labels",
    "foreground",
)


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
    """One entry of ``batched_inputs``: random pixels, people in ``boxes``, keypoints in them.

    All other labels are those of people who fill their boxes, painted in order.
    """
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
    entry.update(dense_labels(height, width, box.long().tolist()))
    instances.gt_masks = BitMasks(entry.pop("masks"))
    if not sem_seg:
        del entry["sem_seg"]
    return entry


def dense_labels(height: int, width: int, boxes: list[list[int]]) -> dict[str, Tensor]:
    """Labels for every pixel and for the image: whole boxes are people, their upper thirds heads,
    the rest torsos, their left and right sides occlusion boundaries.
    """
    masks = torch.zeros((len(boxes), height, width), dtype=torch.bool)
    sem_seg = torch.zeros((height, width), dtype=torch.long)
    part_seg, boundary = sem_seg.clone(), sem_seg.clone()
    occlusion = torch.zeros((2, height, width))
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        x1, y1 = min(x1, width), min(y1, height)
        if x0 >= x1 or y0 >= y1:
            continue
        mask[y0:y1, x0:x1] = True
        sem_seg[y0:y1, x0:x1] = 1
        part_seg[y0:y1, x0:x1] = 2
        part_seg[y0 : y0 + (y1 - y0) // 3, x0:x1] = 1
        boundary[[y0, y1 - 1], x0:x1] = 1
        boundary[y0:y1, [x0, x1 - 1]] = 1
        occlusion[0, y0:y1, x0], occlusion[0, y0:y1, x1 - 1] = 1.0, -1.0
    image_labels = torch.zeros(59, dtype=torch.long)
    image_labels[14] = int(bool(boxes))
    return {
        "masks": masks,
        "sem_seg": sem_seg,
        "part_seg": part_seg,
        "boundary": boundary,
        "occlusion": occlusion,
        "image_labels": image_labels,
        "foreground": sem_seg.clone(),
    }


def without(entry: dict[str, Any], *names: str) -> dict[str, Any]:
    """An entry of ``batched_inputs`` with fewer labels."""
    return {key: value for key, value in entry.items() if key not in names}


def real_data() -> Path | None:
    """The folder of real images, if this machine has it."""
    folder = Path(os.environ.get("D2_MULTITASK_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    return folder if folder.is_dir() else None


needs_real_data = pytest.mark.skipif(real_data() is None, reason="no real data on this machine")
needs_pysodmetrics = pytest.mark.skipif(
    importlib.util.find_spec("py_sod_metrics") is None, reason="pysodmetrics is not installed"
)
needs_hotcoco = pytest.mark.skipif(
    importlib.util.find_spec("hotcoco") is None, reason="hotcoco is not installed"
)
