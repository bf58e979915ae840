"""Labels that are lines: boundary maps, and occlusion fragments, which say who is in front.

Boundaries stay lines, one pixel thin, whatever the scale of the image. Nearest-neighbor resizing,
right for regions, would break lines when an image shrinks and thicken them when it grows.

An occlusion fragment is a chain of pixels in the order of travel, with a label: 1 = the object in
front (the occluder) is on the left of travel, 2 = on the right. Left and right are those of the
image, y down: for the direction of travel (x, y), left is (y, -x). A mirrored image therefore swaps
the labels.

Letters: n points, f fragments. Coordinates are continuous pixels (x, y).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from torch import Tensor

from d2_multitask.data.labels.base import (
    Label,
    MapLabel,
    Record,
    as_tensor,
    is_mirrored,
    name_of,
    size_of,
)
from d2_multitask.data.labels.masks import decode, rle_or_report
from d2_multitask.data.problems import DATA_REPORT, ProblemReport

LEFT, RIGHT = 1, 2

# Direction of travel at a point: from 3 points before it to 3 points after it, 7 pixels in all, as
# the dataset's own drawing code estimates it.
_REACH = 3

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
        rle = rle_or_report(
            record["boundary_segmentation"],
            *size_of(record),
            report,
            f"{name_of(record)}: boundary",
            allow_empty=True,  # an image may show nothing that has a boundary
        )
        return None if rle is None else np.ascontiguousarray(decode(rle)).astype(np.uint8)

    def load(
        self, record: Record, transforms: T.TransformList, image_size: tuple[int, int]
    ) -> Tensor | None:
        """(H, W) int64, the lines drawn anew."""
        boundary = self.read(record)
        return None if boundary is None else as_tensor(transform_boundary(boundary, transforms))


class OcclusionLabel(Label):
    """``occlusion``: (2, H, W) float32, from ``occlusion_fragments``; see `rasterize_fragments`."""

    key = "occlusion"
    description = "occlusion fragments"
    fields = ("occlusion_fragments",)

    def read(self, record: Record, report: ProblemReport = DATA_REPORT) -> np.ndarray | None:
        """At the original size.

        Raises:
            ValueError: an index outside of the image, or labels that do not fit the fragments.
        """
        if not self.has(record):
            return None
        return rasterize_fragments(self._fragments(record), *size_of(record))

    def load(
        self, record: Record, transforms: T.TransformList, image_size: tuple[int, int]
    ) -> Tensor | None:
        """The lines drawn anew, the directions turned and mirrored with the image."""
        if not self.has(record):
            return None
        moved = transform_fragments(self._fragments(record), transforms)
        return torch.from_numpy(rasterize_fragments(moved, *image_size))

    def _fragments(self, record: Record) -> Fragments:
        return read_fragments(record["occlusion_fragments"], *size_of(record), name_of(record))


@dataclass(frozen=True)
class Fragments:
    """The fragments of one image, one after another.

    Attributes:
        points: (n, 2) float64 (x, y), the centres of the pixels.
        fragment: (n,) int64, the fragment of each point, ascending.
        labels: (f,) int64, 1 = occluder on the left, 2 = on the right.
    """

    points: np.ndarray
    fragment: np.ndarray
    labels: np.ndarray

    @property
    def first(self) -> np.ndarray:
        """(n,) index of the first point of each point's fragment."""
        return np.searchsorted(self.fragment, self.fragment, side="left")

    @property
    def last(self) -> np.ndarray:
        """(n,) index of the last point of each point's fragment."""
        return np.searchsorted(self.fragment, self.fragment, side="right") - 1


def read_fragments(
    fragments: Mapping[str, Any], height: int, width: int, where: str = "occlusion_fragments"
) -> Fragments:
    """Fragments of a dataset's dict.

    ``fragments`` holds ``indices``, f sequences of pixel indices, column-major and 0-based
    (index = column * H + row), and ``labels``, f numbers 1 or 2.

    Raises:
        ValueError: an index outside of the image, another label, or another number of them.
    """
    indices, labels = fragments["indices"], np.asarray(fragments["labels"], dtype=np.int64)
    if len(indices) != len(labels):
        raise ValueError(
            f"{where}: occlusion labels: found {len(labels)}, expected {len(indices)}, one for "
            "each fragment"
        )
    if not np.isin(labels, (LEFT, RIGHT)).all():
        raise ValueError(f"{where}: occlusion labels: found {labels.tolist()}, expected 1 or 2")
    lengths = [len(chain) for chain in indices]
    flat = np.concatenate([np.zeros(0, np.int64), *map(np.asarray, indices)]).astype(np.int64)
    if len(flat) and not 0 <= flat.min() <= flat.max() < height * width:
        raise ValueError(
            f"{where}: occlusion indices: found {flat.min()}..{flat.max()}, expected 0.."
            f"{height * width - 1} for {width}x{height} pixels"
        )
    points = np.stack([flat // height, flat % height], axis=1) + 0.5
    return Fragments(points, np.repeat(np.arange(len(lengths)), lengths), labels)


def transform_fragments(
    fragments: Fragments, transforms: T.Transform | T.TransformList
) -> Fragments:
    """Move the points as the image was moved; labels are swapped if the image was mirrored."""
    points = fragments.points
    if len(points):
        points = np.asarray(transforms.apply_coords(points.copy()), dtype=np.float64)
    labels = fragments.labels
    if is_mirrored(transforms):
        labels = LEFT + RIGHT - labels
    return Fragments(points, fragment=fragments.fragment, labels=labels)


def occluder_directions(fragments: Fragments) -> np.ndarray:
    """Unit vectors from each point to the occluder.

    Returns:
        (n, 2) float64 (x, y), y down; (0, 0) where a fragment of one point, or one that turns back
        on itself, has no direction of travel.
    """
    index = np.arange(len(fragments.points))
    before = np.maximum(index - _REACH, fragments.first)
    after = np.minimum(index + _REACH, fragments.last)
    travel = fragments.points[after] - fragments.points[before]
    side = np.where(fragments.labels == LEFT, 1.0, -1.0)[fragments.fragment]
    return _unit(np.stack([travel[:, 1], -travel[:, 0]], axis=1) * side[:, None])


def rasterize_fragments(fragments: Fragments, height: int, width: int) -> np.ndarray:
    """Draw the fragments as lines without gaps, also if the image was enlarged.

    Where fragments share a pixel, the directions are averaged.

    Returns:
        (2, H, W) float32: the unit vector (x, y) to the occluder at the fragments' pixels, zeros
        elsewhere. What lies outside of the image is left out.
    """
    directions = occluder_directions(fragments)
    field = np.zeros((2, height, width))
    index = np.arange(len(directions))
    ends = np.minimum(index + 1, fragments.last)
    xy, start = walk_segments(fragments.points, fragments.points[ends])
    columns, rows, inside = _pixels(xy, height, width)
    for axis in range(2):
        np.add.at(field[axis], (rows, columns), directions[start[inside], axis])
    flat = _unit(field.reshape(2, -1).T).T
    return flat.reshape(2, height, width).astype(np.float32)


def walk_segments(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points on segments, at most a pixel apart along x and y, without the segments' ends.

    Args:
        starts: (n, 2) xy.
        ends: (n, 2) xy; a segment of length 0 gives its start.

    Returns:
        (m, 2) xy, and (m,) the segment that each belongs to.
    """
    steps = np.maximum(np.ceil(np.abs(ends - starts).max(axis=1, initial=0.0)), 1).astype(np.int64)
    segment = np.repeat(np.arange(len(starts)), steps)
    offset = np.arange(len(segment)) - np.repeat(np.cumsum(steps) - steps, steps)
    fraction = (offset / steps[segment])[:, None]
    return starts[segment] + fraction * (ends - starts)[segment], segment


def draw_points(canvas: np.ndarray, xy: np.ndarray, value: int) -> None:
    """Set the pixels of (n, 2) points in ``canvas`` (H, W), in place, as far as they are inside."""
    columns, rows, _ = _pixels(xy, *canvas.shape)
    canvas[rows, columns] = value


def transform_boundary(
    boundary: np.ndarray, transforms: T.Transform | T.TransformList
) -> np.ndarray:
    """Move a boundary map.

    Values are 1 = boundary, 0 = none, 255 = not labelled.

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


def _pixels(xy: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns and rows of the points inside, and (n,) bool which those are."""
    pixels = np.floor(xy).astype(np.int64)
    inside = ((pixels >= 0) & (pixels < (width, height))).all(axis=1)
    return pixels[inside, 0], pixels[inside, 1], inside


def _unit(vectors: np.ndarray) -> np.ndarray:
    """(n, 2) vectors brought to length 1; those of (nearly) no length become 0."""
    length = np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
    return np.where(length > 1e-6, vectors / np.maximum(length, 1e-6), 0.0)
