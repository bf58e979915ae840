"""What a file's boundaries are drawn around, and how its occlusion fragments count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.ndimage import binary_dilation

from d2_multitask.data.datasets.pascal_in_detail import LoadedPhase
from d2_multitask.data.datasets.pascal_in_detail.annotation_file import AnnotationFile
from d2_multitask.data.datasets.pascal_in_detail.labels import read_edges
from d2_multitask.data.labels.base import IGNORE_VALUE
from d2_multitask.data.labels.edges import BoundaryLabel
from d2_multitask.data.labels.masks import paint_segments
from d2_multitask.data.labels.sem_seg import SemSegLabel

_NUM_SAMPLED = 200
_KNOWN_KEYS = frozenset(("image_id", "imsize", "ne", "edges"))
_KNOWN_EDGE_KEYS = frozenset(("indices", "edgelabel"))


def boundary_lines(loaded: dict[str, LoadedPhase]) -> Iterator[str]:
    """How far the boundary masks agree with contours of instances and of semantic classes."""
    records = [r for part in loaded.values() for r in part.dataset_dicts]
    labelled = [r for r in records if "boundary_segmentation" in r and "annotations" in r]
    if not labelled:
        yield "none"
        return
    step = max(len(labelled) // _NUM_SAMPLED, 1)
    sampled = labelled[::step][:_NUM_SAMPLED]
    found: dict[str, list[tuple[float, float]]] = {"instances": [], "semantic classes": []}
    density = []
    for record in sampled:
        boundary = BoundaryLabel().read(record)
        if boundary is None or not boundary.any():
            continue
        density.append(float(boundary.mean()))
        for kind, contours in contours_of(record).items():
            found[kind].append(agreement(boundary > 0, contours))
    yield f"{len(sampled)} images looked at, {len(density)} with a boundary"
    if density:
        yield f"boundary pixels: {np.mean(density):.2%} of an image"
    for kind, pairs in found.items():
        if pairs:
            precision, recall = np.mean(pairs, axis=0)
            on = f"{precision:.1%} of the boundary lies within 2 pixels of contours of {kind}"
            yield f"{on}, {recall:.1%} of these contours within 2 pixels of the boundary"


def contours_of(record: dict[str, Any]) -> dict[str, np.ndarray]:
    """(H, W) bool maps: where neighbouring pixels belong to two instances, or to two classes."""
    size = record["height"], record["width"]
    instances = [
        {"category_id": 1 + index % 254, "segmentation": a["segmentation"]}
        for index, a in enumerate(record["annotations"])
        if "segmentation" in a
    ]
    semantic = SemSegLabel().read(record)
    assert semantic is not None, "images with annotations have semantic segments"
    return {
        "instances": _edges(paint_segments(instances, *size, background=0)),
        "semantic classes": _edges(np.where(semantic == IGNORE_VALUE, 254, semantic)),
    }


def _edges(ids: np.ndarray) -> np.ndarray:
    edge = np.zeros(ids.shape, dtype=bool)
    edge[1:] |= ids[1:] != ids[:-1]
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    return edge


def agreement(boundary: np.ndarray, contours: np.ndarray) -> tuple[float, float]:
    """Share of each map's pixels that are within 2 pixels (city-block) of the other."""
    near_contours = binary_dilation(contours, iterations=2)
    near_boundary = binary_dilation(boundary, iterations=2)
    precision = float(near_contours[boundary].mean()) if boundary.any() else 0.0
    recall = float(near_boundary[contours].mean()) if contours.any() else 1.0
    return precision, recall


def occlusion_lines(file: AnnotationFile, loaded: dict[str, LoadedPhase]) -> Iterator[str]:
    """Index base, labels, lengths and unknown keys of the occlusion fragments."""
    records = {r["image_id"]: r for part in loaded.values() for r in part.dataset_dicts}
    chains: dict[int, list[np.ndarray]] = {}
    labels: Counter[Any] = Counter()
    extra: Counter[str] = Counter()
    wrong_ne = 0
    for _, entry in file.entries("annos_occlusion"):
        if entry["image_id"] not in records:
            continue
        fragments, edge_labels, error = read_edges(entry, records[entry["image_id"]])
        if error:
            continue
        chains[entry["image_id"]] = fragments
        labels.update(label for label in edge_labels if isinstance(label, int))
        wrong_ne += entry.get("ne") != len(fragments)
        extra.update(set(entry) - _KNOWN_KEYS)
        edges = entry.get("edges")
        extra.update(set(edges) - _KNOWN_EDGE_KEYS if isinstance(edges, dict) else ())
    lengths = [len(chain) for fragments in chains.values() for chain in fragments]
    if not lengths:
        yield f"{len(chains)} images, no fragment"
        return
    empty = sum(not fragments for fragments in chains.values())
    yield f"{len(chains)} images ({empty} without a fragment), {len(lengths)} fragments"
    yield f"length in pixels: mean {np.mean(lengths):.1f}, most {max(lengths)}"
    yield f"labels (1 = occluder on the left of travel): {dict(labels)}"
    total = sum(lengths)
    hits = np.zeros(2, dtype=np.int64)
    for image_id, fragments in chains.items():
        if fragments and "boundary_segmentation" in records[image_id]:
            hits += _boundary_hits(
                np.concatenate(fragments), BoundaryLabel().read(records[image_id])
            )
    from_one = "! " if hits[1] > hits[0] else ""
    on = [f"{count / total:.1%} of them if they count from {b}" for b, count in enumerate(hits)]
    yield f"indices on the boundary mask: {from_one}{', '.join(on)}"
    yield f"'ne' differs from the number of fragments: {f'! {wrong_ne}' if wrong_ne else 0}"
    yield f"unknown keys: {dict(extra) or 'none'}"


def _boundary_hits(indices: np.ndarray, boundary: np.ndarray | None) -> np.ndarray:
    """How many indices (n,) are pixels of the boundary if they count from 0, and from 1."""
    if boundary is None:
        return np.zeros(2, dtype=np.int64)
    mask = boundary.ravel(order="F") > 0
    moved = (indices - base for base in range(2))
    return np.array([mask[m[(m >= 0) & (m < len(mask))]].sum() for m in moved])
