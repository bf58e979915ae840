"""Instance masks and panoptic segments of networks that predict objects and a semantic map.

No head learns them: pixels of the semantic map are shared out among the objects of their class
(:mod:`d2_multitask.runtime.masks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor, nn

from d2_multitask.runtime.masks import instance_masks, panoptic_segments, semantic_ids


@dataclass(frozen=True)
class MaskOptions:
    """What is made, and of what.

    Attributes:
        thing_classes: names of the object classes.
        stuff_classes: names of the semantic classes, those of the objects among them.
        skeleton: pairs of keypoints that are joined by a limb.
        confidence_threshold: least score of an object that takes pixels from others and becomes a
            panoptic segment.
        least_stuff_area: pixels of the smallest panoptic segment that is no object.
        masks: give ``pred_masks``.
        panoptic: give ``panoptic_seg``.
    """

    thing_classes: Sequence[str]
    stuff_classes: Sequence[str]
    skeleton: Sequence[tuple[int, int]] = ()
    confidence_threshold: float = 0.5
    least_stuff_area: int = 4096
    masks: bool = True
    panoptic: bool = False


class InstanceMaskNetwork(nn.Module):
    """Runs a network and adds masks to its results; called as the network itself.

    Attributes:
        things: the semantic class of each object class.
        stuff: the semantic classes of no object, without background.
    """

    def __init__(self, network: nn.Module, options: MaskOptions) -> None:
        """
        Args:
            network: ``(batched_inputs, tasks) -> one dict per image``, in evaluation mode.
            options: see :class:`MaskOptions`.

        Raises:
            ValueError: an object class is no semantic class.
        """
        super().__init__()
        self.network, self.options = network, options
        self.things, self.stuff = semantic_ids(options.thing_classes, options.stuff_classes)

    @torch.no_grad()
    def forward(
        self, batched_inputs: list[dict[str, Any]], tasks: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Results with ``pred_masks`` (n, H, W) bool in ``instances``, and ``panoptic_seg``.

        ``panoptic_seg`` is Detectron2's pair of (H, W) int32 segment ids and the segments' dicts;
        background, 0, is no segment. Results of tasks without objects or semantic map stay as they
        are.
        """
        results = self.network(batched_inputs, **({} if tasks is None else {"tasks": tasks}))
        for result in results:
            if "sem_seg" in result and "instances" in result:
                self._add(result, result["instances"], result["sem_seg"])
        return results

    def _add(self, result: dict[str, Any], instances: Instances, sem_seg: Tensor) -> None:
        options = self.options
        # `max` takes a tenth of `argmax`'s time. The shares are made on the processor: few pixels
        # are contested.
        classes = sem_seg.max(0).indices
        classes = classes.to(torch.uint8 if len(sem_seg) <= 256 else torch.int64).cpu().numpy()
        numbers, scores = _array(instances.pred_classes), _array(instances.scores)
        keypoints = instances.get("pred_keypoints") if instances.has("pred_keypoints") else None
        masks = instance_masks(
            classes,
            _array(instances.pred_boxes.tensor),
            scores,
            np.asarray(self.things)[numbers],
            None if keypoints is None else _array(keypoints),
            options.skeleton,
            options.confidence_threshold,
        )
        if options.masks:
            instances.pred_masks = torch.from_numpy(masks).to(sem_seg.device)
        if options.panoptic:
            ids, segments = panoptic_segments(
                classes,
                masks,
                scores,
                numbers,
                self.stuff,
                options.confidence_threshold,
                options.least_stuff_area,
            )
            result["panoptic_seg"] = torch.from_numpy(ids).to(sem_seg.device), segments


def _array(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()
