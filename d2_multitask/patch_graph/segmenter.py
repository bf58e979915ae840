"""From an image to segments: relation, graph, communities, larger graphs, foreground, pixels."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from d2_multitask.patch_graph.autoencoder import Autoencoder, patch_grid_of
from d2_multitask.patch_graph.color_regions import color_regions, follow_regions
from d2_multitask.patch_graph.communities import (
    consensus,
    join_isolated,
    louvain,
    split_disconnected,
)
from d2_multitask.patch_graph.foreground import (
    MAX_COMMUNITIES,
    Foreground,
    choose_foreground,
    merge_smallest,
)
from d2_multitask.patch_graph.graph import PatchGraph, graph_from_matrix, graph_from_relation
from d2_multitask.patch_graph.growing import Dendrogram, grow
from d2_multitask.patch_graph.maskcut import MASKCUT, RELATION, as_foreground, mask_cut
from d2_multitask.patch_graph.refine import refine_labels, stretch_labels
from d2_multitask.patch_graph.relation import Budget, Relation, rank_average
from d2_multitask.patch_graph.shifted import enlarge, measure_shifted
from d2_multitask.patch_graph.tiles import Tile, stitch, tile_windows

# Of the resolution, for consensus.
CONSENSUS_FACTORS = (0.8, 1.0, 1.2)
# Fields of `SegmenterSettings` that MaskCut reads; of communities and rules there are none.
MASKCUT_FIELDS = (
    "kinds",
    "passes",
    "seconds",
    "foreground",
    "tile_hw",
    "shifts",
    "color_regions",
    "refine",
    "seed",
    "dtype",
)


@dataclass(frozen=True)
class SegmenterSettings:
    """How an image is segmented.

    Attributes:
        kinds: relations; several are mixed by `rank_average`.
        passes: budget of each relation (and of each tile); ``None`` = the kind's default.
        seconds: likewise.
        locality: see `graph_from_relation`.
        neighbours: likewise.
        resolution: of Louvain's method.
        num_consensus: seeds for `consensus` at three resolutions around ``resolution``; 0 = a
            single run.
        backend: of Louvain's method.
        grow: measure regions again and merge them (R4).
        num_segments: merge until so many are left; ``None`` = by ``merge_threshold`` alone.
        merge_threshold: of growing: merge until the best score is below it; ``None`` = by
            ``num_segments``. Both ``None``: the communities are the segments, and all merges are
            in the dendrogram.
        foreground: a rule of `choose_foreground`, or ``None`` = no decision. The rule
            ``inpainting_error`` is given at most 7 segments, by growing (or else by merging the
            smallest). ``maskcut``: the segments are the objects of `mask_cut`, and the rest, in
            place of communities.
        foreground_threshold: see `choose_foreground`.
        border_weight: likewise; of ``inpainting_error`` alone.
        tile_hw: (h, w) patches of a tile; larger images are tiled. ``None`` = never.
        shifts: of `measure_shifted`; from the graph on a patch is a cell of it, also in numbers of
            patches such as ``locality``.
        color_regions: pixel labels that follow so many `color_regions`; ``None`` = none.
        refine: pixel labels that follow edges; else patches are squares. With colour regions it is
            for images that are larger than those.
        seed: of everything random.
        dtype: ``torch.bfloat16`` = mixed precision.

    Raises:
        ValueError: fewer segments than 1, a seed below 0, a threshold that is no number; settings
            that are not used: a ``merge_threshold`` without growing, a ``foreground_threshold``
            without a rule, a ``border_weight`` of another rule, those of communities or rules with
            MaskCut; or MaskCut with another relation than ``encoder_features``.
    """

    kinds: tuple[str, ...] = ("ridge",)
    passes: int | None = None
    seconds: float | None = None
    locality: float | None = None
    neighbours: int | None = 16
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
    shifts: int = 1
    color_regions: int | None = None
    refine: bool = True
    seed: int = 0
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        for field, least in (("num_segments", 1), ("color_regions", 1), ("seed", 0)):
            if (found := getattr(self, field)) is not None and found < least:
                raise ValueError(f"{field}: found {found}, expected at least {least}")
        if math.isnan(self.foreground_threshold):
            raise ValueError("foreground_threshold: found nan, expected a number")
        if self.foreground == MASKCUT:
            if self.kinds != (RELATION,):
                raise ValueError(
                    f"Foreground {MASKCUT!r}: found the relation {' '.join(self.kinds)}, expected "
                    f"{RELATION}: the threshold of its graph is a cosine"
                )
            unused = {f.name for f in fields(self)} - {*MASKCUT_FIELDS}
            self._refuse(f"Foreground {MASKCUT!r}", unused)
        if not self.grow:
            self._refuse("Without growing", {"merge_threshold"})
        if self.foreground is None:
            self._refuse("Foreground None", {"foreground_threshold"})
        if self.foreground != "inpainting_error":
            self._refuse(f"Foreground {self.foreground!r}", {"border_weight"})

    def _refuse(self, why: str, unused: set[str]) -> None:
        """Raise a ValueError if a setting is given that is not used."""
        for field in (f for f in fields(self) if f.name in unused):
            if (found := getattr(self, field.name)) != field.default:
                raise ValueError(
                    f"{why}: {field.name}: found {found}, expected {field.default}: it is not used"
                )


@dataclass(frozen=True)
class Segmentation:
    """All that was found on the way.

    Attributes:
        relation: of the patches, of ``ridge`` without standard error; ``None`` for a tiled image.
        graph: of the patches.
        levels: Louvain's levels, (h, w) int64 each, finest first.
        dendrogram: of the growing; ``None`` without it.
        patch_labels: (h, w) int64, the final segments.
        pixel_labels: (H, W) int64, the same on pixels.
        scores: (num_segments,) float64 in [0, 1], how well each segment holds together: share of
            its edges' weight that stays inside. Of MaskCut those of the objects, and 0 of the rest.
        foreground: the decision; ``None`` if none was asked for.
        foreground_mask: (H, W) bool on pixels; ``None`` = no object, or none was asked for.
        seconds: stage -> wall clock time: ``relation``, ``graph``, ``communities``, ``growing``,
            ``foreground``, ``refinement``.
        forward_seconds: the part of ``growing`` and ``foreground`` that was spent in the
            autoencoder; the relation's is not taken apart.
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
    forward_seconds: float
    passes: int

    @property
    def share_after_measuring(self) -> float:
        """Share of the time that is neither the relation nor in the autoencoder."""
        total = sum(self.seconds.values())
        return 1 - (self.seconds["relation"] + self.forward_seconds) / total


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
        The segments and everything on the way to them. A flat image has one segment (unless
        ``distance`` divides it) and no object.

    Raises:
        ValueError: see `measure_relation`, `graph_from_relation`, `louvain`, `choose_foreground`.
    """
    settings = settings or SegmenterSettings()
    clock = _Clock()
    with clock.stage("relation"):
        tiles = measure_tiles(model, image, settings)
        cells = enlarge(image, settings.shifts)
    with clock.stage("graph"):
        options = {"locality": settings.locality, "neighbours": settings.neighbours}
        options = {} if settings.foreground == MASKCUT else options
        if len(tiles) == 1:
            graph = graph_from_relation(tiles[0][1], **options)
        else:
            grid_hw = patch_grid_of(cells, model.patch_size)
            graph = graph_from_matrix(stitch(tiles, grid_hw), grid_hw, **options)
    with clock.stage("communities"):
        if settings.foreground == MASKCUT:
            levels = [mask_cut(graph)]
        else:
            levels = [graph.patch_labels(labels) for labels in _communities(graph, settings)]
    with clock.stage("growing"):
        dendrogram = None
        if settings.grow and settings.foreground != MASKCUT:
            how = {"tile_hw": settings.tile_hw, "dtype": settings.dtype}
            dendrogram = grow(model, cells, levels[-1], **how)
        labels = _final_labels(levels[-1], dendrogram, settings)
    with clock.stage("foreground"):
        foreground = _foreground(model, cells, graph, labels, dendrogram, settings)
    with clock.stage("refinement"):
        pixels = to_pixels(image) if pixels is None else pixels
        pixel_labels, mask = _on_pixels(labels, foreground, pixels, settings)
    measured = [step for step in (dendrogram, foreground) if step is not None]
    return Segmentation(
        relation=tiles[0][1] if len(tiles) == 1 else None,
        graph=graph,
        levels=levels,
        dendrogram=dendrogram,
        patch_labels=labels,
        pixel_labels=pixel_labels,
        scores=_scores(graph, labels, foreground),
        foreground=foreground,
        foreground_mask=mask,
        seconds=clock.seconds,
        forward_seconds=sum(step.forward_seconds for step in measured),
        passes=sum(r.passes for _, r in tiles) + sum(step.passes for step in measured),
    )


class _Clock:
    """Wall clock time of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


def measure_tiles(model: Autoencoder, image: Tensor, settings: SegmenterSettings) -> list[Tile]:
    """Windows and their relations, in reading order; the tile number t gets the seed + t.

    An image that is not tiled is one window. Arguments and errors: see `segment_image`.
    """
    budget = Budget(settings.passes, settings.seconds)
    how: dict[str, Any] = {"budget": budget, "shifts": settings.shifts, "dtype": settings.dtype}
    windows = tile_windows(patch_grid_of(image, model.patch_size), settings.tile_hw)
    tiles = []
    for seed, window in enumerate(windows, start=settings.seed):
        pixels = window.crop(image, model.patch_size)
        relations = [
            measure_shifted(model, pixels, kind, seed=seed, **how) for kind in settings.kinds
        ]
        relation = relations[0] if len(relations) == 1 else rank_average(relations)
        tiles.append((window.finer(settings.shifts), relation))
    return tiles


def _communities(graph: PatchGraph, settings: SegmenterSettings) -> list[np.ndarray]:
    """Louvain's levels, the last one without communities that do not hang together."""
    levels = louvain(graph, settings.resolution, settings.seed, settings.backend)
    if settings.num_consensus:
        seeds = range(settings.seed, settings.seed + settings.num_consensus)
        resolutions = [settings.resolution * factor for factor in CONSENSUS_FACTORS]
        levels[-1] = consensus(graph, seeds, resolutions, settings.backend)
    levels[-1] = join_isolated(graph, split_disconnected(graph, levels[-1]))
    return levels


def _final_labels(
    labels: np.ndarray, dendrogram: Dendrogram | None, settings: SegmenterSettings
) -> np.ndarray:
    if settings.num_segments is None and settings.merge_threshold is None:
        return labels
    if dendrogram is not None:
        return dendrogram.labels_at(
            num_regions=settings.num_segments, threshold=settings.merge_threshold
        )
    return (
        labels if settings.num_segments is None else merge_smallest(labels, settings.num_segments)
    )


def _foreground(
    model: Autoencoder,
    image: Tensor,
    graph: PatchGraph,
    labels: np.ndarray,
    dendrogram: Dendrogram | None,
    settings: SegmenterSettings,
) -> Foreground | None:
    if settings.foreground is None:
        return None
    if settings.foreground == MASKCUT:
        return as_foreground(labels)
    if settings.foreground == "inpainting_error" and labels.max() >= MAX_COMMUNITIES:
        if dendrogram is not None:
            labels = dendrogram.labels_at(num_regions=MAX_COMMUNITIES)
        labels = merge_smallest(labels)
    return choose_foreground(
        labels,
        settings.foreground,
        graph=graph,
        model=model,
        image=image,
        threshold=settings.foreground_threshold,
        border_weight=settings.border_weight,
        dtype=settings.dtype,
    )


def _on_pixels(
    labels: np.ndarray,
    foreground: Foreground | None,
    pixels: np.ndarray,
    settings: SegmenterSettings,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Segments (H, W) int64, and the object (H, W) bool or ``None``, with the same edges."""
    mask = None if foreground is None else foreground.mask
    cells = np.zeros(labels.shape, np.int64) if mask is None else mask.astype(np.int64)
    if settings.color_regions is not None:
        regions = color_regions(pixels).labels_at(num_regions=settings.color_regions)
        labels, found = (follow_regions(each, regions) for each in (labels, cells))
        # an object that wins no region keeps its patches
        cells = found if found.any() else stretch_labels(cells, regions.shape)
    both = 2 * labels + cells  # in one number, so that they are refined together
    if settings.refine and both.shape != pixels.shape[:2]:
        both = refine_labels(both, pixels)
    else:
        both = stretch_labels(both, pixels.shape[:2])
    return both // 2, None if mask is None else both % 2 == 1


def to_pixels(image: Tensor) -> np.ndarray:
    """A normalised image (3, H, W) -> (H, W, 3) uint8, scaled to the full range.

    It is a guide for edges; the colours are not those of the original.
    """
    values = image.float().cpu()
    low, high = values.aminmax()
    scaled = (values - low) / (high - low).clamp(min=1e-6) * 255
    return scaled.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def _scores(graph: PatchGraph, labels: np.ndarray, foreground: Foreground | None) -> np.ndarray:
    if foreground is not None and foreground.rule == MASKCUT:
        return np.concatenate([[0.0], foreground.scores])
    return segment_scores(graph, labels)


def segment_scores(graph: PatchGraph, labels: np.ndarray) -> np.ndarray:
    """How well segments hold together: the share of their edges' weight that stays inside.

    Args:
        graph: of the patches, L nodes.
        labels: (h, w), 0..C-1.

    Returns:
        (C,) float64 in [0, 1]; 1 for a segment without any edge to another one.
    """
    first, second, weight = graph.edges()
    flat = labels.flatten()
    count = int(flat.max()) + 1
    degree = np.bincount(flat[first], weight, count) + np.bincount(flat[second], weight, count)
    same = flat[first] == flat[second]
    inside = 2 * np.bincount(flat[first[same]], weight[same], count)
    return np.where(degree > 0, inside / np.where(degree > 0, degree, 1), 1.0)


class PatchRelation(NamedTuple):
    """The relation of one patch; units as of `Relation.matrix`.

    Attributes:
        patch_yx: the patch.
        helps_it: (h, w), how much each patch helps to reconstruct it.
        is_helped: (h, w), how much it helps to reconstruct each patch.
    """

    patch_yx: tuple[int, int]
    helps_it: np.ndarray
    is_helped: np.ndarray


def relation_of_patch(
    model: Autoencoder,
    image: Tensor,
    settings: SegmenterSettings,
    point_xy: tuple[float, float],
) -> PatchRelation:
    """Measure the relation of the patch at a point.

    Args:
        model: the autoencoder.
        image: (3, H, W), normalised.
        settings: relation, budget and tiles. Of a tiled image both directions are their mean, and
            patches that share no tile have 0.
        point_xy: in shares of the image's width and height, [0, 1).

    Returns:
        The relation of the patch that holds the point.
    """
    grid_hw = patch_grid_of(enlarge(image, settings.shifts), model.patch_size)
    patch_yx = (int(point_xy[1] * grid_hw[0]), int(point_xy[0] * grid_hw[1]))
    index = patch_yx[0] * grid_hw[1] + patch_yx[1]
    tiles = measure_tiles(model, image, settings)
    whole = tiles[0][1].matrix.numpy() if len(tiles) == 1 else stitch(tiles, grid_hw).toarray()
    return PatchRelation(patch_yx, whole[index].reshape(grid_hw), whole[:, index].reshape(grid_hw))
