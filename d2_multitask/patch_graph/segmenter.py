"""From an image to segments: relation, graph, communities, larger graphs, foreground, pixels."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from d2_multitask.patch_graph.autoencoder import Autoencoder, patch_grid_of
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
from d2_multitask.patch_graph.graph import PatchGraph, graph_from_relation
from d2_multitask.patch_graph.growing import Dendrogram, grow
from d2_multitask.patch_graph.refine import refine_labels, stretch_labels
from d2_multitask.patch_graph.relation import Budget, Relation, measure_relation, rank_average
from d2_multitask.patch_graph.settings import SegmenterSettings
from d2_multitask.patch_graph.tile_windows import tile_windows
from d2_multitask.patch_graph.tiles import Tile, graph_from_tiles

# Of the resolution, for consensus.
CONSENSUS_FACTORS = (0.8, 1.0, 1.2)


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
        The segments and everything on the way to them. A flat image has one segment.

    Raises:
        ValueError: see `measure_relation`, `graph_from_relation`, `louvain`, `choose_foreground`.
    """
    settings = settings or SegmenterSettings()
    clock = _Clock()
    with clock.stage("relation"):
        tiles = _measure(model, image, settings)
    with clock.stage("graph"):
        graph = _graph(tiles, image, model.patch_size, settings)
    with clock.stage("communities"):
        levels = [graph.patch_labels(labels) for labels in _communities(graph, settings)]
    with clock.stage("growing"):
        dendrogram = _grow(model, image, levels[-1], settings) if settings.grow else None
        labels = _final_labels(levels[-1], dendrogram, settings)
    with clock.stage("foreground"):
        foreground = _foreground(model, image, labels, dendrogram, settings)
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
        scores=segment_scores(graph, labels),
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


def _measure(model: Autoencoder, image: Tensor, settings: SegmenterSettings) -> list[Tile]:
    """Windows and their relations; one window for an image that is not tiled."""
    budget = Budget(settings.passes, settings.seconds)
    tiles = []
    windows = tile_windows(
        patch_grid_of(image, model.patch_size), settings.tile_hw, settings.overlap
    )
    for number, window in enumerate(windows):
        relations = [
            measure_relation(
                model,
                window.crop(image, model.patch_size),
                kind,
                budget,
                seed=settings.seed + number,
                batch_size=settings.batch_size,
                dtype=settings.dtype,
                **settings.relation_settings.get(kind, {}),
            )
            for kind in settings.kinds
        ]
        relation = relations[0] if len(relations) == 1 else rank_average(relations)
        tiles.append((window, relation))
    return tiles


def _graph(
    tiles: list[Tile], image: Tensor, patch_size: int, settings: SegmenterSettings
) -> PatchGraph:
    options = {
        "locality": settings.locality,
        "neighbours": settings.neighbours,
        "power": settings.power,
    }
    if len(tiles) == 1:
        return graph_from_relation(tiles[0][1], **options)
    return graph_from_tiles(tiles, patch_grid_of(image, patch_size), **options)


def _communities(graph: PatchGraph, settings: SegmenterSettings) -> list[np.ndarray]:
    """Louvain's levels, the last one without communities that do not hang together."""
    levels = louvain(graph, settings.resolution, settings.seed, settings.backend)
    if settings.num_consensus:
        seeds = range(settings.seed, settings.seed + settings.num_consensus)
        resolutions = [settings.resolution * factor for factor in CONSENSUS_FACTORS]
        levels[-1] = consensus(graph, seeds, resolutions, settings.backend)
    levels[-1] = join_isolated(graph, split_disconnected(graph, levels[-1]))
    return levels


def _grow(
    model: Autoencoder, image: Tensor, labels: np.ndarray, settings: SegmenterSettings
) -> Dendrogram:
    return grow(
        model,
        image,
        labels,
        tile_hw=settings.tile_hw,
        overlap=settings.overlap,
        batch_size=settings.batch_size,
        dtype=settings.dtype,
    )


def _final_labels(
    labels: np.ndarray, dendrogram: Dendrogram | None, settings: SegmenterSettings
) -> np.ndarray:
    if settings.num_segments is None and settings.merge_threshold is None:
        return labels
    if dendrogram is None:
        return (
            labels
            if settings.num_segments is None
            else merge_smallest(labels, settings.num_segments)
        )
    return dendrogram.labels_at(
        num_regions=settings.num_segments, threshold=settings.merge_threshold
    )


def _foreground(
    model: Autoencoder,
    image: Tensor,
    labels: np.ndarray,
    dendrogram: Dendrogram | None,
    settings: SegmenterSettings,
) -> Foreground | None:
    if settings.foreground is None:
        return None
    if settings.foreground == "inpainting_error" and labels.max() >= MAX_COMMUNITIES:
        if dendrogram is not None:
            labels = dendrogram.labels_at(num_regions=MAX_COMMUNITIES)
        labels = merge_smallest(labels)
    return choose_foreground(
        labels,
        settings.foreground,
        model=model,
        image=image,
        threshold=settings.foreground_threshold,
        border_weight=settings.border_weight,
        batch_size=settings.batch_size,
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
    joint = 2 * labels + (mask if mask is not None else 0)
    if settings.refine:
        joint = refine_labels(joint, pixels)
    else:
        joint = stretch_labels(joint, pixels.shape[:2])
    return joint // 2, None if mask is None else joint % 2 == 1


def to_pixels(image: Tensor) -> np.ndarray:
    """A normalised image (3, H, W) -> (H, W, 3) uint8, from its darkest to its brightest number.

    It serves as a guide for edges; the colours are not those of the original.
    """
    values = image.float().cpu()
    low, high = values.aminmax()
    scaled = (values - low) / (high - low).clamp(min=1e-6) * 255
    return scaled.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


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
