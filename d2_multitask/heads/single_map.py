"""What heads share that predict one stack of logits for one map of labels."""

from __future__ import annotations

from typing import Any, ClassVar

from detectron2.structures import ImageList
from torch import Tensor

from d2_multitask.heads.base import Predictions, Targets
from d2_multitask.heads.dense import DenseHead
from d2_multitask.targets.dense import pad_label_maps


class SingleMapHead(DenseHead):
    """Base of heads of classes and of heads of one probability; C is their number of logits.

    Attributes:
        label: key of the labels in ``batched_inputs``, of the answer in the results, and of the
            layers.
        ignore_value: label that costs nothing; subclasses set it.
    """

    label: ClassVar[str]
    ignore_value: int

    def layers(self, features: dict[str, Tensor]) -> Predictions:
        """-> logits (N, C, h, w)."""
        return {self.label: self.run(self.get_submodule(self.label), features)}

    def targets(self, batched_inputs: list[dict[str, Any]], images: ImageList) -> Targets:
        """Labels (N, H, W) int64 of the padded input; padding and unlabelled images are ignored."""
        labels = pad_label_maps(
            [x.get(self.label) for x in batched_inputs],
            tuple(images.tensor.shape[-2:]),
            self.ignore_value,
            images.tensor.device,
        )
        return {self.label: labels}

    def merge_flipped(self, predictions: Predictions, flipped: Predictions) -> Predictions:
        """Average the logits."""
        return {self.label: (predictions[self.label] + flipped[self.label].flip(-1)) / 2}
