"""The classification task: which classes an image shows, several at a time or one.

The class scores of an image are the means of a map's (global average pooling). The map is kept, so
that padding can be left out of the mean, and pictures can show where a class was seen ("class
activation maps", arXiv 1512.04150).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import ImageList
from torch import Tensor

from d2_multitask.data.labels.sem_seg import ImageLabels
from d2_multitask.heads.base import Branch, Decoded, Predictions, Size, Targets, TaskHead
from d2_multitask.heads.build import TASK_HEAD_REGISTRY
from d2_multitask.heads.dense import add_branch_config, node_arguments
from d2_multitask.losses import masked_binary_cross_entropy, masked_cross_entropy
from d2_multitask.targets.encode import BatchLabels, image_cells

# Each class is in few of the images; starting at this logit avoids a large loss in the first steps.
_PRIOR_LOGIT = -2.0
# Of an image without a label, in the softmax; no id of a class.
NO_CLASS = -1


@TASK_HEAD_REGISTRY.register("classification")
class ClassificationHead(TaskHead):
    """Classes of an image: binary cross-entropy over the known labels; of one class a softmax."""

    labels: ClassVar = (ImageLabels,)

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        conv_dim: int,
        norm: str = "",
        map_stride: int = 32,
        ignore_value: int = 255,
        loss_weight: float = 1.0,
        single_label: bool = False,
    ) -> None:
        """
        Args:
            input_shape: channels and stride of the feature maps to read; they are averaged down to
                one stride and concatenated.
            num_classes: classes.
            conv_dim: channels of the 3x3 convolution.
            norm: normalisation after it; without one (``conv_dim`` 0), of the features.
            map_stride: that stride, pixels.
            ignore_value: label that is ignored.
            loss_weight: weight of the loss.
            single_label: each image shows one class: a softmax, learned by cross-entropy.

        Raises:
            ValueError: ``map_stride`` is not a multiple of a feature map's stride.
        """
        super().__init__()
        self.stride, self.num_classes = map_stride, num_classes
        # Cells of each feature map along a side of the class map's cells.
        self.windows = {name: map_stride // shape.stride for name, shape in input_shape.items()}
        for name, shape in input_shape.items():
            if map_stride < shape.stride or map_stride % shape.stride:
                raise ValueError(
                    f"MODEL.CLASSIFICATION_HEAD.MAP_STRIDE: found {map_stride}, expected a "
                    f"multiple of {shape.stride}, the stride of {name!r}"
                )
        self.finest_stride = min(shape.stride for shape in input_shape.values())
        self.ignore_value, self.loss_weight = ignore_value, loss_weight
        self.single_label = single_label
        self.class_map = Branch(
            sum(shape.channels for shape in input_shape.values()),
            conv_dim,
            num_classes,
            norm=norm,
            bias=0.0 if single_label else _PRIOR_LOGIT,
            weight_std=0.01,
        )

    @staticmethod
    def add_config(cfg: CfgNode) -> None:
        """Declare ``MODEL.CLASSIFICATION_HEAD``; see :meth:`TaskHead.add_config`."""
        cfg.MODEL.CLASSIFICATION_HEAD = node = CfgNode()
        # Of IN_FEATURES, all of a pyramid's see small things and large ones.
        add_branch_config(node, conv_dim=256)
        # PASCAL in Detail's 59 classes of PASCAL-Context.
        node.NUM_CLASSES = 59
        # One answer per image needs no fine map: at stride 32 the head costs next to nothing.
        node.MAP_STRIDE = 32
        node.LOSS_WEIGHT = 1.0
        # True: each image shows one class. A softmax, and top-1 and top-5 in the evaluation.
        node.SINGLE_LABEL = False

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """See :func:`node_arguments`."""
        return node_arguments(cfg, "CLASSIFICATION_HEAD", input_shape)

    def layers(self, features: dict[str, Tensor]) -> Predictions:
        """-> class_map logits (N, num_classes, h, w)."""
        pooled = [
            F.avg_pool2d(features[name], window, ceil_mode=True) if window > 1 else features[name]
            for name, window in self.windows.items()
        ]
        return {"class_map": self.class_map(torch.cat(pooled, 1))}

    def targets(self, labels: BatchLabels) -> Targets:
        """image_labels (N, num_classes) int64, and each cell's share (N, 1, h, w) of the mean.

        Of one class for each image: image_labels (N,) int64, `NO_CLASS` = not known.

        Raises:
            ValueError: labels of another number of classes, or several where there should be one.
        """
        shape = (len(labels.batched_inputs), self.num_classes)
        known = torch.full(shape, self.ignore_value, dtype=torch.long)
        for index, entry in enumerate(labels.batched_inputs):
            if "image_labels" not in entry:
                continue
            given = entry["image_labels"]
            if given.shape != (self.num_classes,):
                raise ValueError(
                    f"image_labels of image {index} of the batch: found shape "
                    f"{tuple(given.shape)}, expected ({self.num_classes},), "
                    "MODEL.CLASSIFICATION_HEAD.NUM_CLASSES"
                )
            known[index] = given
        if self.single_label:
            known = only_class(known)
        return {"image_labels": known, "share": self._cell_share(labels.images)}

    def _cell_share(self, images: ImageList) -> Tensor:
        """(N, 1, h, w), sum 1: how much of the unpadded image a cell covers."""
        window = self.stride // self.finest_stride
        cells = image_cells(images, self.finest_stride).float()
        area = F.avg_pool2d(cells, window, ceil_mode=True, divisor_override=1)
        return area / area.sum((2, 3), keepdim=True)

    def losses(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """``loss_classification``."""
        logits = mean_logits(predictions["class_map"], targets["share"])
        known = targets["image_labels"]
        if self.single_label:
            loss = masked_cross_entropy(logits, known, NO_CLASS)
        else:
            loss = masked_binary_cross_entropy(logits, known, self.ignore_value)
        return {"loss_classification": loss * self.loss_weight}

    def inference(self, predictions: Predictions, images: ImageList, decoded: Decoded) -> None:
        """Add ``image_labels`` (N, num_classes), probabilities."""
        logits = mean_logits(predictions["class_map"], self._cell_share(images))
        decoded.maps["image_labels"] = logits.softmax(1) if self.single_label else logits.sigmoid()

    def postprocess(
        self, decoded: Decoded, index: int, image_size: Size, output_size: Size
    ) -> dict[str, Any]:
        """-> ``{"image_labels": (num_classes,)}`` probabilities."""
        return {"image_labels": decoded.maps["image_labels"][index]}

    def merge_flipped(self, predictions: Predictions, flipped: Predictions) -> Predictions:
        """Average the logits."""
        return {"class_map": (predictions["class_map"] + flipped["class_map"].flip(-1)) / 2}

    def prediction_maps(self, predictions: Predictions) -> dict[str, Tensor]:
        """``class_map`` (N, h, w): probability of the class that is most probable there."""
        logits = predictions["class_map"].float()
        probabilities = logits.softmax(1) if self.single_label else logits.sigmoid()
        return {"class_map": probabilities.amax(1)}


def only_class(image_labels: Tensor) -> Tensor:
    """Labels (N, num_classes) -> (N,) int64, the one class, `NO_CLASS` where there is none.

    Raises:
        ValueError: an image has several classes.
    """
    present = image_labels == 1
    counts = present.sum(1)
    if counts.numel() and counts.max() > 1:
        index = int(counts.argmax())
        raise ValueError(
            f"image_labels of image {index} of the batch: found the classes "
            f"{present[index].nonzero()[:, 0].tolist()}, expected one; set "
            "MODEL.CLASSIFICATION_HEAD.SINGLE_LABEL to False"
        )
    return torch.where(counts == 1, present.long().argmax(1), NO_CLASS)


def mean_logits(class_map: Tensor, share: Tensor) -> Tensor:
    """Logits (N, num_classes, h, w) and shares (N, 1, h, w) that sum to 1 -> (N, num_classes)."""
    return (class_map.float() * share).sum((2, 3))
