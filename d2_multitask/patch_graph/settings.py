"""What can be chosen when an image is segmented."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch


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
        num_consensus: seeds for `consensus` at three resolutions around ``resolution``; 0 = a
            single run.
        backend: of Louvain's method.
        grow: measure regions again and merge them (R4).
        num_segments: merge until so many are left; ``None`` = by ``merge_threshold`` alone.
        merge_threshold: merge until the best score is below it; ``None`` = by ``num_segments``.
            Both ``None``: the communities are the segments, and all merges are in the dendrogram.
        foreground: a rule of `choose_foreground`, or ``None`` = no decision. The rule
            ``inpainting_error`` is given at most 7 segments, by growing (or else by merging the
            smallest).
        foreground_threshold: see `choose_foreground`.
        border_weight: likewise.
        tile_hw: (h, w) patches of a tile; larger images are tiled. ``None`` = never.
        overlap: of tiles, see `d2_multitask.patch_graph.tile_windows.tile_starts`.
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
    foreground_threshold: float = 0.0
    border_weight: float = 1.0
    tile_hw: tuple[int, int] | None = None
    overlap: float = 0.5
    refine: bool = True
    seed: int = 0
    batch_size: int | None = None
    dtype: torch.dtype | None = None
