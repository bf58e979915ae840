"""Segments against people: BSDS500's numbers, and paired differences of the covering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from d2_multitask.evaluation.partitions import PartitionCounts, summarize_partitions
from d2_multitask.patch_graph.color_regions import NUM_REGIONS
from studies.relations.differences import (
    NOT_DISTINGUISHABLE,
    difference_table,
    grid_table,
    undistinguished,
)
from studies.relations.methods import Method, method_as_json
from studies.relations.partition_study import FOLLOWED, PATCHES, REFINED
from studies.relations.table import shown_settings

_TITLES = {
    PATCHES: "on patches",
    REFINED: "after refinement",
    FOLLOWED: f"following {NUM_REGIONS} colour regions",
}
_DIGITS = {"VI-ODS": 2, "VI-OIS": 2}
COLUMNS = (
    *("covering-ODS", "covering-OIS", "covering-best", "PRI-ODS", "PRI-OIS"),
    *("VI-ODS", "VI-OIS", "boundary-ODS-F", "boundary-OIS-F"),
)


@dataclass(frozen=True)
class PartitionResult:
    """Of one working size and one of `PIXELS`.

    Attributes:
        scores: method -> those of `summarize_partitions`, and ``segments``: their mean number at
            the level of ``covering-ODS``.
        covering: method -> (N,) of each image at that level, in 0-100.
    """

    scores: Mapping[str, Mapping[str, float]]
    covering: Mapping[str, np.ndarray]


def collect_partitions(records: Sequence[Mapping[str, Any]], what: str) -> PartitionResult:
    """Records of `PartitionStudy.report` -> result; ``what``: one of `PIXELS`."""
    scores, covering = {}, {}
    for name in records[0]:
        images = [PartitionCounts(*map(np.asarray, record[name][what])) for record in records]
        covered = np.stack([image.covered for image in images])  # (N, levels)
        areas = np.array([int(image.labelled_area) for image in images])
        level = int(covered.sum(axis=0).argmax())
        numbers = [record[name]["segments"][level] for record in records]
        scores[name] = {**summarize_partitions(images), "segments": float(np.mean(numbers))}
        covering[name] = 100 * covered[:, level] / areas
    return PartitionResult(scores, covering)


Results = Mapping[int, Mapping[str, PartitionResult]]
"""Working size -> `PIXELS` -> result."""


def partitions_markdown(
    results: Results,
    methods: Mapping[int, Sequence[Method]],
    baselines: Sequence[str],
    note: str,
    command: str,
) -> str:
    """Tables of results, differences and settings of each size.

    Args:
        results: what was measured.
        methods: as they were chosen, by size.
        baselines: names of methods that all others are compared with.
        note: about the images and networks.
        command: that made it.
    """
    parts = [
        "# Segments against people",
        f"```sh\n{command}\n```",
        f"{note} In 0-100, except VI (bits, less is better). ODS: one level for all images, OIS: "
        'the best of each; "segments": mean number at the level of the covering\'s ODS. '
        "Differences: covering at that level, image by image, mean ± standard error.",
    ]
    for size, found in results.items():
        for what, result in found.items():
            parts += [f"## {size} pixels, {_TITLES[what]}", _scores(result)]
            parts += [difference_table(result.covering, baselines)]
        rows = [[method.name, shown_settings(method)] for method in methods[size]]
        parts += [f"## {size} pixels, settings", grid_table(rows, ["relation / division", "graph"])]
    return "\n\n".join(parts) + "\n"


def partitions_json(
    results: Results, methods: Mapping[int, Sequence[Method]], note: str, command: str
) -> dict[str, Any]:
    """The same numbers, and the covering of each image."""
    return {
        "command": command,
        "note": note,
        "methods": {size: [method_as_json(m) for m in found] for size, found in methods.items()},
        "results": {
            size: {
                what: {
                    NOT_DISTINGUISHABLE: list(undistinguished(result.covering)),
                    "scores": result.scores,
                    "covering": {k: np.round(v, 4).tolist() for k, v in result.covering.items()},
                }
                for what, result in found.items()
            }
            for size, found in results.items()
        },
    }


def _scores(result: PartitionResult) -> str:
    rows = [
        [
            name,
            f"{scores['segments']:.1f}",
            *(f"{scores[column]:.{_DIGITS.get(column, 1)}f}" for column in COLUMNS),
        ]
        for name, scores in result.scores.items()
    ]
    return grid_table(rows, ["relation / division", "segments", *COLUMNS])
