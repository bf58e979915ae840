"""Human parts, such as head and torso, for each pixel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from d2_multitask.data.labels.base import IGNORE_VALUE, MapLabel
from d2_multitask.data.problems import DATA_REPORT, ProblemReport


class PartSegLabel(MapLabel):
    """``part_seg``: 0 = background, 255 = not labelled (a person without parts)."""

    key = "part_seg"
    description = "human parts"
    fields = ("part_seg_file_name", "part_seg_segments")
    names_key = "part_classes"
    size_key = "MODEL.PARTS_HEAD.NUM_CLASSES"
    # Images without people are common.
    one_class_is_odd: ClassVar[bool] = False
    # A mirrored image needs no exchange of ids: each part holds left and right alike.


def part_seg_map(
    record: Mapping[str, Any],
    report: ProblemReport = DATA_REPORT,
    num_classes: int = IGNORE_VALUE,
) -> np.ndarray | None:
    """(h, w) uint8 at the original size, see `PartSegLabel`; ``None`` if there is none."""
    return PartSegLabel(num_classes).read(record, report)
