"""The annotations in odd forms: what real files might hold, and a loader must understand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

Content = dict[str, Any]


def hostile_variants(content: Content) -> dict[str, Content]:
    """Variants of a file, by name; all of them are to be loaded without an error.

    ``content`` is not changed. The odd forms say the same as the plain file, but for
    ``parts_missing`` (no parts), ``no_fragments`` (no occlusion) and ``test_image``.
    """
    variants = {}
    for change in _CHANGES:
        variant = copy.deepcopy(content)
        change(variant)
        variants[change.__name__.lstrip("_")] = variant
    return variants


def _parts_missing(content: Content) -> None:
    """No key ``parts`` in the annotations, nor in the categories."""
    for entry in content["annos_segmentation"]:
        del entry["parts"]
    for category in content["categories"]:
        del category["parts"]


def _booleans(content: Content) -> None:
    """``onlysemantic`` and ``iscrowd`` as booleans."""
    for category in content["categories"]:
        category["onlysemantic"] = bool(category["onlysemantic"])
    for entry in content["annos_segmentation"]:
        entry["iscrowd"] = bool(entry["iscrowd"])


def _no_fragments(content: Content) -> None:
    """``ne`` = 0 and empty edges, as a MATLAB export writes them."""
    for entry in content["annos_occlusion"]:
        entry.update(ne=0, edges={})


def _single_fragments(content: Content) -> None:
    """A single fragment is not nested in a list, nor is its label."""
    for entry in content["annos_occlusion"]:
        if entry["ne"] == 1:
            edges = entry["edges"]
            entry["edges"] = {
                "indices": edges["indices"][0],
                "edgelabel": edges["edgelabel"][0],
            }


def _one_based(content: Content) -> None:
    """Pixel indices that count from 1, as in MATLAB."""
    for entry in content["annos_occlusion"]:
        edges = entry["edges"]
        edges["indices"] = [[index + 1 for index in chain] for chain in edges["indices"]]


def _extra_keys(content: Content) -> None:
    """Keys that nobody knows, in every list."""
    content["annos_future"] = [{"image_id": 1}]
    for key in ("images", "categories", "annos_segmentation", "annos_boundary", "annos_joints"):
        for entry in content.get(key, ()):
            entry["unknown"] = {"nested": [1, 2, 3]}
    for entry in content["annos_occlusion"]:
        entry.update(nj=3, edges={**entry["edges"], "adjacency": [[0, 1]]})


def _test_image(content: Content) -> None:
    """An image of the phase "test" that has no annotation at all."""
    image = {**content["images"][0], "image_id": 2010999999, "phase": "test"}
    content["images"].insert(0, {**image, "file_name": "2010_999999.jpg"})


def _shuffled(content: Content) -> None:
    """Lists in another order; painting order of the masks of an image stays."""
    for key in ("images", "categories", "parts", "annos_boundary", "annos_occlusion"):
        content[key].reverse()


_CHANGES: tuple[Callable[[Content], None], ...] = (
    _parts_missing,
    _booleans,
    _no_fragments,
    _single_fragments,
    _one_based,
    _extra_keys,
    _test_image,
    _shuffled,
)
