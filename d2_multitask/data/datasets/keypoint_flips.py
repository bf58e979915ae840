"""Which keypoints change places in a mirrored image, from the metadata of datasets."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from d2_multitask.data.datasets.catalog import loaded_metadata
from d2_multitask.data.datasets.coco_categories import find_flip_pairs

logger = logging.getLogger(__name__)


def flip_indices(datasets: Sequence[str]) -> list[int]:
    """The keypoint that takes each keypoint's place when left and right are exchanged.

    Args:
        datasets: registered names of datasets with the same ``keypoint_names``. The pairs are the
            first ``keypoint_flip_map`` among them; if there is none, they are found by name
            ("left_eye", "right_eye"), with a warning.

    Returns:
        (K,) indices; a keypoint without a partner keeps its place. That is a warning where its name
        has a side.

    Raises:
        ValueError: the first dataset names no keypoints, or the map holds something else than pairs
            of keypoints, or a keypoint with two partners.
    """
    metadata = [loaded_metadata(name) for name in datasets]
    names = list(metadata[0].get("keypoint_names") or ())
    if not names:
        raise ValueError(
            f"Dataset {datasets[0]!r}: keypoint_names: found none, expected the names of its "
            f"keypoints; type MetadataCatalog.get({datasets[0]!r}).set(keypoint_names=[...], "
            "keypoint_flip_map=[('left_eye', 'right_eye'), ...])"
        )
    mapped = next((m for m in metadata if m.get("keypoint_flip_map") is not None), None)
    if mapped is None:
        partners = _partners(datasets[0], names, find_flip_pairs(names)[0])
        pairs = ", ".join(f"{name} = {partner}" for name, partner in partners.items())
        logger.warning(
            f"Dataset {datasets[0]!r}: keypoint_flip_map: found none. In mirrored images these "
            f"keypoints change places, found by their names: {pairs or 'none'}. To say it yourself "
            f"type MetadataCatalog.get({datasets[0]!r}).set(keypoint_flip_map=[(left, right), ...])"
        )
    else:
        partners = _partners(mapped.name, names, mapped.keypoint_flip_map)
        _warn_of_sides(mapped.name, names, partners)
    return [names.index(partners.get(name, name)) for name in names]


def _partners(dataset: str, names: Sequence[str], flip_map: Any) -> dict[str, str]:
    """Keypoint -> the one of the other side, both ways; a pair may be told twice."""
    partners: dict[str, str] = {}
    where = f"Dataset {dataset!r}: keypoint_flip_map:"
    for pair in flip_map.items() if isinstance(flip_map, Mapping) else flip_map:
        is_pair = isinstance(pair, list | tuple) and len(pair) == 2
        if not is_pair or not all(keypoint in names for keypoint in pair):
            raise ValueError(
                f"{where} found {pair!r}, expected pairs [left, right] of keypoints {list(names)}"
            )
        for keypoint, partner in (pair, pair[::-1]):
            if partners.setdefault(keypoint, partner) != partner:
                raise ValueError(
                    f"{where} found {partners[keypoint]!r} and {partner!r} for the keypoint "
                    f"{keypoint!r}, expected each keypoint in one pair"
                )
    return partners


def _warn_of_sides(dataset: str, names: Sequence[str], partners: Mapping[str, str]) -> None:
    pairs, lonely = find_flip_pairs(names)
    fixed = [name for name in (*sum(pairs, ()), *lonely) if partners.get(name, name) == name]
    if fixed:
        logger.warning(
            f"Dataset {dataset!r}: keypoint_flip_map: found no partner of the keypoints {fixed}, "
            "expected one, as their names have a side; they are not swapped in mirrored images"
        )
