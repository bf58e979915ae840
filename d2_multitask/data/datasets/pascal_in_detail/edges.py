"""``annos_boundary`` and ``annos_occlusion`` -> an image's boundary mask and fragments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from d2_multitask.data.datasets.pascal_in_detail.annotation_file import AnnotationFile, as_chains
from d2_multitask.data.datasets.pascal_in_detail.segmentation import rle_error
from d2_multitask.data.labels.masks import MaskError, decode, to_rle
from d2_multitask.data.labels.occlusion import LEFT, RIGHT

Record = dict[str, Any]

BAD_BOUNDARY = "boundary mask that cannot be used, left out"
TWO_BOUNDARIES = "second boundary mask of an image, left out"
BAD_OCCLUSION = "occlusion labels of an image that cannot be used, left out"
TWO_OCCLUSIONS = "second occlusion labels of an image, left out"
BAD_FRAGMENT = "occlusion fragment that cannot be used, left out"
ONE_BASED = "occlusion indices that count from 1, moved to count from 0"

# So many images decide on the index base where the indices themselves leave it open.
_NUM_VOTES = 50


def add_boundaries(file: AnnotationFile, records: Mapping[int, Record]) -> None:
    """Add ``boundary_segmentation`` to the dicts of the images that have one."""
    for where, entry in file.entries("annos_boundary"):
        record = records.get(entry["image_id"])
        if record is None:
            continue
        mask = entry.get("boundary_mask")
        error = rle_error(mask, record)
        if error:
            file.add(BAD_BOUNDARY, where, f"field 'boundary_mask': {error}")
        elif "boundary_segmentation" in record:
            file.add(TWO_BOUNDARIES, where, "field 'image_id': expected one entry an image")
        else:
            record["boundary_segmentation"] = mask


def add_occlusions(file: AnnotationFile, records: Mapping[int, Record]) -> None:
    """Add ``occlusion_fragments``: ``indices`` (column-major, 0-based) and ``labels``, see
    :mod:`d2_multitask.data.labels.occlusion`. Call it after :func:`add_boundaries`.
    """
    chains_of: dict[int, tuple[str, list[np.ndarray], list[int]]] = {}
    for where, entry in file.entries("annos_occlusion"):
        record = records.get(entry["image_id"])
        if record is None:
            continue
        chains, labels, error = read_edges(entry, record)
        if error:
            file.add(BAD_OCCLUSION, where, error)
        elif entry["image_id"] in chains_of:
            file.add(TWO_OCCLUSIONS, where, "field 'image_id': expected one entry an image")
        else:
            chains_of[entry["image_id"]] = where, chains, labels
    base = index_base({i: chains for i, (_, chains, _) in chains_of.items()}, records)
    if base:
        details = "field 'edges.indices': no index is 0, and they fit the images only from 1 on"
        file.add(ONE_BASED, "annos_occlusion", details)
    for image_id, (where, chains, labels) in chains_of.items():
        record = records[image_id]
        record["occlusion_fragments"] = _usable(file, record, where, chains, labels, base)


def read_edges(
    entry: Mapping[str, Any], record: Mapping[str, Any]
) -> tuple[list[np.ndarray], list[int], str | None]:
    """Chains of indices as the file counts them, their labels, and what is wrong with them."""
    size = [record["height"], record["width"]]
    imsize = entry.get("imsize")
    if imsize is not None and (not isinstance(imsize, list) or imsize[:2] != size):
        return [], [], f"field 'imsize': found {imsize}, expected {size} (height, width)"
    edges = entry.get("edges")
    if not isinstance(edges, dict) or not edges:
        if entry.get("ne") == 0:
            return [], [], None
        return [], [], f"field 'edges': found {edges!r}, expected indices and edgelabel"
    chains, labels = as_chains(edges.get("indices")), edges.get("edgelabel")
    labels = [labels] if isinstance(labels, int) else labels  # a single one, not nested
    if chains is None and entry.get("ne") == 0:
        chains, labels = [], []
    if not isinstance(chains, list) or not all(isinstance(c, np.ndarray) for c in chains):
        return [], [], "field 'edges.indices': found something else than lists of integers"
    if not isinstance(labels, list) or len(labels) != len(chains):
        found = len(labels) if isinstance(labels, list) else labels
        return [], [], f"field 'edges.edgelabel': found {found} labels, expected {len(chains)}"
    return chains, labels, None


def index_base(chains: Mapping[int, list[np.ndarray]], records: Mapping[int, Record]) -> int:
    """Whether the indices count from 0 or from 1.

    An index 0, or one that is the number of pixels, settles it; else the base whose pixels lie more
    often on the images' boundary masks, and 0 if that does not tell either.
    """
    has_zero = has_last = False
    for image_id, fragments in chains.items():
        num_pixels = records[image_id]["height"] * records[image_id]["width"]
        for chain in fragments:
            if len(chain):
                has_zero |= int(chain.min()) == 0
                has_last |= int(chain.max()) == num_pixels
    if has_zero or has_last:
        return 0 if has_zero else 1
    votes = np.zeros(2, dtype=np.int64)
    with_boundary = [i for i, c in chains.items() if c and "boundary_segmentation" in records[i]]
    for image_id in with_boundary[:_NUM_VOTES]:
        votes += boundary_hits(np.concatenate(chains[image_id]), records[image_id])
    return int(votes[1] > votes[0])


def boundary_hits(indices: np.ndarray, record: Mapping[str, Any]) -> np.ndarray:
    """How many indices (n,) are pixels of the boundary mask if they count from 0, and from 1."""
    try:
        size = record["height"], record["width"]
        mask = decode(to_rle(record["boundary_segmentation"], *size)).ravel(order="F")
    except MaskError:
        return np.zeros(2, dtype=np.int64)
    hits = []
    for base in range(2):
        moved = indices - base
        hits.append(mask[moved[(moved >= 0) & (moved < len(mask))]].sum())
    return np.array(hits, dtype=np.int64)


def _usable(
    file: AnnotationFile,
    record: Mapping[str, Any],
    where: str,
    chains: list[np.ndarray],
    labels: list[int],
    base: int,
) -> dict[str, list[Any]]:
    num_pixels = record["height"] * record["width"]
    kept: dict[str, list[Any]] = {"indices": [], "labels": []}
    for number, (chain, label) in enumerate(zip(chains, labels, strict=True)):
        error = None
        if isinstance(label, bool) or label not in (LEFT, RIGHT):
            error = f"field 'edges.edgelabel': found {label!r}, expected 1 or 2"
        elif len(chain) and not base <= chain.min() <= chain.max() < num_pixels + base:
            error = (
                f"field 'edges.indices': found {chain.min()}..{chain.max()}, expected {base}.."
                f"{num_pixels - 1 + base} in an image of {record['width']}x{record['height']}"
            )
        if error:
            file.add(BAD_FRAGMENT, f"{where}, fragment {number}", error)
            continue
        kept["indices"].append(chain - base if base else chain)
        kept["labels"].append(int(label))
    return kept
