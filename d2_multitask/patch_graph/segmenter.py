"""From an image to segments: relation, graph, communities, larger graphs, foreground, pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2_multitask.patch_graph.autoencoder import Autoencoder
from d2_multitask.patch_graph.foreground import Foreground
from d2_multitask.patch_graph.graph import PatchGraph
from d2_multitask.patch_graph.growing import Dendrogram
from d2_multitask.patch_graph.relation import Relation


@dataclass(frozen=True)
class SegmenterSettings:
    """Everything that can be chosen, with its default.

    Attributes:
        kinds: relations; several are mixed by `rank_average`.
        passes: budget of each relation (and of each tile); ``None`` = the kind's default.
        seconds: likewise.
        relation_settings: kind -> settings of the kind.
        locality: see `graph_from_relation`.
        neighbours: likewise.
        power: likewise.
        resolution: of Louvain's method.
        num_consensus: runs for `consensus`; 0 = a single run.
        backend: of Louvain's method.
        grow: measure regions again and merge them (R4).
        num_segments: stop merging when so many are left; ``None`` = by ``merge_threshold``.
        merge_threshold: stop merging when the best score is below it.
        foreground: a rule of `choose_foreground`, or ``None`` = no decision.
        foreground_threshold: see `choose_foreground`.
        border_weight: likewise.
        tile_hw: (h, w) patches of a tile; larger images are tiled. ``None`` = never.
        refine: pixel labels that follow edges; else patches are squares.
        seed: of everything random.
        batch_size: visible sets a forward pass; ``None`` = as many as are fast.
        dtype: ``torch.bfloat16`` = mixed precision.
    """

    kinds: tuple[str, ...] = ("ridge",)
    passes: int | None = None
    seconds: float | None = None
    relation_settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    locality: float | None = None
    neighbours: int | None = 16
    power: float = 1.0
    resolution: float = 1.0
    num_consensus: int = 0
    backend: str = "networkx"
    grow: bool = True
    num_segments: int | None = None
    merge_threshold: float | None = None
    foreground: str | None = "inpainting_error"
    foreground_threshold: float | None = None
    border_weight: float = 1.0
    tile_hw: tuple[int, int] | None = None
    refine: bool = True
    seed: int = 0
    batch_size: int | None = None
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Segmentation:
    """All that was found on the way.

    Attributes:
        relation: of the patches; ``None`` for a tiled image.
        graph: of the patches.
        levels: Louvain's levels, (h, w) int64 each, finest first.
        dendrogram: of the growing; ``None`` without it.
        patch_labels: (h, w) int64, the final segments.
        pixel_labels: (H, W) int64, the same on pixels.
        scores: (num_segments,) float64 in [0, 1], how well each segment holds together: share of
            its edges' weight that stays inside.
        foreground: the decision; ``None`` if none was asked for.
        foreground_mask: (H, W) bool on pixels; ``None`` = no object, or none was asked for.
        seconds: stage -> wall clock time: ``relation`` (all forward passes of the relation and its
            solving), ``graph``, ``communities``, ``growing`` and ``foreground`` (their forward
            passes alone are in ``growing_passes`` and ``foreground_passes``), ``refinement``.
        passes: forward passes of all stages.
    """

    relation: Relation | None
    graph: PatchGraph
    levels: list[np.ndarray]
    dendrogram: Dendrogram | None
    patch_labels: np.ndarray
    pixel_labels: np.ndarray
    scores: np.ndarray
    foreground: Foreground | None
    foreground_mask: np.ndarray | None
    seconds: dict[str, float]
    passes: int


def segment_image(
    model: Autoencoder,
    image: Tensor,
    settings: SegmenterSettings | None = None,
    *,
    pixels: np.ndarray | None = None,
) -> Segmentation:
    """Segment one image.

    Args:
        model: the autoencoder, in evaluation mode.
        image: (3, H, W), normalised, multiples of the patch.
        settings: ``None`` = the defaults.
        pixels: (H', W', 3) uint8, the image that pixel labels are made for, of any size; ``None`` =
            the normalised image itself, H x W.

    Returns:
        The segments and everything on the way to them. A flat image has one segment.

    Raises:
        ValueError: see `measure_relation`, `graph_from_relation`, `choose_foreground`.
    """
    raise NotImplementedError
