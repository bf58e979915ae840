"""A report on a file: what it holds, and where it differs from what is known of the dataset.

It settles, for the file at hand, what the published API and papers leave open: types, orders, index
base, what boundaries are drawn around, how joints fit people.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from d2_multitask.data.datasets.pascal_in_detail import LoadedPhase, read_phase
from d2_multitask.data.datasets.pascal_in_detail.annotation_file import (
    AnnotationFile,
    phase_counts,
    read_annotation_file,
)
from d2_multitask.data.datasets.pascal_in_detail.labels import PERSON_CLASS
from d2_multitask.data.datasets.pascal_in_detail.names import (
    CATEGORY_IDS,
    CLASS_ALIASES,
    NUM_KEYPOINTS,
    PART_CLASS_OF_NAME,
    PERSON,
    STUFF_CLASSES,
    THING_CLASSES,
)
from d2_multitask.data.labels.masks import MaskError, to_rle
from d2_multitask.data.problems import ProblemReport
from detail_files.edge_report import boundary_lines, occlusion_lines

KNOWN_SHA1 = {"169325d9f7e9047537fedca7b04de4dddf10b881": "trainval_merged.json"}
EXPECTED_IMAGES = {"train": 4996, "val": 5104}
EXPECTED_PERSON_IMAGES = 3547
# Images of VOC 2010's trainval, 10,103 in all, that PASCAL in Detail does not have.
LEFT_OUT = ("2008_003252.jpg", "2010_001592.jpg", "2010_001606.jpg")

_TASKS = {
    "objects": "annotations",
    "semantic map": "sem_seg_segments",
    "human parts": "part_seg_segments",
    "boundary": "boundary_segmentation",
    "occlusion": "occlusion_fragments",
    "image labels": "image_labels",
}
_KNOWN_KEYS = frozenset(
    ("id", "image_id", "category_id", "iscrowd", "area", "bbox", "segmentation", "parts")
)


def validate_file(annotation_file: str | Path, image_root: str | Path | None = None) -> str:
    """Read a file and describe it.

    Args:
        annotation_file: in PASCAL in Detail's layout.
        image_root: folder of the images, to say which are not there; ``None`` does not look.

    Returns:
        The report, lines of text; what needs attention is marked with "!".

    Raises:
        ValueError: the file cannot be used at all.
    """
    path = Path(annotation_file)
    file = read_annotation_file(str(path))
    problems = file.problems[:]
    file.problems.clear()
    loaded = {}
    for phase in phase_counts(file):
        if phase != "test":
            loaded[phase] = read_phase(file, str(image_root or ""), phase)
            problems += loaded[phase].problems
    sections: list[tuple[str, Iterable[str]]] = [
        ("File", _file_lines(path, file)),
        ("Images", _image_lines(file, loaded, image_root)),
        ("Labels", _task_lines(loaded)),
        ("Classes", _class_lines(file, loaded)),
        ("Masks", _mask_lines(file)),
        ("Parts", _part_lines(file)),
        ("Joints", _joint_lines(file, loaded)),
        ("Boundaries", boundary_lines(loaded)),
        ("Occlusion", occlusion_lines(file, loaded)),
    ]
    lines = []
    for title, content in sections:
        lines += [title, *(f"  {line}" for line in content)]
    lines += ["Problems", *_problem_lines(problems)]
    return "\n".join(lines)


def _file_lines(path: Path, file: AnnotationFile) -> Iterator[str]:
    digest = hashlib.sha1(usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    known = KNOWN_SHA1.get(digest.hexdigest())
    yield f"{path}, {path.stat().st_size / 1e6:.1f} MB"
    yield f"sha1 {digest.hexdigest()}: {f'known, {known}' if known else '! not a known one'}"
    info = file.content.get("info")
    if isinstance(info, dict):
        yield ", ".join(f"{k} {info[k]}" for k in ("description", "version", "year") if k in info)
    sizes = {k: len(v) for k, v in file.content.items() if isinstance(v, list)}
    yield "lists: " + ", ".join(f"{key} {size}" for key, size in sizes.items())


def _image_lines(
    file: AnnotationFile, loaded: dict[str, LoadedPhase], image_root: str | Path | None
) -> Iterator[str]:
    counts = phase_counts(file)
    for phase, count in counts.items():
        expected = EXPECTED_IMAGES.get(phase)
        note = "" if count == expected else f" (! the dataset has {expected})" if expected else ""
        yield f"phase {phase}: {count} images{note}"
    records = [record for phase in loaded.values() for record in phase.dataset_dicts]
    people = sum(PERSON_CLASS in record.get("image_labels", ()) for record in records)
    note = "" if people == EXPECTED_PERSON_IMAGES else f" (! {EXPECTED_PERSON_IMAGES} expected)"
    yield f"with category person: {people}{note}"
    sizes = Counter((record["width"], record["height"]) for record in records)
    common = ", ".join(f"{w}x{h} ({n})" for (w, h), n in sizes.most_common(4))
    yield f"most common sizes: {common}"
    if image_root is not None:
        folder = Path(image_root)
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        names = {Path(record["file_name"]).name for record in records}
        missing = sorted(names - there)
        example = f" (! the first: {missing[0]})" if missing else ""
        yield f"image files that are not in {folder}: {len(missing)}{example}"
        left_out = [name for name in LEFT_OUT if name in there and name not in names]
        if left_out:
            yield f"there, and left out by the dataset as known: {', '.join(left_out)}"


def _task_lines(loaded: dict[str, LoadedPhase]) -> Iterator[str]:
    for phase, part in loaded.items():
        records = part.dataset_dicts
        counts = {task: sum(key in r for r in records) for task, key in _TASKS.items()}
        objects = [a for r in records for a in r.get("annotations", ())]
        joints = sum(any(a.get("keypoints", ())) for a in objects)
        text = ", ".join(f"{task} {count}" for task, count in counts.items())
        yield f"{phase}: images with {text}; {len(objects)} objects, {joints} of them with joints"


def _class_lines(file: AnnotationFile, loaded: dict[str, LoadedPhase]) -> Iterator[str]:
    listed = [c.get("name") for c in file.content["categories"] if isinstance(c, dict)]
    same = listed == list(STUFF_CLASSES)
    yield f"{len(listed)} categories, " + ("in the known order" if same else "! in another order")
    missing = sorted(set(STUFF_CLASSES) - {STUFF_CLASSES[i] for i in file.classes.values()})
    if missing:
        yield f"! classes that are not listed: {', '.join(missing)}"
    entries = [c for c in file.content["categories"] if isinstance(c, dict)]
    kinds = Counter(type(c.get("onlysemantic")).__name__ for c in entries)
    yield f"type of onlysemantic: {dict(kinds)}"
    odd = [str(c.get("name")) for c in entries if _is_thing(c) == bool(c.get("onlysemantic"))]
    yield f"false for the 20 classes alone: {f'! not for {odd}' if odd else True}"
    for phase, part in loaded.items():
        objects = Counter(
            THING_CLASSES[a["category_id"]]
            for record in part.dataset_dicts
            for a in record.get("annotations", ())
        )
        images = Counter(
            STUFF_CLASSES[i] for r in part.dataset_dicts for i in r.get("image_labels", ())
        )
        yield f"{phase}, objects: " + _sorted_counts(objects)
        yield f"{phase}, images with class: " + _sorted_counts(images)


def _is_thing(category: dict[str, Any]) -> bool:
    name = str(category.get("name"))
    return CLASS_ALIASES.get(name, name) in THING_CLASSES


def _mask_lines(file: AnnotationFile) -> Iterator[str]:
    entries = [_plain(entry) for _, entry in file.entries("annos_segmentation")]
    ids = [entry["id"] for entry in entries if isinstance(entry.get("id"), int)]
    order = "ascending" if ids == sorted(ids) else "not ascending"
    yield f"{len(entries)} masks, ids {min(ids, default=None)}..{max(ids, default=None)}, {order}"
    things = {CATEGORY_IDS[name] for name in THING_CLASSES}
    crowds = Counter(bool(e.get("iscrowd")) for e in entries if e.get("category_id") in things)
    stuff = Counter(bool(e.get("iscrowd")) for e in entries if e.get("category_id") not in things)
    yield f"of the 20 classes: {crowds[False]} instances, {_mark(crowds[True])} crowds"
    yield f"of the other classes: {stuff[True]} crowds, {_mark(stuff[False])} instances"
    numbered = [e for e in entries if isinstance(e.get("id"), int)]
    stuff_ids = [e["id"] for e in numbered if e.get("category_id") not in things]
    thing_ids = [e["id"] for e in numbered if e.get("category_id") in things]
    if stuff_ids and thing_ids:
        after = max(stuff_ids) < min(thing_ids)
        yield f"ids of instances come after those of stuff: {after}"
    yield f"images in whose list stuff follows an instance: {_num_interleaved(entries, things)}"
    with_parts = sum(bool(e.get("parts")) for e in entries if e.get("category_id") not in things)
    with_key = sum("parts" in e for e in entries if e.get("category_id") not in things)
    yield f"masks of stuff that have parts: {_mark(with_parts)}; that have the key: {with_key}"
    broken, wrong_area, wrong_box = _check_masks(file, entries)
    yield f"masks that cannot be decoded: {_mark(broken)}"
    yield f"area differs from the mask: {_mark(wrong_area)}; box differs: {_mark(wrong_box)}"
    unknown = Counter(itertools.chain.from_iterable(set(e) - _KNOWN_KEYS for e in entries))
    yield f"unknown keys: {dict(unknown) or 'none'}"


def _num_interleaved(entries: Sequence[dict[str, Any]], things: set[int]) -> int:
    """Images that are not painted stuff first."""
    with_instance: set[int] = set()
    interleaved: set[int] = set()
    for entry in entries:
        if entry.get("category_id") in things:
            with_instance.add(entry["image_id"])
        elif entry["image_id"] in with_instance:
            interleaved.add(entry["image_id"])
    return len(interleaved)


def _check_masks(file: AnnotationFile, entries: Sequence[dict[str, Any]]) -> tuple[int, int, int]:
    broken = wrong_area = wrong_box = 0
    for entry in entries:
        image = file.images[entry["image_id"]]
        try:
            rle = to_rle(entry.get("segmentation"), image["height"], image["width"])
        except MaskError:
            broken += 1
            continue
        wrong_area += entry.get("area") != int(mask_util.area(rle))
        wrong_box += entry.get("bbox") != mask_util.toBbox(rle).tolist()
    return broken, wrong_area, wrong_box


def _part_lines(file: AnnotationFile) -> Iterator[str]:
    parts = [_plain(p) for p in file.content.get("parts") or () if isinstance(p, dict)]
    yield f"{len(parts)} parts"
    names = {p.get("part_id"): p.get("name") for p in parts}
    missing = sorted(set(PART_CLASS_OF_NAME) - set(names.values()))
    yield f"human parts that are not listed: {', '.join(missing) or 'none'}"
    yield f"name of part 29: {names.get(29)}"
    yield f"superparts: {_sorted_counts(Counter(str(p.get('superpart')) for p in parts))}"
    used: Counter[Any] = Counter()
    people = without = 0
    for _, entry in file.entries("annos_segmentation"):
        if entry.get("category_id") != CATEGORY_IDS[PERSON]:
            continue
        listed = entry.get("parts")
        listed = listed if isinstance(listed, list) else []
        given = [_plain(p).get("part_id") for p in listed if isinstance(p, dict)]
        people, without = people + 1, without + (not set(given) - {255})
        used.update(names.get(part_id, f"id {part_id}") for part_id in given)
    yield f"people: {people}, of them without part masks: {without}"
    yield f"parts of people: {_sorted_counts(used)}"


def _joint_lines(file: AnnotationFile, loaded: dict[str, LoadedPhase]) -> Iterator[str]:
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


def _problem_lines(problems: Sequence[Any]) -> list[str]:
    report = ProblemReport(max_logged=1)
    for problem in problems:
        report.merge([problem])
    return report.summary().splitlines() or ["  none"]


def _sorted_counts(counts: Counter[Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common()) or "none"


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry whose ids and names are numbers or text; others, such as lists, are left out."""
    keys = ("id", "category_id", "part_id", "name")
    wrong = [key for key in keys if not isinstance(entry.get(key, 0), int | str)]
    return {k: v for k, v in entry.items() if k not in wrong} if wrong else entry


def _mark(count: int) -> str:
    return f"! {count}" if count else "0"
