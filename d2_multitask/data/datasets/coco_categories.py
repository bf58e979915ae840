"""What the categories of a COCO-format JSON say: classes, keypoints, left/right pairs, skeleton."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from d2_multitask.data.datasets.json_values import as_category_id, as_integer, is_text, shown
from d2_multitask.data.problems import Problem

ConnectionRule = tuple[str, str, tuple[int, int, int]]

SKELETON_PROBLEM = "skeleton edge without keypoints, left out of pictures"
SAME_NAME = "name of another category, the id is added"
LONELY_SIDE_PROBLEM = "left or right keypoint without a partner, not swapped when images flip"

_OTHER_SIDE = {"left": "right", "right": "left", "l": "r", "r": "l"}
# Words of a keypoint name: "leftKnee", "left_knee", "leftknee", "LKnee", "knee.l" all hold two.
_WORD = re.compile(r"(?i:left|right)|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


class Categories(NamedTuple):
    """The categories of one JSON.

    Attributes:
        contiguous_ids: the JSON's category id -> 0, 1, 2, ... in the order of the JSON's ids.
        thing_classes: names in that order.
        keypoint_names: keypoint names, the same for every category that has any; may be empty.
        keypoint_flip_map: (left, right) pairs of keypoint names.
        keypoint_connection_rules: (keypoint, keypoint, RGB colour) of the skeleton.
        problems: what was odd but usable.
    """

    contiguous_ids: dict[int, int]
    thing_classes: list[str]
    keypoint_names: list[str]
    keypoint_flip_map: list[tuple[str, str]]
    keypoint_connection_rules: list[ConnectionRule]
    problems: list[Problem]

    def as_metadata(self) -> dict[str, Any]:
        """The fields that Detectron2's MetadataCatalog knows; keypoints only if there are any."""
        values: dict[str, Any] = {
            "thing_classes": self.thing_classes,
            "thing_dataset_id_to_contiguous_id": self.contiguous_ids,
        }
        if self.keypoint_names:
            values["keypoint_names"] = self.keypoint_names
            values["keypoint_flip_map"] = self.keypoint_flip_map
            values["keypoint_connection_rules"] = self.keypoint_connection_rules
        return values


def read_categories(
    categories: Any,
    json_file: str,
    keypoint_flip_pairs: Sequence[Sequence[str]] | None = None,
) -> Categories:
    """Check and read the ``categories`` of a COCO-format JSON.

    Args:
        categories: the JSON's list; each needs ``id`` and ``name``, and may have ``keypoints``
            (keypoint names) and ``skeleton`` (pairs of keypoint numbers, counted from 1).
        json_file: for messages.
        keypoint_flip_pairs: (left, right) keypoint names that replace those found by name.

    Raises:
        ValueError: a field is missing, an id is used twice, categories differ in
            keypoints, or a given pair names none.
    """
    if not isinstance(categories, list) or not categories:
        raise ValueError(f"{json_file}: field 'categories': found nothing, expected a list of them")
    categories = [
        _checked_category(category, f"{json_file}: categories[{index}]")
        for index, category in enumerate(categories)
    ]
    ids = [category["id"] for category in categories]
    if len(set(ids)) < len(ids):
        raise ValueError(f"{json_file}: categories: field 'id': {ids} is not unique")
    problems: list[Problem] = []
    categories = _with_unique_names(categories, json_file, problems)
    ordered = sorted(categories, key=lambda category: category["id"])
    with_keypoints = [category for category in ordered if category.get("keypoints")]
    names = list(with_keypoints[0]["keypoints"]) if with_keypoints else []
    for category in with_keypoints:
        if list(category["keypoints"]) != names:
            raise ValueError(
                f"{json_file}: field 'keypoints' of category {category['name']!r}: found "
                f"{category['keypoints']}, expected {names} as in category "
                f"{with_keypoints[0]['name']!r}; one network has one set of keypoints"
            )
    return Categories(
        contiguous_ids={category["id"]: i for i, category in enumerate(ordered)},
        thing_classes=[category["name"] for category in ordered],
        keypoint_names=names,
        keypoint_flip_map=(
            _flip_map_by_name(names, json_file, problems)
            if keypoint_flip_pairs is None
            else check_flip_pairs(keypoint_flip_pairs, names, json_file)
        ),
        keypoint_connection_rules=_connection_rules(with_keypoints, names, json_file, problems),
        problems=problems,
    )


def find_flip_pairs(names: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Find the left/right pairs among keypoint names.

    Names are pairs if one becomes the other by exchanging a word: "left_knee" and "right_knee",
    "lKnee" and "rKnee", "knee-left" and "knee-right". The letters l and r count only as first or
    last word.

    Returns:
        (left, right) pairs in the order of the left ones, and names with a side but no partner.
    """
    by_words = {tuple(_words(name)): name for name in names}
    pairs, lonely = [], []
    for name in names:
        words = _words(name)
        side = next((i for i in range(len(words)) if _is_side(words, i)), None)
        if side is None:
            continue
        partner = by_words.get((*words[:side], _OTHER_SIDE[words[side]], *words[side + 1 :]))
        if partner is None:
            lonely.append(name)
        elif words[side] in ("left", "l"):
            pairs.append((name, partner))
    return pairs, lonely


def check_flip_pairs(
    pairs: Sequence[Sequence[str]], names: Sequence[str], where: str
) -> list[tuple[str, str]]:
    """Check (left, right) pairs that a person wrote.

    Raises:
        ValueError: not pairs, not keypoint names, or a keypoint in two pairs.
    """
    used: set[str] = set()
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2:
            raise ValueError(f"{where}: flip pairs: found {pair!r}, expected [left, right]")
        for name in pair:
            if name not in names:
                raise ValueError(
                    f"{where}: flip pairs: found {name!r}, expected a keypoint of {list(names)}"
                )
            if name in used:
                raise ValueError(f"{where}: flip pairs: keypoint {name!r} is in more than one pair")
            used.add(name)
    return [(pair[0], pair[1]) for pair in pairs]


def _checked_category(category: Any, where: str) -> dict[str, Any]:
    """The category with its id as an integer."""
    if not isinstance(category, dict):
        raise ValueError(f"{where}: found {type(category).__name__}, expected an object")
    category_id, name = as_category_id(category.get("id")), category.get("name")
    if category_id is None:
        found = shown(category.get("id"))
        raise ValueError(f"{where}: field 'id': found {found}, expected int of 64 bits")
    if not is_text(name):
        raise ValueError(f"{where}: field 'name': found {shown(name)}, expected str")
    names = category.get("keypoints") or []
    if not isinstance(names, list) or not all(map(is_text, names)):
        found = shown(names)
        raise ValueError(f"{where}: field 'keypoints': found {found}, expected keypoint names")
    if len(set(names)) < len(names):
        raise ValueError(f"{where}: field 'keypoints': a keypoint name of {names} is not unique")
    return {**category, "id": category_id}


def _with_unique_names(
    categories: Sequence[dict[str, Any]], json_file: str, problems: list[Problem]
) -> list[dict[str, Any]]:
    """A name that is taken gets its id.

    The last one keeps it: Roboflow's first category is the group, maybe called as a class in it.
    """
    taken: set[str] = set()
    result = []
    for category in reversed(categories):
        name = category["name"]
        while name in taken:
            name += f" ({category['id']})"
        if name != category["name"]:
            where = f"{json_file}: category {category['id']}"
            details = f"field 'name': found {category['name']!r} again, called {name!r}"
            problems.append(Problem(SAME_NAME, where, details))
        taken.add(name)
        result.append({**category, "name": name})
    return result[::-1]


def _flip_map_by_name(
    names: Sequence[str], json_file: str, problems: list[Problem]
) -> list[tuple[str, str]]:
    pairs, lonely = find_flip_pairs(names)
    for name in lonely:
        details = f"found {name!r}, expected its other side among {list(names)}"
        problems.append(Problem(LONELY_SIDE_PROBLEM, f"{json_file}: keypoint {name}", details))
    return pairs


def _connection_rules(
    categories: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    json_file: str,
    problems: list[Problem],
) -> list[ConnectionRule]:
    """Edges of the first category that has a skeleton, in evenly spread colours."""
    given = (category.get("skeleton") for category in categories)
    skeleton = next((value for value in given if value not in (None, [])), [])
    if not isinstance(skeleton, list):
        skeleton = [skeleton]  # which is no edge either
    edges = []
    for edge in skeleton:
        if _is_edge(edge, len(names)):
            edges.append((names[int(edge[0]) - 1], names[int(edge[1]) - 1]))
        else:
            details = f"found {shown(edge)}, expected two keypoint numbers from 1 to {len(names)}"
            where = f"{json_file}: field 'skeleton': edge {shown(edge)}"
            problems.append(Problem(SKELETON_PROBLEM, where, details))
    return [(a, b, _color(i / max(len(edges), 1))) for i, (a, b) in enumerate(edges)]


def _is_edge(edge: Any, num_keypoints: int) -> bool:
    return (
        isinstance(edge, list | tuple)
        and len(edge) == 2
        and all(1 <= (as_integer(keypoint) or 0) <= num_keypoints for keypoint in edge)
    )


def _color(hue: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)]


def _is_side(words: Sequence[str], index: int) -> bool:
    word = words[index]
    at_end = index in (0, len(words) - 1)
    return word in ("left", "right") or (word in ("l", "r") and at_end and len(words) > 1)
