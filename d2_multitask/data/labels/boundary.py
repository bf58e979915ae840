"""Boundary maps: lines stay lines, one pixel thin, whatever the scale of the image.

Nearest-neighbor resizing, right for regions, would break lines when an image shrinks and thicken
them when it grows.
"""

from __future__ import annotations

import numpy as np
from detectron2.data import transforms as T
from torch import Tensor

from d2_multitask.data.labels.base import (
    MapLabel,
    Record,
    as_tensor,
    name_of,
    size_of,
)
from d2_multitask.data.labels.masks import decode_or_report
from d2_multitask.data.labels.occlusion import draw_points, walk_segments
from d2_multitask.data.problems import DATA_REPORT, ProblemReport

# A pixel and its neighbors to the right, below, and on both lower diagonals (rows, columns): each
# pair of neighbors once.
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))


class BoundaryLabel(MapLabel):
    """``boundary``: 1 = boundary, 0 = none, 255 = not labelled.

    From ``boundary_segmentation`` (a run-length mask) or ``boundary_file_name``.
    """

    key = "boundary"
    description = "boundary maps"
    fields = ("boundary_segmentation", "boundary_file_name")

    def __init__(self) -> None:
        super().__init__(num_classes=2)

    def read(self, record: Record, report: ProblemReport = DATA_REPORT) -> np.ndarray | None:
        """See `MapLabel`."""
        if "boundary_file_name" in record or "boundary_segmentation" not in record:
            return super().read(record, report)
        mask = decode_or_report(
            record["boundary_segmentation"],
            *size_of(record),
            report,
            f"{name_of(record)}: boundary",
            allow_empty=True,  # an image may show nothing that has a boundary
        )
        return None if mask is None else np.ascontiguousarray(mask).astype(np.uint8)

    def load(
        self, record: Record, transforms: T.TransformList, image_size: tuple[int, int]
    ) -> Tensor | None:
        """(H, W) int64, the lines drawn anew."""
        boundary = self.read(record)
        return None if boundary is None else as_tensor(transform_boundary(boundary, transforms))


def boundary_map(record: Record, report: ProblemReport = DATA_REPORT) -> np.ndarray | None:
    """(h, w) uint8 at the original size, see `BoundaryLabel`; ``None`` if there is none."""
    return BoundaryLabel().read(record, report)


def transform_boundary(
    boundary: np.ndarray, transforms: T.Transform | T.TransformList
) -> np.ndarray:
    """Move a boundary map.

    Args:
        boundary: (h, w) uint8, 1 = boundary, 0 = none, 255 = not labelled.
        transforms: what was done to the image.

    Returns:
        (H, W) uint8, the same values. Neighboring boundary pixels are joined by straight lines in
        the new frame.
    """
    is_line = boundary == 1
    moved = np.where(is_line, 0, boundary).astype(np.uint8)
    moved = np.array(transforms.apply_segmentation(moved))  # may come read-only
    starts, ends = _segments(is_line)
    if len(starts):
        starts, ends = (np.asarray(transforms.apply_coords(p), np.float64) for p in (starts, ends))
        draw_points(moved, walk_segments(starts, ends)[0], 1)
    return moved


def _segments(is_line: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of a map (h, w) joined with their neighbors: (n, 2) starts and ends, xy of centres.

    Every pixel is also a segment of its own. Diagonal neighbors are joined only where no path over
    a shared neighbor joins them, or corners would be cut.
    """
    rows, columns = np.nonzero(is_line)
    all_rows, all_columns = [(rows, rows)], [(columns, columns)]
    padded = np.pad(is_line, ((0, 1), (1, 1)))
    for down, right in _NEIGHBOURS:
        joined = padded[rows + down, columns + right + 1]
        if down and right:
            joined = joined & ~padded[rows + 1, columns + 1] & ~padded[rows, columns + right + 1]
        all_rows.append((rows[joined], rows[joined] + down))
        all_columns.append((columns[joined], columns[joined] + right))
    return tuple(
        np.stack(
            [
                np.concatenate([pair[end] for pair in all_columns]) + 0.5,
                np.concatenate([pair[end] for pair in all_rows]) + 0.5,
            ],
            axis=1,
        )
        for end in range(2)
    )
