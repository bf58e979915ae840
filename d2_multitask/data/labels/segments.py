"""Label maps painted from run-length masks, one id a mask, later masks over earlier ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from d2_multitask.data.labels.masks import MaskError, decode, to_rle
from d2_multitask.data.problems import DATA_REPORT, ProblemReport

SEGMENT_NOT_DECODED = "mask of a label map that cannot be decoded, left out of the map"


def paint_segments(
    segments: Iterable[Mapping[str, Any]],
    height: int,
    width: int,
    background: int,
    *,
    report: ProblemReport = DATA_REPORT,
    where: str = "segments",
) -> np.ndarray:
    """Paint masks in their order.

    Args:
        segments: ``{"category_id": id, "segmentation": COCO mask}`` each; ids in 0..255.
        height: of the image.
        width: of the image.
        background: id of the pixels that no mask covers.
        report: where masks that cannot be decoded are counted.
        where: names the image in such a message.

    Returns:
        (H, W) uint8.

    Raises:
        ValueError: an id does not fit into 8 bits; raw category ids do not, contiguous ones do.
    """
    # Column-major like pycocotools' masks, so that painting runs through both in memory order.
    painted = np.full((height, width), background, dtype=np.uint8, order="F")
    for index, segment in enumerate(segments):
        category_id = segment["category_id"]
        if not 0 <= category_id <= 255:
            raise ValueError(
                f"{where}: segment {index}: category_id: found {category_id}, expected 0 to 255"
            )
        mask = decode_or_report(
            segment["segmentation"], height, width, report, f"{where}: segment {index}"
        )
        if mask is not None:
            painted[mask] = category_id
    return np.ascontiguousarray(painted)


def decode_or_report(
    segmentation: Any,
    height: int,
    width: int,
    report: ProblemReport,
    where: str,
    *,
    allow_empty: bool = False,
) -> np.ndarray | None:
    """A mask (H, W) bool; ``None``, and counted, if it cannot be used."""
    try:
        return decode(to_rle(segmentation, height, width, allow_empty=allow_empty))
    except MaskError as error:
        report.add(SEGMENT_NOT_DECODED, where, str(error))
        return None
