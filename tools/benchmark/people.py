"""Labelled people of all sizes, for timing without data on disk."""

from __future__ import annotations

import math
from typing import Any

import torch
from detectron2.structures import Boxes, Instances, Keypoints


def random_people(
    num_images: int,
    num_people: int,
    image_hw: tuple[int, int],
    num_keypoints: int = 17,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Entries of ``batched_inputs`` with people of all sizes, every keypoint labelled.

    Heights are log-uniform between 1/16 of the image's height and all of it.

    Args:
        num_images: N.
        num_people: people per image.
        image_hw: (H, W) pixels.
        num_keypoints: K.
        seed: of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = image_hw
    batch = []
    for _ in range(num_images):
        scale = torch.rand(num_people, 1, generator=generator) * math.log(16)
        wh = height / 16 * scale.exp() * torch.tensor([0.45, 1.0])
        center = torch.rand(num_people, 2, generator=generator) * torch.tensor([width, height])
        low = (center - wh / 2).clamp(min=0)
        high = torch.minimum(center + wh / 2, torch.tensor([width, height]).float())
        place = torch.rand(num_people, num_keypoints, 2, generator=generator)
        points = low[:, None] + place * (high - low)[:, None]
        instances = Instances(image_hw)
        instances.gt_boxes = Boxes(torch.cat([low, high], 1))
        instances.gt_classes = torch.zeros(num_people, dtype=torch.long)
        visibility = torch.full((num_people, num_keypoints, 1), 2.0)
        instances.gt_keypoints = Keypoints(torch.cat([points, visibility], 2))
        image = torch.randint(0, 256, (3, *image_hw), generator=generator, dtype=torch.uint8)
        batch.append({"image": image, "instances": instances})
    return batch
