"""Human parts, such as head and torso, for each pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from d2_multitask.data.labels.base import IGNORE_VALUE, Label, MapLabel, Record
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
    is_mirrored = False  # training images may be

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Label:
        """See `Label`."""
        label = super().from_config(cfg)
        label.is_mirrored = cfg.INPUT.RANDOM_FLIP != "none"
        return label

    def check_classes(self, name: str, records: Sequence[Record]) -> None:
        """Also no part has a side if images are mirrored: ids do not change sides."""
        super().check_classes(name, records)
        names = MetadataCatalog.get(name).get(self.names_key) or ()
        sides = [x for x in names if "left" in x and x.replace("left", "right") in names]
        if sides and self.is_mirrored:
            raise ValueError(
                f"Dataset {name!r}: part_classes: found {sides} beside their right sides, expected "
                "one class for both sides, because training images are mirrored: give both the "
                "same id with PART_SEG_IDS, or set INPUT.RANDOM_FLIP to 'none'"
            )


def part_seg_map(
    record: Mapping[str, Any],
    report: ProblemReport = DATA_REPORT,
    num_classes: int = IGNORE_VALUE,
) -> np.ndarray | None:
    """(h, w) uint8 at the original size, see `PartSegLabel`; ``None`` if there is none."""
    return PartSegLabel(num_classes).read(record, report)
