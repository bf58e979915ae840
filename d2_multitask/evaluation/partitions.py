"""Segmentations against those of several people: BSDS500's benchmark of regions and boundaries.

An image is divided at several levels, from fine to coarse or in any order: thresholds of an
ultrametric contour map, or other settings of a method. Letters: L levels, N images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from d2_multitask.data.datasets.bsds500 import Partition, read_mat
from d2_multitask.evaluation.boundary.precision_recall import (
    MultiLabelMatcher,
    PixelCounts,
    summarize,
)
from d2_multitask.evaluation.regions import (
    best_overlaps,
    boundary_of,
    rand_index,
    shared_pixels,
    variation_of_information,
)

MAX_DISTANCE = 0.0075  # BSDS': of matched boundary pixels, as a share of the image's diagonal


class PartitionCounts(NamedTuple):
    """What `measure_partitions` counts of one image.

    Attributes:
        labelled_area: pixels of the image times the number of people.
        covered: (L,) sum over all people's regions, of size times IoU with the best segment.
        best_covered: the same with the best segment of any level.
        rand_index: (L,) mean over people.
        variation: (L,) of information, mean over people, bits.
        boundary: (4, L) boundary pixels, the fields of `PixelCounts`.
    """

    labelled_area: int
    covered: np.ndarray
    best_covered: float
    rand_index: np.ndarray
    variation: np.ndarray
    boundary: np.ndarray


def measure_partitions(
    levels: Iterable[np.ndarray | Partition],
    people: Sequence[Partition],
    max_distance: float = MAX_DISTANCE,
) -> PartitionCounts:
    """Compare the levels of one image with how people divided it.

    Args:
        levels: label maps (H, W), integers >= 0; or with boundaries that are not those of the
            label map.
        people: the ground truth, see `read_partitions`.
        max_distance: of matched boundary pixels, as a share of the image's diagonal.

    Raises:
        ValueError: a level has another shape than the ground truth, or there is none.
    """
    matcher = MultiLabelMatcher([person.boundary for person in people], max_distance)
    columns: list[tuple[Any, ...]] = []
    last: Partition | None = None
    for level in levels:
        part = level if isinstance(level, Partition) else Partition(level, boundary_of(level))
        if last is None or not all(map(np.array_equal, part, last)):  # else the same numbers
            regions = _regions(part.segments, people)
            columns.append((*regions, matcher.count(part.boundary)))
        else:
            columns.append(columns[-1])
        last = part
    if not columns:
        raise ValueError("levels: found none, expected at least one segmentation")
    overlaps, rand, variation, boundary = map(np.array, zip(*columns, strict=True))
    whole = [(np.zeros_like(person.segments), person.segments) for person in people]
    areas = np.concatenate([shared_pixels(*pair)[0] for pair in whole])
    return PartitionCounts(
        labelled_area=int(areas.sum()),
        covered=overlaps @ areas,
        best_covered=float(overlaps.max(axis=0) @ areas),
        rand_index=rand,
        variation=variation,
        boundary=boundary.T,
    )


def _regions(segments: np.ndarray, people: Sequence[Partition]) -> tuple[np.ndarray, float, float]:
    """Best IoU of each region of each person; mean Rand index and variation of information."""
    tables = [shared_pixels(segments, person.segments) for person in people]
    return (
        np.concatenate([best_overlaps(table) for table in tables]),
        float(np.mean([rand_index(table) for table in tables])),
        float(np.mean([variation_of_information(table) for table in tables])),
    )


def summarize_partitions(images: Sequence[PartitionCounts]) -> dict[str, float]:
    """The benchmark's numbers, in 0-100; the variation of information in bits, less is better.

    ``ODS``: one level for all images; ``OIS``: the best of each image.

    - ``covering-ODS``, ``-OIS``, ``-best``: of the people's regions by segments, over the pixels of
      all images and people; "best": each region by the best segment of any level;
    - ``PRI-ODS``, ``-OIS``: probabilistic Rand index, mean over images; ``VI-ODS``, ``-OIS``:
      variation of information;
    - ``boundary-ODS-F``, ``-OIS-F``, ``-AP``: see `summarize`.

    Raises:
        ValueError: there is no image, or images have different numbers of levels.
    """
    numbers = sorted({len(image.covered) for image in images})
    if len(numbers) != 1:
        raise ValueError(f"levels: found {numbers} of different images, expected one number")
    area = sum(image.labelled_area for image in images)
    covered, rand, variation = (
        np.stack([getattr(image, field) for image in images])  # (N, L)
        for field in ("covered", "rand_index", "variation")
    )
    boundary = PixelCounts(*np.stack([image.boundary for image in images], axis=1))
    return {
        "covering-ODS": 100 * float(covered.sum(axis=0).max()) / area,
        "covering-OIS": 100 * float(covered.max(axis=1).sum()) / area,
        "covering-best": 100 * sum(image.best_covered for image in images) / area,
        "PRI-ODS": 100 * float(rand.mean(axis=0).max()),
        "PRI-OIS": 100 * float(rand.max(axis=1).mean()),
        "VI-ODS": float(variation.mean(axis=0).min()),
        "VI-OIS": float(variation.min(axis=1).mean()),
        **{f"boundary-{name}": value for name, value in summarize(boundary).items()},
    }


def grid(number: int, shape_hw: tuple[int, int]) -> np.ndarray:
    """``number`` x ``number`` rectangles as a label map."""
    rows, columns = (np.arange(side) * number // side for side in shape_hw)
    return rows[:, None] * number + columns


def contour_map_levels(ucm2: np.ndarray, thresholds: Iterable[float]) -> Iterator[Partition]:
    """Segments and boundaries of an ultrametric contour map at each threshold.

    Args:
        ucm2: (2 H + 1, 2 W + 1) in [0, 1], strength of the line between pixels, which are at the
            odd places; zero at the pixels themselves.
        thresholds: lines above it separate; lines at or above it are boundaries, as in BSDS.
    """
    strength = ucm2[2::2, 2::2]
    for threshold in thresholds:
        connected = (ucm2 <= threshold).astype(np.uint8)
        _, labels = cv2.connectedComponents(connected, connectivity=8, ltype=cv2.CV_32S)
        yield Partition(labels[1::2, 1::2], strength >= threshold)


def read_levels(file: str | Path, thresholds: Sequence[float]) -> Iterable[np.ndarray | Partition]:
    """The levels in a MATLAB file as the BSDS benchmark takes them.

    Args:
        file: with an ultrametric contour map ``ucm2``, or a cell ``segs`` of label maps.
        thresholds: of contour maps.

    Raises:
        ValueError: the file is missing or damaged, or holds something else; names it.
    """
    found = read_mat(file)
    if "ucm2" in found:
        ucm2 = np.asarray(found["ucm2"], np.float64)
        if ucm2.ndim != 2 or not all(side % 2 and side > 1 for side in ucm2.shape):
            raise ValueError(
                f"{file}: ucm2: found shape {ucm2.shape}, expected (2 H + 1, 2 W + 1) of the image"
            )
        return contour_map_levels(ucm2, thresholds)
    if "segs" in found and found["segs"].dtype == object:
        return [np.asarray(level).astype(np.int64) for level in found["segs"].ravel()]
    raise ValueError(
        f"{file}: found the variables {sorted(found)}, expected a contour map 'ucm2', or a cell "
        "'segs' of label maps"
    )
