"""The study's table: means, standard errors and paired differences, as Markdown and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from d2_multitask.evaluation.segments import SegmentMetrics
from studies.relations.differences import (
    NOT_DISTINGUISHABLE,
    Estimate,
    difference,
    difference_table,
    estimate,
    grid_table,
    undistinguished,
)
from studies.relations.methods import Method, method_as_json
from studies.relations.relations import variants_of
from studies.relations.scoring import average_recalls

RECALLS = ("AR@1", "AR@10", "AR@100")
MAIN = "patch_iou"
_HEADERS = {
    "patch_iou": "IoU, patches",
    "iou": "IoU, pixels",
    "best_iou": "best segment",
    "corloc": "CorLoc",
    "ari": "ARI",
}


@dataclass(frozen=True)
class StudyResult:
    """What was measured.

    Attributes:
        methods: as they were chosen.
        metrics: method -> metric of `SegmentMetrics` -> (N,) values of the images, in 0-100.
        recalls: method -> ``AR@1`` and so on, in 0-100.
        relative_error: of the autoencoder on the reported images: error of removed patches as a
            share of that of their mean colour.
        num_chosen_on: images that settings were chosen on.
        networks: what the rows "(untrained)" and "(early)" are.
    """

    methods: Sequence[Method]
    metrics: Mapping[str, Mapping[str, np.ndarray]]
    recalls: Mapping[str, Mapping[str, float]]
    relative_error: float
    num_chosen_on: int
    networks: str = ""

    @property
    def num_images(self) -> int:
        """N, the reported images."""
        return len(self.metrics[self.methods[0].name][MAIN])

    def estimate(self, name: str, metric: str = MAIN) -> Estimate:
        """Of one method."""
        return estimate(self.metrics[name][metric])

    @property
    def values(self) -> dict[str, np.ndarray]:
        """Method -> (N,) IoU on patches."""
        return {method.name: self.metrics[method.name][MAIN] for method in self.methods}


def collect_result(
    records: Sequence[Mapping[str, Any]],
    methods: Sequence[Method],
    num_chosen_on: int,
    networks: str = "",
) -> StudyResult:
    """Records of `RelationStudy.report` -> result."""
    names = [method.name for method in methods]
    metrics = {
        name: {
            field: 100 * np.array([r["metrics"][name][index] for r in records], np.float64)
            for index, field in enumerate(SegmentMetrics._fields)
        }
        for name in names
    }
    error, usual = (
        sum(record[key] for record in records)
        for key in ("reconstruction_error", "error_of_mean_color")
    )
    return StudyResult(
        methods,
        metrics,
        average_recalls(records, names),
        error / usual if usual else math.nan,
        num_chosen_on,
        networks,
    )


def markdown(result: StudyResult, baselines: Sequence[str], command: str = "") -> str:
    """Tables of results, differences and settings.

    Args:
        result: what was measured.
        baselines: names of methods that all others are compared with.
        command: that made it.
    """
    parts = ["# Relations compared"]
    if command:
        parts.append(f"```sh\n{command}\n```")
    parts.append(
        f"{result.num_images} images; mean ± standard error, in 0-100. Each method's settings have "
        f"the highest mean IoU on patches of {result.num_chosen_on} other images, whose masks were "
        "used for that. The autoencoder's relative error on the reported images is "
        f"{result.relative_error:.3f} (1 = knows each removed patch's mean colour alone). "
        f"{result.networks}"
    )
    parts += [_values(result), "## Differences of IoU on patches, image by image"]
    parts += [difference_table(result.values, baselines), "## Settings", _settings(result)]
    return "\n\n".join(parts) + "\n"


def as_json(result: StudyResult, baselines: Sequence[str], command: str = "") -> dict[str, Any]:
    """The same numbers, and those of each image."""
    values = result.values
    differences = {
        name: {b: found for b in baselines if (found := difference(values, name, b))}
        for name in values
    }
    return {
        "command": command,
        "num_images": result.num_images,
        "num_chosen_on": result.num_chosen_on,
        "relative_error": result.relative_error,
        NOT_DISTINGUISHABLE: list(undistinguished(values)),
        "methods": [method_as_json(method) for method in result.methods],
        "results": {
            method.name: {
                **{k: result.estimate(method.name, k)._asdict() for k in _HEADERS},
                **result.recalls[method.name],
                "differences": {b: d._asdict() for b, d in differences[method.name].items()},
                "images": {
                    k: np.round(v, 4).tolist() for k, v in result.metrics[method.name].items()
                },
            }
            for method in result.methods
        },
    }


def _values(result: StudyResult) -> str:
    rows = [
        [
            method.name,
            *(result.estimate(method.name, metric) for metric in _HEADERS),
            *(f"{result.recalls[method.name][recall]:.1f}" for recall in RECALLS),
        ]
        for method in result.methods
    ]
    return grid_table(rows, ["relation / division", *_HEADERS.values(), *RECALLS])


def shown_settings(method: Method) -> str:
    """How its graph is made and divided."""
    if method.partition is None:
        return ""
    settings = method.partition._asdict()
    variant = variants_of(method.relation)[settings.pop("variant")]
    settings = {**variant.settings, **settings}
    return ", ".join(f"{k} {v:g}" for k, v in settings.items() if v is not None)


def _settings(result: StudyResult) -> str:
    rows = []
    for method in result.methods:
        chosen = f"{100 * method.chosen_iou:.1f}"
        rows.append([method.name, shown_settings(method), method.rule, chosen])
    headers = ["relation / division", "partition", "foreground", "IoU where chosen"]
    return grid_table(rows, headers)
