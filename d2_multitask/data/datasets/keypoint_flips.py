"""Which keypoints change places in a mirrored image: told by a person, or found by their names."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from d2_multitask.data.datasets.catalog import loaded_metadata

logger = logging.getLogger(__name__)

_OTHER_SIDE = {"left": "right", "right": "left", "l": "r", "r": "l"}
# Words of a keypoint name: "leftKnee", "left_knee", "leftknee", "LKnee", "knee.l" all hold two.
_WORD = re.compile(r"(?i:left|right)|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


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
    where = f"Dataset {(mapped or metadata[0]).name!r}: keypoint_flip_map:"
    found, lonely = find_flip_pairs(names)
    partners = partners_of(where, names, found if mapped is None else mapped.keypoint_flip_map)
    if mapped is None:
        pairs = ", ".join(f"{name} = {partner}" for name, partner in partners.items())
        logger.warning(
            f"{where} found none. In mirrored images these keypoints change places, found by their "
            f"names: {pairs or 'none'}. To say it yourself type MetadataCatalog.get("
            f"{metadata[0].name!r}).set(keypoint_flip_map=[(left, right), ...])"
        )
    else:
        sided = (*sum(found, ()), *lonely)
        fixed = [name for name in sided if partners.get(name, name) == name]
        if fixed:
            logger.warning(
                f"{where} found no partner of the keypoints {fixed}, expected one, as their names "
                "have a side; they are not swapped in mirrored images"
            )
    return [names.index(partners.get(name, name)) for name in names]


def partners_of(where: str, names: Sequence[str], pairs: Any) -> dict[str, str]:
    """Keypoint -> the one of the other side, both ways.

    ``pairs`` are (left, right) names, or a mapping; a pair may be told twice.

    Raises:
        ValueError: something else than pairs of these keypoints, or a keypoint with two partners.
    """
    partners: dict[str, str] = {}
    for pair in pairs.items() if isinstance(pairs, Mapping) else pairs:
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


def find_flip_pairs(names: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Find the left/right pairs among keypoint names.

    Names are pairs if one becomes the other by exchanging a word: "left_knee" and "right_knee",
    "lKnee" and "rKnee", "knee-left" and "knee-right". The letters l and r count only as first or
    last word.

    Returns:
        (left, right) pairs in the order of the left ones, and names with a side but no partner.
    """
    by_words = {tuple(name_words(name)): name for name in names}
    pairs, lonely = [], []
    for name in names:
        words = name_words(name)
        side = next((i for i in range(len(words)) if _is_side(words, i)), None)
        if side is None:
            continue
        partner = by_words.get((*words[:side], _OTHER_SIDE[words[side]], *words[side + 1 :]))
        if partner is None:
            lonely.append(name)
        elif words[side] in ("left", "l"):
            pairs.append((name, partner))
    return pairs, lonely


def name_words(name: str) -> list[str]:
    """The words of a keypoint's name in small letters: "leftKnee" is "left" and "knee"."""
    return [word.lower() for word in _WORD.findall(name)]


def _is_side(words: Sequence[str], index: int) -> bool:
    word = words[index]
    at_end = index in (0, len(words) - 1)
    return word in ("left", "right") or (word in ("l", "r") and at_end and len(words) > 1)
