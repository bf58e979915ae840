"""Methods of a study: a relation, a division, and the settings that were chosen for them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from studies.relations.divisions import DIVISIONS, Partition

BEST_SEGMENT = "best segment"
"""In place of a rule: the IoU of the segment that fits best, which is no answer."""


@dataclass(frozen=True)
class Method:
    """A relation and a division with the settings that were chosen for them.

    Attributes:
        relation: key of `RELATIONS`; for controls their name.
        division: of `DIVISIONS`, empty for controls.
        partition: how its graph is made and divided; ``None`` for controls.
        rule: how the foreground is chosen; the setting of a control.
        chosen_iou: mean IoU on the images that it was chosen on, patches, [0, 1].
    """

    relation: str
    division: str
    partition: Partition | None
    rule: str
    chosen_iou: float

    @property
    def name(self) -> str:
        """Of a row of the table."""
        return f"{self.relation} / {self.division}" if self.division else self.relation


def method_from_json(entry: Mapping[str, Any]) -> Method:
    """The inverse of `method_as_json`."""
    partition = entry["partition"]
    return Method(**{**entry, "partition": partition and Partition(**partition)})


def method_as_json(method: Method) -> dict[str, Any]:
    """A method as JSON can hold it."""
    partition = method.partition
    return {**asdict(method), "partition": partition and partition._asdict()}


def setting_key(relation: str, division: str, partition: Partition | None, rule: str) -> str:
    """A setting as the key of a table; rule as of `Method`, or `BEST_SEGMENT`."""
    return json.dumps([relation, division, partition and list(partition), rule])


def mean_table(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over images of each setting's value."""
    values: dict[str, list[float]] = defaultdict(list)
    for table in tables:
        for key, value in table.items():
            values[key].append(value)
    return {key: float(np.mean(found)) for key, found in values.items()}


def best_methods(means: Mapping[str, float]) -> list[Method]:
    """For each relation and division the setting with the highest mean."""
    best: dict[tuple[str, str], Method] = {}
    for key, iou in means.items():
        relation, division, partition, rule = json.loads(key)
        if rule == BEST_SEGMENT:
            continue
        method = Method(relation, division, partition and Partition(*partition), rule, iou)
        known = best.get((relation, division))
        if known is None or iou > known.chosen_iou:
            best[relation, division] = method
    order = {division: number for number, division in enumerate(("", *DIVISIONS))}
    relations = list(dict.fromkeys(method.relation for method in best.values()))
    return sorted(best.values(), key=lambda m: (relations.index(m.relation), order[m.division]))
