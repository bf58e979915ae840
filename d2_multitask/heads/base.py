"""What a task head is: a small network, its labels, losses and decoding, in one file each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.structures import ImageList
from torch import Tensor, nn

from d2_multitask.data.labels.base import Label
from d2_multitask.targets.decode import Peaks
from d2_multitask.targets.encode import BatchLabels

Predictions = dict[str, Tensor]
Targets = dict[str, Any]
Size = tuple[int, int]


@dataclass
class Decoded:
    """What the heads decode from one batch, as batched tensors until the very end.

    Letters: N images, P peaks per image.

    Attributes:
        peaks: the centres, found once by the centre head; ``None`` in networks without one.
        center_xy: (N, P, 2) sub-cell centres, stride units.
        found: (N, P) bool, the peaks above the score threshold; the others fill up the batch.
        objects: fields of the objects by their name in ``Instances``, each (N, P, ...), pixels of
            the network input. A head that answers at centres adds its fields here.
        maps: answers for whole images, each (N, ...). A dense head adds its maps here.
    """

    peaks: Peaks | None = None
    center_xy: Tensor | None = None
    found: Tensor | None = None
    objects: dict[str, Tensor] = field(default_factory=dict)
    maps: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Lesson:
    """What a trained network, the teacher, says to a head about some images of a batch.

    Attributes:
        head: the teacher's head of the same task.
        predictions: its raw predictions for the M images.
        objects: (M, 1, h, w) scores of the teacher's objects at the cells that learn from them, 0
            elsewhere; ``None`` if it has no objects.
        where: (M, 1, h, w), 1 for the cells that are to be learned.
        rows: (M,) int64, the images' places in the batch.
        weight: of the loss.
    """

    head: TaskHead
    predictions: Predictions
    objects: Tensor | None
    where: Tensor
    rows: Tensor
    weight: float = 1.0


class TaskHead(nn.Module):
    """Base class and contract of all task heads.

    A head reads backbone features, never ``cfg`` outside ``add_config`` and ``from_config``, and
    never another head: what it shares with others goes through ``BatchLabels`` in training and
    through ``Decoded`` at inference.

    Attributes:
        task: the name under which the class is registered; set by the registry.
        labels: what the head learns from; the mapper loads it for the tasks that are trained.
        requires: heads that must run before this one; they are always built with it.
        uses: heads that run before this one if they are there.
        reads_decoded: whether the targets get an entry ``decoded`` before :meth:`losses`: what the
            heads of ``requires`` find in the batch, without a graph.
        teacher_keys: config keys that must have one value in a teacher and in its student.
        stride: input pixels per cell of this head's predictions.
    """

    task: ClassVar[str]
    labels: ClassVar[tuple[type[Label], ...]] = ()
    requires: ClassVar[tuple[str, ...]] = ()
    uses: ClassVar[tuple[str, ...]] = ()
    teacher_keys: ClassVar[tuple[str, ...]] = ()
    reads_decoded: bool = False
    stride: int

    @staticmethod
    def add_config(cfg: CfgNode) -> None:
        """Declare the head's own keys in ``cfg``, each with a default and a reason."""

    def layers(self, features: dict[str, Tensor]) -> Predictions:
        """Features -> raw predictions ``(N, C, H / stride, W / stride)``; logits for scores."""
        raise NotImplementedError(f"{type(self).__name__}.layers")

    def targets(self, labels: BatchLabels) -> Targets:
        """Labels on the prediction grid; ``TaskHeads`` moves them to the network's device.

        A missing label is no loss, never background: an image without this task's labels must add
        nothing to the losses.
        """
        raise NotImplementedError(f"{type(self).__name__}.targets")

    def losses(self, predictions: Predictions, targets: Targets) -> dict[str, Tensor]:
        """``{"loss_<task>_<term>": ()}``, weighted; zero with a graph if nothing is labelled."""
        raise NotImplementedError(f"{type(self).__name__}.losses")

    def unlabelled(self, labels: BatchLabels) -> Tensor:
        """(N,) bool, on the processor: the images that have no label of this task."""
        raise NotImplementedError(f"{type(self).__name__}.unlabelled")

    def distill(self, predictions: Predictions, lesson: Lesson) -> Tensor:
        """The loss () that brings predictions for the lesson's images to the teacher's.

        Weighted as :meth:`losses`; 0 with a graph where ``lesson.where`` is 0. A head without this
        method has no teacher.
        """
        raise NotImplementedError(f"{type(self).__name__}.distill")

    def object_scores(self, predictions: Predictions) -> Tensor | None:
        """``Lesson.objects``, of the head that finds the objects; of others ``None``."""
        return None

    def inference(self, predictions: Predictions, images: ImageList, decoded: Decoded) -> None:
        """Decode a batch into ``decoded``, in pixels of the network input."""
        raise NotImplementedError(f"{type(self).__name__}.inference")

    def postprocess(
        self, decoded: Decoded, index: int, image_size: Size, output_size: Size
    ) -> dict[str, Any]:
        """This head's entries of one image's result dict, at the requested output size.

        Args:
            decoded: what the heads decoded, for the whole batch.
            index: the image's place in the batch.
            image_size: (h, w) of the network input before padding.
            output_size: (h, w) requested.

        Returns:
            The entries; none for heads whose answers are fields of the objects.
        """
        return {}

    def merge_flipped(self, predictions: Predictions, flipped: Predictions) -> Predictions:
        """Average predictions with those of the horizontally flipped batch (flip test).

        Args:
            predictions: of the batch.
            flipped: of the flipped batch, not flipped back.

        Returns:
            Predictions for the unflipped batch. By default the flipped ones are not used.
        """
        return predictions

    def target_maps(self, targets: Targets) -> dict[str, Tensor]:
        """Name -> (N, h, w) float in [0, 1], for pictures of what is to be learned."""
        return {}

    def prediction_maps(self, predictions: Predictions) -> dict[str, Tensor]:
        """Name -> (N, h, w) float in [0, 1], for pictures of what is predicted."""
        return {}


def feature_shape(input_shape: dict[str, ShapeSpec], name: str, key: str) -> ShapeSpec:
    """The backbone output that a head reads, with its channels and stride."""
    if name not in input_shape:
        raise ValueError(
            f"{key}: found {name!r}, expected one of the backbone's outputs {sorted(input_shape)}"
        )
    shape = input_shape[name]
    if not shape.channels or not shape.stride:
        raise ValueError(
            f"{key}: the backbone's output {name!r} has no channels or stride: {shape}"
        )
    return shape


def check_class_ids(ids: Sequence[int], num_classes: int, key: str) -> None:
    """Refuse ids of classes that do not exist; ``key`` is the config key of the ids."""
    wrong = [class_id for class_id in ids if not 0 <= class_id < num_classes]
    if wrong:
        raise ValueError(
            f"{key}: found {wrong}, expected ids of the network's {num_classes} object classes, 0 "
            f"to {num_classes - 1}"
        )


class Branch(nn.Sequential):
    """3x3 convolution, ReLU, 1x1 convolution: one output of CenterNet (its section 5.1).

    With ``conv_dim`` 0 the 1x1 convolution alone is left, on normalised features if there is a
    norm: MAE's linear classification (arXiv 2111.06377, appendix A.1). If ``separable``, the first
    is a depthwise 3x3 convolution and a 1x1 convolution (arXiv 1704.04861), as in MoveNet.
    """

    def __init__(
        self,
        in_channels: int,
        conv_dim: int,
        out_channels: int,
        *,
        norm: str = "",
        bias: float = 0.0,
        weight_std: float | None = 0.001,
        separable: bool = False,
    ) -> None:
        """
        Args:
            in_channels: channels of the feature map.
            conv_dim: channels between the two convolutions.
            out_channels: channels of the prediction.
            norm: normalisation after the 3x3 convolution, or of the features; a name of
                ``detectron2.layers.get_norm``.
            bias: initial bias of the last layer.
            weight_std: standard deviation of the last layer's initial weights; ``None`` keeps
                PyTorch's initialisation, as CenterNet does for its heatmaps.
            separable: see the class.
        """
        layers: list[nn.Module] = []
        if conv_dim:
            if separable:
                depthwise = Conv2d(
                    in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False
                )
                layers.append(depthwise)
            size = 1 if separable else 3
            hidden = Conv2d(
                in_channels,
                conv_dim,
                size,
                padding=size // 2,
                bias=not norm,
                norm=get_norm(norm, conv_dim),
                activation=nn.ReLU(inplace=True),
            )
            nn.init.kaiming_normal_(hidden.weight, nonlinearity="relu")
            if hidden.bias is not None:
                nn.init.zeros_(hidden.bias)
            layers.append(hidden)
        elif norm:
            layers.append(get_norm(norm, in_channels))
        predictor = Conv2d(conv_dim or in_channels, out_channels, 1)
        if weight_std is not None:
            nn.init.normal_(predictor.weight, std=weight_std)
        nn.init.constant_(predictor.bias, bias)
        layers.append(predictor)
        super().__init__(*layers)


class CellBranch(Branch):
    """A branch whose prediction ``inference`` reads through ``values_at`` and in no other way.

    A network for inference computes it at these cells only (``modeling.inference.at_peaks``).
    """
