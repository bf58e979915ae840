"""Which segments are the object: the decision, or that there is none.

Letters: h x w patches, L = h * w, C segments, Q candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from d2_multitask.patch_graph.absorption import absorption_times, otsu_threshold
from d2_multitask.patch_graph.autoencoder import Autoencoder, ErrorMeter, is_flat
from d2_multitask.patch_graph.communities import canonical_labels
from d2_multitask.patch_graph.estimators import ERROR_EPS
from d2_multitask.patch_graph.graph import PatchGraph, border_patches

MAX_COMMUNITIES = 7


@dataclass(frozen=True)
class Foreground:
    """A decision.

    Attributes:
        mask: (h, w) bool; ``None`` = no object.
        score: of the best candidate, also if it was refused; -inf without candidates.
        candidates: (Q, h, w) bool; segments are in the order of their first patch.
        scores: (Q,) float64 of the candidates.
        rule: which rule.
        passes: forward passes that it took.
        forward_seconds: their wall clock time.
    """

    mask: np.ndarray | None
    score: float
    candidates: np.ndarray
    scores: np.ndarray
    rule: str
    passes: int = 0
    forward_seconds: float = 0.0


def choose_foreground(
    labels: np.ndarray,
    rule: str = "inpainting_error",
    *,
    graph: PatchGraph | None = None,
    model: Autoencoder | None = None,
    image: Tensor | None = None,
    threshold: float = 0.0,
    border_weight: float = 1.0,
    dtype: torch.dtype | None = None,
) -> Foreground:
    """Choose the foreground among segments.

    Args:
        labels: (h, w), segments.
        rule: a key of `BORDER_RULES`, which look at the segments' places alone; or
            ``absorption_time``: the patches from which a random walk over the graph takes long to
            leave the image (`absorption_times`), by Otsu's threshold; looks at no segments; or
            ``inpainting_error`` (R5): the union of segments that is worst reconstructed from the
            rest, and the rest from it (IEM, Savarese et al., CVPR 2021), less ``border_weight``
            times its share of the patches at the image's border; needs model and image.
        graph: of the patches, for ``absorption_time``.
        model: for ``inpainting_error``.
        image: (3, H, W), likewise; other rules only ask whether it is flat.
        threshold: a score has to be above it, or the answer is "no object". All rules score a
            candidate 0 that is as good as chance.
        border_weight: see above.
        dtype: as in `measure_relation`.

    Returns:
        The decision; a flat image is "no object", by any rule if it is given, and for all rules but
        ``absorption_time`` a single segment.

    Raises:
        ValueError: unknown rule, labels that are no (h, w), what the rule needs is missing, or more
            than 7 segments for ``inpainting_error``, which compares all unions: merge them first
            (`d2_multitask.patch_graph.growing.grow`, or `merge_smallest`).
    """
    if rule not in RULES:
        raise ValueError(f"Foreground: found the rule {rule!r}, expected one of {list(RULES)}")
    if labels.ndim != 2:
        raise ValueError(f"Foreground: found labels {labels.shape}, expected (h, w)")
    if rule == ABSORPTION and graph is None:
        raise ValueError(f"Foreground: the rule {rule!r} needs the graph of the patches")
    labels = canonical_labels(labels)
    flat = image is not None and is_flat(image)
    if flat or (rule != ABSORPTION and labels.max() == 0):
        return Foreground(None, -np.inf, np.zeros((0, *labels.shape), bool), np.zeros(0), rule)
    if rule == ABSORPTION:
        return _decide(*_absorption(graph), threshold, rule)
    if rule in BORDER_RULES:
        candidates, scores = BORDER_RULES[rule](labels)
        return _decide(candidates, scores, threshold, rule)
    if model is None or image is None:
        raise ValueError(f"Foreground: the rule {rule!r} needs a model and an image")
    meter = ErrorMeter(model, image, dtype=dtype)
    candidates, scores = _inpainting_error(labels, meter, border_weight)
    return _decide(candidates, scores, threshold, rule, meter.passes, meter.seconds)


def _decide(
    candidates: np.ndarray,
    scores: np.ndarray,
    threshold: float,
    rule: str,
    passes: int = 0,
    seconds: float = 0.0,
) -> Foreground:
    best = int(scores.argmax())
    mask = candidates[best] if scores[best] > threshold else None
    return Foreground(mask, float(scores[best]), candidates, scores, rule, passes, seconds)


def border_share(masks: np.ndarray) -> np.ndarray:
    """(Q, h, w) bool -> (Q,): which share of the patches at the image's border each one covers."""
    return masks[:, border_patches(masks.shape[1:])].mean(1)


def _segments(labels: np.ndarray) -> np.ndarray:
    """(h, w) -> (C, h, w) bool."""
    return labels == np.arange(labels.max() + 1)[:, None, None]


def _border_scores(masks: np.ndarray) -> np.ndarray:
    """1 - (share of the border) / (share of the area): 1 = none of it, 0 = its part of it.

    Of two candidates without border the larger one is better.
    """
    area = masks.mean((1, 2))
    scores = 1 - border_share(masks) / area.clip(min=1e-9)
    return scores + 1e-6 * area * (scores > 0)


def least_border(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The segment with the least border for its area, see `_border_scores`; C candidates."""
    masks = _segments(labels)
    return masks, _border_scores(masks)


def least_border_union(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All segments together that have less than half of the border that their area has by chance.

    One candidate.
    """
    masks = _segments(labels)
    union = masks[_border_scores(masks) > 0.5].any(0, keepdims=True)
    scores = _border_scores(union) if union.any() else np.array([-np.inf])
    return union, scores


BORDER_RULES: dict[str, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "least_border": least_border,
    "least_border_union": least_border_union,
}
"""Rules that look at no image: labels (h, w) 0..C-1 -> candidates (Q, h, w) and scores (Q,)."""

ABSORPTION = "absorption_time"
RULES = ("inpainting_error", ABSORPTION, *BORDER_RULES)
"""All names for `choose_foreground`."""


def _absorption(graph: PatchGraph) -> tuple[np.ndarray, np.ndarray]:
    """One candidate; its score is 1 less the mean time outside of it by that inside."""
    times = absorption_times(graph)
    long = times > otsu_threshold(times)
    score = 1 - times[~long].mean() / times[long].mean() if long.any() else -np.inf
    return long[None], np.array([score])


def _inpainting_error(
    labels: np.ndarray, meter: ErrorMeter, border_weight: float
) -> tuple[np.ndarray, np.ndarray]:
    """R5: (h, w) labels -> candidates (Q, h, w), scores (Q,); Q = 2 ** C - 2.

    One pass with a union visible gives the error of its complement, so each pass serves two
    candidates.
    """
    count = int(labels.max()) + 1
    if count > MAX_COMMUNITIES:
        raise ValueError(
            f"Foreground: found {count} segments, expected at most {MAX_COMMUNITIES} for the rule "
            "'inpainting_error'; merge them first (grow, merge_smallest)"
        )
    chosen = (np.arange(1, 2**count - 1)[:, None] >> np.arange(count)) & 1  # (Q, C)
    visible = chosen.astype(bool)[:, labels.flatten()]  # (Q, L)
    errors = meter.errors(torch.from_numpy(visible)).double().numpy()
    hidden = ~visible
    usual = (errors * hidden).sum(0) / hidden.sum(0)
    relative = np.where(usual > ERROR_EPS, errors / usual.clip(min=ERROR_EPS) - 1, 0)
    surprise = (relative * hidden).sum(1) / hidden.sum(1)  # of the rest, from this union
    candidates = visible.reshape(-1, *labels.shape)
    # the complement of union q is union Q - 1 - q
    return candidates, surprise + surprise[::-1] - border_weight * border_share(candidates)


def merge_smallest(labels: np.ndarray, count: int = MAX_COMMUNITIES) -> np.ndarray:
    """Merge small segments into the neighbour with the longest common edge.

    Args:
        labels: (h, w).
        count: how many may be left.

    Returns:
        (h, w) int64, canonical labels.

    Raises:
        ValueError: ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"Merging: found count={count}, expected at least 1")
    labels = canonical_labels(labels)
    while labels.max() + 1 > count:
        smallest = np.bincount(labels.flatten()).argmin()
        lengths = _common_edges(labels)[smallest]
        lengths[smallest] = -1
        labels = canonical_labels(np.where(labels == smallest, lengths.argmax(), labels))
    return labels


def _common_edges(labels: np.ndarray) -> np.ndarray:
    """(h, w) -> (C, C): how many sides of patches two segments share."""
    lengths = np.zeros((labels.max() + 1,) * 2)
    np.add.at(lengths, (labels[1:], labels[:-1]), 1)
    np.add.at(lengths, (labels[:, 1:], labels[:, :-1]), 1)
    return lengths + lengths.T
