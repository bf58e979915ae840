"""What a file's joints look like: codes, coordinate base, and how they fit the people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from d2_multitask.data.datasets.pascal_in_detail.annotation_file import AnnotationFile
from d2_multitask.data.datasets.pascal_in_detail.loader import LoadedPhase
from d2_multitask.data.datasets.pascal_in_detail.names import NUM_KEYPOINTS


def joint_lines(file: AnnotationFile, loaded: dict[str, LoadedPhase]) -> Iterator[str]:
    """Lines of the report."""
    if "annos_joints" not in file.content:
        yield "none: the file is of the kind of trainval_merged.json"
        return
    points, sizes, person_ids = [], [], []
    for _, entry in file.entries("annos_joints"):
        joints = entry.get("keypoints")
        person_ids.append(entry.get("person_id"))
        if not isinstance(joints, list) or len(joints) != 3 * NUM_KEYPOINTS:
            continue
        if not all(isinstance(value, int | float) and abs(value) < 1e9 for value in joints):
            continue
        image = file.images[entry["image_id"]]
        points.append(np.array(joints, dtype=np.float64).reshape(-1, 3))
        sizes.append((image["width"], image["height"]))
    yield f"{len(person_ids)} skeletons, {len(points)} of them with 42 numbers"
    is_count = person_ids == list(range(1, len(person_ids) + 1))
    yield f"person_id counts from 1 in list order: {is_count}"
    for phase, part in loaded.items():
        yield f"{phase}: {part.matches}"
    if points:
        yield from _coordinate_lines(np.stack(points), np.array(sizes))


def _coordinate_lines(points: np.ndarray, sizes: np.ndarray) -> Iterator[str]:
    """``points`` (n, 14, 3), ``sizes`` (n, 2) width and height."""
    codes = Counter(points[..., 2].ravel().tolist())
    text = ", ".join(f"{int(code)}: {count}" for code, count in sorted(codes.items()))
    yield f"visibility codes (1 = visible, 2 = occluded): {text}"
    labelled = points[..., 2] > 0
    xy = points[..., :2]
    zero = (xy[~labelled] == 0).all() if (~labelled).any() else True
    yield f"joints that are not labelled are at (0, 0): {bool(zero)}"
    low = xy[labelled].min() if labelled.any() else float("nan")
    beyond = (xy > sizes[:, None] - 1).any(axis=-1) & labelled
    least = f"smallest coordinate {low:g}, {beyond.sum()} joints beyond the last pixel's index"
    yield f"{least} (smallest >= 1 and some beyond would mean that they count from 1)"
