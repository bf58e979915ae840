"""Trained networks as teachers of another one ("knowledge distillation", arXiv 1503.02531).

They see the student's augmented images. What they say of a task is learned where an image has no
label of it; how, each head says itself (`TaskHead.distill`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.structures import ImageList
from torch import Tensor

from d2_multitask.heads.base import Lesson
from d2_multitask.heads.build import TaskHeads
from d2_multitask.modeling.mcn import MultitaskCenterNet
from d2_multitask.targets.encode import BatchLabels, image_cells


@dataclass(frozen=True)
class Teacher:
    """One trained network.

    Attributes:
        network: in evaluation mode, frozen.
        tasks: what it teaches.
        weight: of its losses.
        channels: order in which it wants the student's three channels.
    """

    network: MultitaskCenterNet
    tasks: tuple[str, ...]
    weight: float = 1.0
    channels: tuple[int, ...] = (0, 1, 2)

    @torch.no_grad()
    def lessons(self, labels: BatchLabels, missing: Mapping[str, Tensor]) -> dict[str, Lesson]:
        """Run the network on the images of which it has something to say.

        Args:
            labels: of the student's batch.
            missing: task -> (N,) bool, the images without a label of it.

        Returns:
            Task -> lesson. Every process of a training has all of them: if no image lacks labels,
            they are about one image, of which nothing is learned.
        """
        unlabelled = torch.stack([missing[task] for task in self.tasks]).any(0)
        rows = unlabelled.nonzero()[:, 0] if unlabelled.any() else torch.zeros(1, dtype=torch.int64)
        device = labels.device
        # Not the student's tensor: its colours are normalised with other numbers.
        chosen = [{"image": self._image(labels.batched_inputs[row])} for row in rows.tolist()]
        images = _padded(self.network.preprocess_image(chosen), labels.images)
        features = self.network.backbone(images.tensor)
        predictions = {name: head.layers(features) for name, head in self.network.heads.items()}
        objects = None
        for name, head in self.network.heads.items():
            scores = head.object_scores(predictions[name])
            objects = objects if scores is None else scores
        on_device = rows.to(device, non_blocking=True)
        lessons = {}
        for task in self.tasks:
            head, wanted = self.network.heads[task], missing[task][rows]
            wanted = wanted.to(device, non_blocking=True)[:, None, None, None]
            where = (image_cells(images, head.stride) & wanted).float()
            lessons[task] = Lesson(head, predictions[task], objects, where, on_device, self.weight)
        return lessons

    def _image(self, batched_input: Mapping[str, Any]) -> Tensor:
        image = batched_input["image"]
        return image if self.channels == (0, 1, 2) else image[list(self.channels)]


def _padded(images: ImageList, like: ImageList) -> ImageList:
    """Images, some of a batch, with the padding of the whole batch, as the student has them."""
    missing = [b - a for a, b in zip(images.tensor.shape, like.tensor.shape, strict=True)][2:]
    tensor = F.pad(images.tensor, (0, max(missing[1], 0), 0, max(missing[0], 0)))
    return ImageList(tensor, images.image_sizes)


class Teachers:
    """All teachers of a network; called with its heads and the labels of a batch.

    No module: neither the network's weights, nor their average, nor a copy of it has them.
    """

    def __init__(self, teachers: Sequence[Teacher]) -> None:
        self._teachers = tuple(teachers)

    def __deepcopy__(self, memo: dict[int, Any]) -> Teachers:
        return self

    def __call__(self, heads: TaskHeads, labels: BatchLabels) -> dict[str, list[Lesson]]:
        """Task -> the lesson of each of its teachers."""
        tasks = dict.fromkeys(task for teacher in self._teachers for task in teacher.tasks)
        missing = {task: heads[task].unlabelled(labels) for task in tasks}
        lessons: dict[str, list[Lesson]] = {task: [] for task in tasks}
        for teacher in self._teachers:
            for task, lesson in teacher.lessons(labels, missing).items():
                lessons[task].append(lesson)
        return lessons
