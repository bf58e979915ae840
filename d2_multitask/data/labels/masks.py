"""Object masks as COCO stores them: polygons or run lengths (RLE), checked before they are decoded.

The checks are needed: pycocotools reads uninitialised memory, or never returns, when run lengths do
not add up to the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from d2_multitask.data.problems import DATA_REPORT, ProblemReport, shown

Segmentation = list[list[float]] | dict[str, Any]

# A polygon may leave the image, but pycocotools walks along its whole outline.
_MAX_POLYGON_REACH = 20

SEGMENT_NOT_DECODED = "mask of a label map that cannot be decoded, left out of the map"


class MaskError(ValueError):
    """A mask that cannot be used; says what was found and what was expected."""


def clean_segmentation(
    segmentation: Any, height: int, width: int, *, allow_empty: bool = False
) -> Segmentation:
    """Check a COCO mask.

    Args:
        segmentation: list of polygons ``[x1, y1, x2, y2, ...]`` in pixels, or an RLE dict with
            ``size`` (h, w) and ``counts`` (text, bytes, or a list of run lengths).
        height: of the image.
        width: of the image.
        allow_empty: an RLE without any pixel is a mask, too.

    Returns:
        Polygons without those of fewer than three points, which enclose nothing; or a compressed
        RLE. ``to_rle`` accepts both.

    Raises:
        MaskError: anything else is wrong, or nothing is left.
    """
    if isinstance(segmentation, dict):
        return _clean_rle(segmentation, height, width, allow_empty)
    if not isinstance(segmentation, list | tuple):
        raise MaskError(
            f"found {type(segmentation).__name__}, expected a list of polygons or an RLE dict"
        )
    polygons = [p for p in segmentation if not _is_degenerate(p, height, width)]
    if not polygons:
        raise MaskError("found no polygon of at least three points (six numbers)")
    return polygons


def to_rle(
    segmentation: Any, height: int, width: int, *, allow_empty: bool = False
) -> dict[str, Any]:
    """One compressed RLE for a mask, checked as in ``clean_segmentation``.

    Raises:
        MaskError: the mask cannot be used.
    """
    cleaned = clean_segmentation(segmentation, height, width, allow_empty=allow_empty)
    if isinstance(cleaned, dict):
        return cleaned
    polygons = [list(map(float, p)) for p in cleaned]
    return mask_util.merge(mask_util.frPyObjects(polygons, height, width))


def decode(rle: dict[str, Any]) -> np.ndarray:
    """Checked RLE -> (H, W) bool, in column-major memory as pycocotools makes it."""
    return mask_util.decode(rle).view(bool)


def encode(mask: np.ndarray) -> dict[str, Any]:
    """(H, W) bool -> compressed RLE whose ``counts`` are text, ready for JSON."""
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in mask.shape], "counts": rle["counts"].decode("ascii")}


def mask_box(segmentation: Any, height: int, width: int) -> list[float]:
    """Box (x, y, w, h) around a mask, in pixels.

    Raises:
        MaskError: the mask cannot be used.
    """
    return mask_util.toBbox(to_rle(segmentation, height, width)).tolist()


def mask_area(segmentation: Segmentation) -> float:
    """Area of a mask that ``clean_segmentation`` returned, in pixels.

    Polygons are not drawn, so parts that overlap count twice.
    """
    if isinstance(segmentation, dict):
        return float(mask_util.area(segmentation))
    return sum(_polygon_area(polygon) for polygon in segmentation)


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

    Each has a ``category_id`` in 0..255 and a ``segmentation``, a COCO mask; pixels that no
    mask covers are ``background``. Masks that cannot be decoded are counted.

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
        rle = rle_or_report(
            segment["segmentation"], height, width, report, f"{where}: segment {index}"
        )
        if rle is not None:
            painted[decode(rle)] = category_id
    return np.ascontiguousarray(painted)


def rle_or_report(
    segmentation: Any,
    height: int,
    width: int,
    report: ProblemReport,
    where: str,
    *,
    kind: str = SEGMENT_NOT_DECODED,
    allow_empty: bool = False,
) -> dict[str, Any] | None:
    """`to_rle`; ``None``, and counted as ``kind``, if the mask cannot be used."""
    try:
        return to_rle(segmentation, height, width, allow_empty=allow_empty)
    except MaskError as error:
        report.add(kind, where, str(error))
        return None


def _polygon_area(polygon: list[float]) -> float:
    xs, ys = polygon[0::2], polygon[1::2]
    corners = zip(xs, ys, [*xs[1:], xs[0]], [*ys[1:], ys[0]], strict=True)
    return abs(float(sum(x * next_y - next_x * y for x, y, next_x, next_y in corners))) / 2


def rle_run_lengths(counts: str | bytes) -> np.ndarray:
    """Run lengths of a compressed RLE: absent and present pixels in turn, column by column.

    The format is pycocotools' own: five bits of a number in each character, lowest first, bit 5 set
    when more follow, the last one signed; from the fourth run on, the difference to the run before
    the previous one.

    Returns:
        (number of runs,) int64.

    Raises:
        MaskError: the text ends inside a number, or holds other characters.
    """
    # Half a character, which JSON may hold, is none of COCO's.
    text = counts.encode(errors="surrogatepass") if isinstance(counts, str) else counts
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    if len(codes) == 0 or codes.min() < 0 or codes.max() > 63:
        raise MaskError("found RLE counts that are empty or hold other characters than COCO's")
    ends = np.flatnonzero((codes & 32) == 0)
    if len(ends) == 0 or ends[-1] != len(codes) - 1:
        raise MaskError("found RLE counts that end inside a number")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > 7:
        raise MaskError("found RLE counts with a number of more than 32 bits")
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((codes & 31) << shifts, starts)
    runs -= np.where(codes[ends] & 16, 1 << (5 * lengths), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def _clean_rle(rle: dict[str, Any], height: int, width: int, allow_empty: bool) -> dict[str, Any]:
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        raise MaskError(
            f"found an RLE of size {shown(size)}, expected {[height, width]} (height, width)"
        )
    if isinstance(counts, str | bytes):
        runs = rle_run_lengths(counts)
    else:
        runs = _as_run_lengths(counts, height * width)
    if runs.min() < 0 or runs.sum() != height * width:
        raise MaskError(
            f"found RLE counts for {runs.sum()} pixels, expected {height * width} "
            "and no negative number"
        )
    if runs[1::2].sum() == 0 and not allow_empty:
        raise MaskError("found an RLE without any pixel")
    if isinstance(counts, str | bytes):
        return {"size": [height, width], "counts": counts}
    return mask_util.frPyObjects({"size": [height, width], "counts": counts}, height, width)


def _as_run_lengths(counts: Any, num_pixels: int) -> np.ndarray:
    if not isinstance(counts, list | tuple) or not counts:
        raise MaskError(
            f"found RLE counts of type {type(counts).__name__}, expected text or a list"
        )
    if not all(isinstance(count, int) and not isinstance(count, bool) for count in counts):
        raise MaskError("found RLE counts that are not all integers")
    if min(counts) < 0 or max(counts) > num_pixels:  # before sums that would wrap
        raise MaskError(
            f"found RLE counts from {shown(min(counts))} to {shown(max(counts))}, expected at "
            f"most {num_pixels} and no negative number"
        )
    return np.array(counts, dtype=np.int64)


def _is_degenerate(polygon: Any, height: int, width: int) -> bool:
    """Whether a polygon has fewer than three points; raises MaskError if it is broken."""
    try:
        if isinstance(polygon, dict) or bool in map(type, polygon):
            raise TypeError(f"found {shown(polygon)}")
        finite = math.isfinite(sum(polygon))
        count, low, high = len(polygon), min(polygon, default=0), max(polygon, default=0)
    except (TypeError, OverflowError) as error:
        raise MaskError(f"found a polygon that is not a list of finite numbers: {error}") from error
    if not finite:
        raise MaskError("found a polygon with NaN or an infinite number")
    if count % 2:
        raise MaskError(f"found a polygon of {count} numbers, expected pairs of x and y")
    if max(-low, high) > _MAX_POLYGON_REACH * max(height, width):
        raise MaskError(
            f"found polygon coordinates from {shown(low)} to {shown(high)}, far outside of the "
            f"{width}x{height} image"
        )
    return count < 6
