"""From a relation to segments and one foreground, under many settings; and controls.

Letters: h x w patches, Q candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from torch import Tensor

from d2_multitask.modeling.mae import MaskedAutoencoder
from d2_multitask.patch_graph import (
    PatchGraph,
    Relation,
    choose_foreground,
    graph_from_relation,
    grow,
    louvain,
)
from d2_multitask.patch_graph.communities import split_disconnected
from d2_multitask.patch_graph.foreground import (
    ABSORPTION,
    BORDER_RULES,
    border_share,
    merge_smallest,
)
from studies.relations.normalised_cut import normalised_cut

LOUVAIN, GROWN, CUT = "louvain", "grown", "normalised_cut"
DIVISIONS = (LOUVAIN, GROWN, CUT)
"""Louvain's communities; the same after measuring and merging regions (R4); two parts."""
# Settings of what grows are those of the communities that it grows from.
CHOSEN_AS = {LOUVAIN: LOUVAIN, GROWN: LOUVAIN, CUT: CUT}
MEAN_MASK = "mean mask"
EIGENVECTOR_RULE = "eigenvector"
INPAINTING_RULE = "inpainting_error"
BORDER_WEIGHTS = (1.0, 2.0)
# Of more segments the smallest are merged before all unions are compared, with 2**5 - 2 passes.
MAX_SEGMENTS = 5
NEIGHBOURS = 16

LOCALITIES = (None, 3.0)
RESOLUTIONS = (0.7, 1.0, 1.4, 2.0, 3.0)
NUM_REGIONS = (2, 3)
SHARES = (None, 0.1, 0.25)
DISC_RADII = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45)  # of the sides
MEAN_MASK_HW = (64, 64)
MEAN_MASK_THRESHOLDS = (0.3, 0.4, 0.5, 0.6)


class Partition(NamedTuple):
    """How a graph is made and divided.

    Attributes:
        variant: number of the relation's variant.
        locality: of `graph_from_relation`.
        resolution: of Louvain's method.
        share: ``binarise`` of the normalised cut.
        num_regions: that growing leaves.
    """

    variant: int
    locality: float | None
    resolution: float | None = None
    share: float | None = None
    num_regions: int | None = None


def partitions(division: str, num_variants: int) -> list[Partition]:
    """All settings of `LOUVAIN` or `CUT`."""
    return [
        Partition(variant, locality, *((free, None) if division == LOUVAIN else (None, free)))
        for variant in range(num_variants)
        for locality in LOCALITIES
        for free in (RESOLUTIONS if division == LOUVAIN else SHARES)
    ]


def graph_of(relation: Relation, division: str, partition: Partition) -> PatchGraph:
    """The graph of the patches that is divided; of the partition's settings the locality counts."""
    neighbours = None if division == CUT else NEIGHBOURS
    return graph_from_relation(relation, locality=partition.locality, neighbours=neighbours)


def divide(
    graph: PatchGraph,
    division: str,
    partition: Partition,
    model: MaskedAutoencoder,
    image: Tensor,
    backend: str = "networkx",
) -> np.ndarray:
    """Segments of one image.

    Args:
        graph: of `graph_of`.
        division: of `DIVISIONS`.
        partition: the settings.
        model: grows regions.
        image: (3, H, W), normalised.
        backend: of Louvain's method.

    Returns:
        (h, w) int64; of the normalised cut 1 is what it takes for the foreground.
    """
    if division == CUT:
        return graph.patch_labels(normalised_cut(graph, binarise=partition.share))
    labels = louvain(graph, partition.resolution, backend=backend)[-1]
    labels = graph.patch_labels(split_disconnected(graph, labels))
    if division == GROWN:
        return grow(model, image, labels).labels_at(num_regions=partition.num_regions)
    return labels


def cheap_foregrounds(
    labels: np.ndarray, division: str, graph: PatchGraph, partition: Partition
) -> dict[str, np.ndarray]:
    """Rule -> (h, w) bool, for the rules that need no forward pass; "no object" is empty."""
    # With all edges every patch is like every other one, as in the graph that is cut; with edges to
    # near patches alone a walk takes longest in the middle, whatever the image.
    walk = division != CUT and partition.locality is None
    rules = (ABSORPTION, *BORDER_RULES) if walk else BORDER_RULES
    how = {"graph": graph, "threshold": -np.inf}
    found = {rule: _mask(choose_foreground(labels, rule, **how).mask, labels) for rule in rules}
    if division == CUT:
        found[EIGENVECTOR_RULE] = labels == 1
    return found


def inpainting_foregrounds(
    labels: np.ndarray, model: MaskedAutoencoder, image: Tensor
) -> dict[str, np.ndarray]:
    """Rule -> (h, w) bool, for each weight of the border; the passes are made once."""
    choice = choose_foreground(
        merge_smallest(labels, MAX_SEGMENTS),
        INPAINTING_RULE,
        model=model,
        image=image,
        border_weight=0.0,
    )
    if not len(choice.candidates):
        return {f"{INPAINTING_RULE}/{w:g}": _mask(None, labels) for w in BORDER_WEIGHTS}
    border = border_share(choice.candidates)
    return {
        f"{INPAINTING_RULE}/{weight:g}": choice.candidates[
            (choice.scores - weight * border).argmax()
        ]
        for weight in BORDER_WEIGHTS
    }


def foreground_of(
    labels: np.ndarray,
    division: str,
    rule: str,
    graph: PatchGraph,
    partition: Partition,
    model: MaskedAutoencoder,
    image: Tensor,
) -> np.ndarray:
    """(h, w) bool by one rule."""
    if rule.startswith(INPAINTING_RULE):
        return inpainting_foregrounds(labels, model, image)[rule]
    return cheap_foregrounds(labels, division, graph, partition)[rule]


@dataclass(frozen=True)
class Answer:
    """Segments and foreground of one method on one image.

    Attributes:
        labels: (h, w) int64.
        foreground: (h, w) bool.
    """

    labels: np.ndarray
    foreground: np.ndarray


def centre_disc(grid_hw: tuple[int, int], radius: float) -> np.ndarray:
    """(h, w) bool: a guess of the middle; ``radius`` as a share of the sides."""
    h, w = grid_hw
    y, x = ((np.arange(size) + 0.5) / size - 0.5 for size in (h, w))
    return (y[:, None] ** 2 + x[None] ** 2) <= radius**2


def mean_mask(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Share of the masks (H, W) that hold each point of the image, `MEAN_MASK_HW` float32."""
    size = MEAN_MASK_HW[::-1]
    return np.mean(
        [cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) for mask in masks],
        axis=0,
    )


def controls(
    grid_hw: tuple[int, int], mean: np.ndarray | None = None
) -> Iterator[tuple[str, str, Answer]]:
    """Method, setting, answer: the whole image, discs in its middle, and a `mean_mask`."""
    everything = np.ones(grid_hw, bool)
    yield "whole image", "", Answer(np.zeros(grid_hw, np.int64), everything)
    for radius in DISC_RADII:
        disc = centre_disc(grid_hw, radius)
        yield "centre disc", f"{radius:g}", Answer(disc.astype(np.int64), disc)
    if mean is not None:
        share = cv2.resize(mean, grid_hw[::-1], interpolation=cv2.INTER_AREA)
        for threshold in MEAN_MASK_THRESHOLDS:
            found = share >= threshold
            yield MEAN_MASK, f"{threshold:g}", Answer(found.astype(np.int64), found)


def _mask(mask: np.ndarray | None, labels: np.ndarray) -> np.ndarray:
    return np.zeros(labels.shape, bool) if mask is None else mask
