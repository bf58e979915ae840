"""Runs a network on several sizes of an image: what is large in one is small in another.

A network finds objects of the sizes that it was trained on. Objects of all sizes are joined by
non-maximum suppression of boxes and of keypoints, maps are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.layers import batched_nms
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F

# A person found as a whole and as a head has different boxes, but the same eyes: keypoints of two
# objects that both see with this confidence, and their distance in parts of the larger box's side.
SEEN_KEYPOINT = 0.2
SAME_KEYPOINT = 0.05
FEWEST_KEYPOINTS = 3


class MultiScaleNetwork(nn.Module):
    """Runs a network on resized images and joins its answers; called as the network itself."""

    def __init__(
        self, network: nn.Module, scales: Sequence[float], nms_threshold: float | None
    ) -> None:
        """
        Args:
            network: ``(batched_inputs, tasks) -> one dict per image``, in evaluation mode.
            scales: factors of the network input's height and width.
            nms_threshold: IoU above which the weaker of two boxes of a class goes; ``None`` for
                networks without objects.

        Raises:
            ValueError: a number is out of range.
        """
        super().__init__()
        if not scales or not all(isinstance(x, int | float) and 0 < x <= 4 for x in scales):
            raise ValueError(
                f"TEST.SCALES: found {list(scales)}, expected factors above 0, up to 4"
            )
        if nms_threshold is not None and not 0 < nms_threshold <= 1:
            raise ValueError(
                f"MODEL.CENTER_HEAD.NMS_THRESH_TEST: found {nms_threshold}, expected an IoU such "
                "as 0.6, because TEST.SCALES finds an object several times"
            )
        self.network, self.scales, self.nms_threshold = network, list(scales), nms_threshold

    @torch.no_grad()
    def forward(
        self, batched_inputs: list[dict[str, Any]], tasks: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Results at the requested ``height`` and ``width``; see ``MultitaskCenterNet.forward``.

        Raises:
            ValueError: an image in a frame, whose window would have another place.
        """
        options = {} if tasks is None else {"tasks": tasks}
        per_scale = [
            self.network([resized(x, scale) for x in batched_inputs], **options)
            for scale in self.scales
        ]
        return [self._joined(results) for results in zip(*per_scale, strict=True)]

    def _joined(self, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """One image's results of all scales."""
        joined = {}
        for name in results[0]:
            values = [result[name] for result in results]
            if isinstance(values[0], Instances):
                found = Instances.cat(values)
                boxes = found.pred_boxes.tensor
                kept = batched_nms(boxes, found.scores, found.pred_classes, self.nms_threshold)
                found = found[kept]  # best first
                if found.has("pred_keypoints"):
                    twins = has_stronger_twin(found.pred_keypoints, boxes[kept], found.pred_classes)
                    found = found[~twins]
                joined[name] = found
            elif isinstance(values[0], Tensor) and values[0].is_floating_point():
                joined[name] = torch.stack(values).mean(0)
            else:
                raise ValueError(
                    f"TEST.SCALES: found {type(values[0]).__name__} as the result {name!r}, "
                    "expected objects and maps of numbers; choose other tasks with TEST.TASKS"
                )
        return joined


def has_stronger_twin(keypoints: Tensor, boxes: Tensor, classes: Tensor) -> Tensor:
    """Which objects have the keypoints of an object of their class before them.

    Args:
        keypoints: (n, K, 3): x, y and confidence, best object first.
        boxes: (n, 4) xyxy, the same unit.
        classes: (n,) int64.

    Returns:
        (n,) bool.
    """
    xy, seen = keypoints[..., :2], keypoints[..., 2] > SEEN_KEYPOINT
    both = seen[:, None] & seen  # (n, n, K)
    distance = (xy[:, None] - xy).square().sum(-1).sqrt()
    count = both.sum(-1)
    mean = (distance * both).sum(-1) / count.clamp(min=1)
    side = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1).sqrt()
    same = (count >= FEWEST_KEYPOINTS) & (mean < SAME_KEYPOINT * torch.maximum(side[:, None], side))
    return (same & (classes[:, None] == classes)).tril(-1).any(1)


def resized(batched_input: dict[str, Any], scale: float) -> dict[str, Any]:
    """The input of another scale, for results of the same size."""
    if "window" in batched_input:
        raise ValueError(
            "TEST.SCALES: found an image in a frame, expected INPUT.RESIZE_TEST 'shortest_edge'"
        )
    image: Tensor = batched_input["image"]
    height, width = image.shape[-2:]
    size = {
        "height": batched_input.get("height", height),
        "width": batched_input.get("width", width),
    }
    if scale != 1:
        new_size = [max(1, round(side * scale)) for side in (height, width)]
        image = F.interpolate(
            image[None].float(), new_size, mode="bilinear", align_corners=False, antialias=True
        )[0]
    return {**batched_input, **size, "image": image}
