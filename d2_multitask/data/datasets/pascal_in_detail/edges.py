"""``annos_boundary`` and ``annos_occlusion`` -> an image's boundary mask and fragments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from d2_multitask.data.datasets.pascal_in_detail.annotation_file import AnnotationFile
from d2_multitask.data.datasets.pascal_in_detail.segmentation import rle_error
from d2_multitask.data.labels.edges import LEFT, RIGHT

Record = dict[str, Any]

BAD_BOUNDARY = "boundary mask that cannot be used, left out"
TWO_BOUNDARIES = "second boundary mask of an image, left out"
BAD_OCCLUSION = "occlusion labels of an image that cannot be used, left out"
TWO_OCCLUSIONS = "second occlusion labels of an image, left out"
BAD_FRAGMENT = "occlusion fragment that cannot be used, left out"


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
            file.add(TWO_BOUNDARIES, where, "field 'image_id': expected one entry per image")
        else:
            record["boundary_segmentation"] = mask


def add_occlusions(file: AnnotationFile, records: Mapping[int, Record]) -> None:
    """Add ``occlusion_fragments``: ``indices`` (column-major, 0-based) and ``labels``, see
    :mod:`d2_multitask.data.labels.edges`.

    Raises:
        ValueError: the indices count from 1, as in MATLAB: each would be another pixel.
    """
    has_zero, one_based = False, ""
    for where, entry in file.entries("annos_occlusion"):
        record = records.get(entry["image_id"])
        if record is None:
            continue
        chains, labels, error = read_edges(entry, record)
        if error:
            file.add(BAD_OCCLUSION, where, error)
            continue
        if "occlusion_fragments" in record:
            file.add(TWO_OCCLUSIONS, where, "field 'image_id': expected one entry per image")
            continue
        indices = np.concatenate([*chains, np.zeros(0, np.int32)])
        has_zero |= bool((indices == 0).any())
        if (indices == record["height"] * record["width"]).any():
            one_based = one_based or where
        record["occlusion_fragments"] = _usable(file, record, where, chains, labels)
    if one_based and not has_zero:
        raise ValueError(
            f"{file.path}: {one_based}: field 'edges.indices': found the number of the image's "
            "pixels, and 0 nowhere in the file: the indices count from 1, expected from 0"
        )


def read_edges(
    entry: Mapping[str, Any], record: Mapping[str, Any]
) -> tuple[list[np.ndarray], list[int], str | None]:
    """Chains of indices as the file counts them, their labels, and what is wrong with them."""
    size = [record["height"], record["width"]]
    imsize = entry.get("imsize")
    if imsize is not None and (not isinstance(imsize, list) or imsize[:2] != size):
        return [], [], f"field 'imsize': found {imsize}, expected {size} (height, width)"
    edges = entry.get("edges")
    if not edges and entry.get("ne") == 0:
        return [], [], None
    if not isinstance(edges, dict):
        return [], [], f"field 'edges': found {edges!r}, expected indices and edgelabel"
    chains, labels = edges.get("indices"), edges.get("edgelabel")
    if not isinstance(chains, list) or not all(isinstance(c, np.ndarray) for c in chains):
        return [], [], "field 'edges.indices': found something else than lists of integers"
    if not isinstance(labels, list) or len(labels) != len(chains):
        found = len(labels) if isinstance(labels, list) else labels
        return [], [], f"field 'edges.edgelabel': found {found} labels, expected {len(chains)}"
    return chains, labels, None


def _usable(
    file: AnnotationFile,
    record: Mapping[str, Any],
    where: str,
    chains: list[np.ndarray],
    labels: list[int],
) -> dict[str, list[Any]]:
    num_pixels = record["height"] * record["width"]
    kept: dict[str, list[Any]] = {"indices": [], "labels": []}
    for number, (chain, label) in enumerate(zip(chains, labels, strict=True)):
        error = None
        if isinstance(label, bool) or label not in (LEFT, RIGHT):
            error = f"field 'edges.edgelabel': found {label!r}, expected 1 or 2"
        elif len(chain) and not 0 <= chain.min() <= chain.max() < num_pixels:
            error = (
                f"field 'edges.indices': found {chain.min()}..{chain.max()}, expected 0.."
                f"{num_pixels - 1} in an image of {record['width']}x{record['height']}"
            )
        if error:
            file.add(BAD_FRAGMENT, f"{where}, fragment {number}", error)
            continue
        kept["indices"].append(chain)
        kept["labels"].append(int(label))
    return kept
