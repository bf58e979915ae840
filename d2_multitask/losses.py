"""Losses of all heads: in float32, and zero with a graph when there is nothing to learn.

Every loss takes logits or raw regressions and returns () float32. None of them is affected by
autocast: half precision rounds 1 - 1e-4 to 1, which makes CenterNet's clamped focal loss infinite.
:class:`LabelWatch` reports the tasks whose losses stay 0.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping

import torch
import torch.distributed as dist
import torch.nn.functional as F
from detectron2.utils import comm
from torch import Tensor

from d2_multitask.targets.decode import suppress_non_peaks

logger = logging.getLogger(__name__)

GIOU_EPS = 1e-7  # torchvision's
# Least score of a peak at which a network teaches another one sizes, offsets and keypoints.
CONFIDENT_SCORE = 0.3


def sum_over_workers(count: Tensor) -> Tensor:
    """Sum of a tensor (...) over all training processes: (...) float32, without a graph."""
    count = count.detach().float()
    if comm.get_world_size() > 1:
        count = count.clone()
        dist.all_reduce(count)
    return count


def average_over_workers(count: Tensor) -> Tensor:
    """Mean of a count over all training processes; their sum counts as at least 1.

    With one normaliser for all workers the mean of their gradients is that of one large batch.
    """
    # Before the division: one positive in eight processes is one positive of the large batch.
    return sum_over_workers(count).clamp(min=1) / comm.get_world_size()


def worker_weight(count: Tensor) -> Tensor:
    """What makes a mean over this worker's labels its share of the mean over all workers' labels.

    Every worker has to call it, also one without labels, whose weight is 0. ``count`` () is the
    number of labels that the worker's mean was taken over.
    """
    return count.detach().float() / average_over_workers(count)


def heatmap_focal_loss(
    logits: Tensor,
    target: Tensor,
    valid: Tensor | None = None,
    alpha: float = 2.0,
    beta: float = 4.0,
    peaks: tuple[Tensor, ...] | None = None,
    peak_weight: Tensor | None = None,
) -> Tensor:
    """Penalty-reduced focal loss on a Gaussian heatmap (CenterNet, equation 1).

    Positives are the cells whose target is exactly 1; the sum is divided by their number in the
    batch. The logarithms come from log-sigmoid, so no probability has to be clamped.

    Args:
        logits: (N, C, h, w).
        target: (N, C, h, w) in [0, 1].
        valid: (N, 1, h, w) or (N, C, h, w) bool; False cells are ignored. ``None`` = all valid.
        alpha: focusing exponent.
        beta: exponent that reduces the penalty near a peak.
        peaks: where the target is 1, indices as of ``nonzero``; ``None`` = looked for, for which a
            GPU has to be waited for.
        peak_weight: (P,) in [0, 1], by which the losses at ``peaks`` are multiplied.
    """
    logits = logits.float()
    positive = target == 1
    # Zero at positives. Squares, because PyTorch has a fast path for them and not for pow(4).
    weight = (1 - target).square().pow(beta / 2)
    if valid is not None:
        weight, positive = weight * valid, positive & valid
    negative = weight * logits.sigmoid().pow(alpha) * F.logsigmoid(-logits)
    peaks = positive.nonzero(as_tuple=True) if peaks is None else peaks
    at_peaks = logits[peaks]
    found = (1 - at_peaks.sigmoid()).pow(alpha) * F.logsigmoid(at_peaks) * positive[peaks]
    found = found if peak_weight is None else found * peak_weight
    loss = -negative.sum() - found.sum()
    return loss / average_over_workers(positive.sum())


def gathered_l1_loss(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean absolute difference over the labelled numbers.

    Args:
        prediction: (A, ...) regressions read at A cells.
        target: same shape.
        weight: (A,) or (A, ...), in [0, 1]: 0 where a number is not labelled, below 1 where it
            counts less; ``None`` = all 1.
    """
    difference = (prediction.float() - target).abs()
    if weight is None:
        count = difference.new_full((), difference.numel())  # torch.tensor would wait for the GPU
    else:
        weight = weight[(..., *[None] * (difference.dim() - weight.dim()))]
        weight = weight.expand_as(difference).float()
        difference = torch.where(weight > 0, difference * weight, torch.zeros_like(difference))
        count = (weight > 0).sum()
    return difference.sum() / average_over_workers(count)


def gathered_giou_loss(boxes: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean of 1 - generalised IoU (arXiv 1902.09630) over pairs of boxes (A, 4) xyxy.

    ``weight`` (A,) multiplies the losses of the pairs; ``None`` = 1.
    """
    giou, _ = giou_of_pairs(boxes.float(), target.float())
    loss = 1 - giou if weight is None else (1 - giou) * weight
    return loss.sum() / average_over_workers(giou.new_full((), len(target)))


def giou_of_pairs(boxes: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Generalised IoU and IoU, (...) each, of pairs of boxes (..., 4) xyxy."""
    (low, high), (target_low, target_high) = boxes.split(2, -1), target.split(2, -1)
    overlap = torch.minimum(high, target_high) - torch.maximum(low, target_low)
    hull = torch.maximum(high, target_high) - torch.minimum(low, target_low)
    # Not torchvision's function, whose boolean indices a GPU has to be waited for.
    shared = _area(overlap.clamp(min=0))
    union = _area(high - low) + _area(target_high - target_low) - shared
    iou = shared / (union + GIOU_EPS)
    return iou - (_area(hull) - union) / (_area(hull) + GIOU_EPS), iou


def _area(wh: Tensor) -> Tensor:
    return wh[..., 0] * wh[..., 1]


def masked_cross_entropy(
    logits: Tensor, target: Tensor, ignore_value: int, weight: Tensor | None = None
) -> Tensor:
    """Cross-entropy averaged over the pixels that have a label.

    ``torch.nn.functional.cross_entropy`` gives NaN if every pixel is ignored; this gives 0.

    Args:
        logits: (N, C, H, W).
        target: (N, H, W) int64 in [0, C) or ``ignore_value``.
        ignore_value: label that is ignored.
        weight: (N, H, W) in [0, 1], by which the pixels' losses are multiplied; ``None`` = 1.
    """
    reduction = "sum" if weight is None else "none"
    total = F.cross_entropy(logits.float(), target, ignore_index=ignore_value, reduction=reduction)
    total = total if weight is None else (total * weight).sum()
    return total / average_over_workers((target != ignore_value).sum())


def distilled_heatmap_loss(logits: Tensor, taught: Tensor, where: Tensor) -> Tensor:
    """Quality focal loss (arXiv 2006.04388, equation 7) on another network's heatmap.

    The sum is divided by the number of its confident peaks, as the focal loss by that of objects.

    Args:
        logits: (N, C, h, w).
        taught: (N, C, h, w), the other network's logits.
        where: (N, 1, h, w), 0 where nothing is learned.
    """
    logits, target = logits.float(), taught.float().sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    loss = (logits.sigmoid() - target).square() * entropy * where
    return loss.sum() / average_over_workers(((confident_peaks(target) * where) > 0).sum())


def distilled_cross_entropy(logits: Tensor, taught: Tensor, where: Tensor) -> Tensor:
    """Kullback-Leibler divergence from another network's classes, averaged over cells.

    Args:
        logits: (N, C, h, w); with C = 1, of one probability.
        taught: (N, C, h, w), the other network's logits.
        where: (N, 1, h, w), 0 where nothing is learned.
    """
    logits, taught = logits.float(), taught.float()
    if logits.shape[1] == 1:  # the softmax of (-x / 2, x / 2) is the sigmoid of x
        logits, taught = (torch.cat([-x, x], 1) / 2 for x in (logits, taught))
    wanted = taught.log_softmax(1)
    divergence = F.kl_div(logits.log_softmax(1), wanted, reduction="none", log_target=True)
    return (divergence * where).sum() / average_over_workers(where.sum())


def confident_peaks(scores: Tensor) -> Tensor:
    """(N, C, h, w) in [0, 1] -> the scores of peaks that are probably objects, 0 elsewhere."""
    peaks = suppress_non_peaks(scores)
    return peaks * (peaks >= CONFIDENT_SCORE)


def balanced_binary_cross_entropy(
    logits: Tensor, target: Tensor, positive_weight: float, ignore_value: int
) -> Tensor:
    """Weighted mean of the binary cross-entropy, for positives as rare as boundary pixels.

    HED (arXiv 1504.06375, equation 2) weights positives by the share of negatives and the other way
    round; later multitask work fixes the positives' weight at 0.95. Dividing by the sum of the
    weights keeps the loss's size independent of both.

    Args:
        logits: (N, H, W).
        target: (N, H, W) int64, 1, 0 or ``ignore_value``.
        positive_weight: weight of positives, in (0, 1); negatives get one minus it. 0 = HED's, the
            share of negatives among the batch's labelled pixels.
        ignore_value: label that is ignored.
    """
    logits = logits.float()
    positive, labelled = target == 1, target != ignore_value
    weight: Tensor | float = positive_weight
    if not positive_weight:
        share = sum_over_workers(positive.sum()) / sum_over_workers(labelled.sum()).clamp(min=1)
        weight = (1 - share).clamp(0.5, 0.995)  # without positives the negatives still count
    weights = torch.where(positive, weight, 1 - weight) * labelled
    loss = F.binary_cross_entropy_with_logits(
        logits, positive.float(), weight=weights, reduction="sum"
    )
    return loss / average_over_workers(weights.sum())


def masked_binary_cross_entropy(
    logits: Tensor, target: Tensor, ignore_value: int, weight: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy averaged over the labels that are known.

    Args:
        logits: any shape.
        target: same shape, int64, 1, 0 or ``ignore_value``.
        ignore_value: label that is ignored.
        weight: same shape, in [0, 1], by which the losses are multiplied; ``None`` = 1.
    """
    known = (target != ignore_value).float()
    weights = known if weight is None else known * weight
    loss = F.binary_cross_entropy_with_logits(
        logits.float(), (target == 1).float(), weight=weights, reduction="sum"
    )
    return loss / average_over_workers(known.sum())


def dice_loss(
    logits: Tensor, target: Tensor, ignore_value: int, weight: Tensor | None = None
) -> Tensor:
    """One minus the Dice coefficient of each image, averaged over the images that have a label.

    V-Net's loss (arXiv 1606.04797) with linear terms and one added above and below, as in
    MaskFormer: the loss of an image of background alone is 1 - 1 / (1 + sum of the probabilities).

    Args:
        logits: (N, H, W).
        target: (N, H, W) int64, 1, 0 or ``ignore_value``.
        ignore_value: label that is ignored.
        weight: (N, H, W) in [0, 1], how much each pixel counts in all sums; ``None`` = 1.
    """
    labelled = (target != ignore_value).flatten(1)
    probability = logits.float().sigmoid().flatten(1) * labelled
    positive = (target == 1).flatten(1).float()
    counted = positive
    if weight is not None:
        probability, counted = probability * weight.flatten(1), positive * weight.flatten(1)
    overlap = (probability * positive).sum(1)
    dice = (2 * overlap + 1) / (probability.sum(1) + counted.sum(1) + 1)  # (N,)
    has_label = labelled.any(1)
    return ((1 - dice) * has_label).sum() / average_over_workers(has_label.sum())


def direction_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """One minus the cosine of the angle between vectors, averaged over the labelled ones.

    Args:
        prediction: (N, 2, H, W) vectors of any length.
        target: (N, 2, H, W) unit vectors; zero vectors where there is no label.
    """
    labelled = (target != 0).any(1)
    # Only labelled vectors: they are few, and a norm's gradient at zero is not finite.
    image, y, x = labelled.nonzero(as_tuple=True)
    predicted, wanted = prediction.float()[image, :, y, x], target[image, :, y, x]  # (A, 2)
    cosine = F.cosine_similarity(predicted, wanted, dim=1)
    return (1 - cosine).sum() / average_over_workers(labelled.sum())


class LabelWatch:
    """Looks for tasks whose losses are exactly 0 for a whole period: no label reached them.

    And for teachers, ``loss_<task>_teacher``, of which no image had need. Batches may differ in
    which losses they have, for example if datasets alternate.
    """

    def __init__(self, period: int = 200) -> None:
        """``period``: batches between two looks; only these wait for the device."""
        self.period = period
        self._reset()

    def _reset(self) -> None:
        self._batches = 0
        # Names of the losses of a batch -> (number of them,) bool, one tensor for all: one loss
        # after another would be many small operations in every step.
        self._learned: dict[tuple[str, ...], Tensor] = {}

    def update(self, losses: Mapping[str, Tensor]) -> None:
        """Look at the losses of one batch, ``{"loss_<task>_<term>": ()}``."""
        self._batches += 1
        if losses:
            names = tuple(losses)
            found = torch.stack([loss.detach() for loss in losses.values()]) != 0
            self._learned[names] = self._learned[names] | found if names in self._learned else found
        if self._batches >= self.period:
            self._warn()
            self._reset()

    def _warn(self) -> None:
        tasks: dict[str, bool] = {}
        teachers: list[bool] = []
        flags = torch.cat(list(self._learned.values())).tolist() if self._learned else []
        for name, learned in zip(itertools.chain.from_iterable(self._learned), flags, strict=True):
            task = name.removeprefix("loss_").split("_")[0]
            tasks[task] = tasks.get(task, False) or learned
            if name.endswith("_teacher"):
                teachers.append(learned)
        if teachers and not any(teachers):
            logger.warning(
                "MODEL.TEACHERS have taught nothing in %d batches: every image has labels of what "
                "they teach. If that holds for all images, leave them out: they cost time.",
                self.period,
            )
        for task in (task for task, learned in tasks.items() if not learned):
            logger.warning(
                "Task %r has learned nothing in %d batches: its losses were 0, because no label of "
                "it was in the batches. Look at the dataset and at what the data loader's mapper "
                "gives (MultitaskDatasetMapper gives every label that an image has), or leave the "
                "task out of MODEL.TASKS.",
                task,
                self.period,
            )
