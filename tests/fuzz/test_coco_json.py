"""Mutated COCO files: a sentence, or dicts of sane values; never another exception.

``D2_MULTITASK_MUTANTS=10000 pytest tests/fuzz`` tries more of them than CI does.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import MetadataCatalog

from d2_multitask.data.datasets.coco import CocoFormatDataset
from d2_multitask.data.labels.masks import to_rle
from d2_multitask.data.labels.sem_seg import from_source
from d2_multitask.data.problems import DATA_REPORT
from fuzz.mutation import mutated_form, mutated_json, number_of_mutants

MUTANTS = number_of_mutants(400)
HEIGHT, WIDTH = 24, 32
COCO = {
    "images": [
        {"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in (1, 2)
    ],
    "annotations": [
        {
            "id": 11,
            "image_id": 1,
            "category_id": 7,
            "iscrowd": 0,
            "area": 100,
            "bbox": [4, 2, 8, 16],
            "segmentation": [[4, 2, 12, 2, 12, 18, 4, 18]],
            "keypoints": [8, 4, 2, 10, 9, 1, 0, 0, 0],
        },
        {
            "id": 12,
            "image_id": 2,
            "category_id": 7,
            "iscrowd": 1,
            "area": 64,
            "bbox": [20, 4, 8, 8],
            "segmentation": {"size": [HEIGHT, WIDTH], "counts": [484, 8, 16, 8, 252]},
        },
    ],
    "categories": [
        {"id": 7, "name": "person", "keypoints": ["nose", "l", "r"], "skeleton": [[1, 2]]}
    ],
}


def _check(record: dict[str, Any]) -> None:
    assert type(record["image_id"]) in (int, str) and type(record["file_name"]) is str
    assert type(record["height"]) is int and type(record["width"]) is int
    for label in record.get("annotations", ()):
        assert label["iscrowd"] in (0, 1) and type(label["category_id"]) is int
        numbers = [*label["bbox"], label["area"], *label.get("keypoints", ())]
        assert all(type(number) is float and math.isfinite(number) for number in numbers)
        assert min(label["bbox"][2:]) > 0 and label["area"] > 0


def test_mutants_are_a_sentence_or_sane(tmp_path):
    path = tmp_path / "a.json"
    loaded = 0
    for seed in range(MUTANTS):
        path.write_text(mutated_json(random.Random(seed), COCO), encoding="utf-8")
        try:
            records = CocoFormatDataset(f"fuzz_{seed}", str(path), str(tmp_path))()
        except ValueError as error:
            assert str(error).startswith(f"{path}: "), (seed, error)
            continue
        loaded += 1
        for record in records:
            _check(record)
    assert MUTANTS // 4 < loaded < MUTANTS


def _load(content: Any, path: Path, name: str) -> tuple[dict[Any, Any], str]:
    """(image or "names", field) -> value for all that is learnt from a file; and the problems."""
    path.write_text(json.dumps(content), encoding="utf-8")
    DATA_REPORT.clear()
    learnt: dict[Any, Any] = {}
    for record in map(from_source, CocoFormatDataset(name, str(path), str(path.parent))()):
        image = str(record["image_id"])
        for label in record.pop("annotations", ()):
            if "segmentation" in label:
                label["segmentation"] = str(to_rle(label["segmentation"], HEIGHT, WIDTH))
            learnt.update({(image, field): value for field, value in label.items()})
        learnt.update({(image, field): value for field, value in record.items()})
    learnt.update({("names", f): v for f, v in MetadataCatalog.get(name).as_dict().items()})
    del learnt["names", "name"]
    return learnt, DATA_REPORT.summary()


def _are_numbers(value: Any) -> bool:
    return type(value) is list and all(type(v) in (int, float) and math.isfinite(v) for v in value)


def _as_written(field: str, value: Any) -> Any:
    """What a field of an annotation says, read by other code; ``None`` if nothing, or if odd."""
    if field == "bbox" and _are_numbers(value) and len(value) == 4:
        low = np.maximum(value[:2], 0)
        high = np.minimum(np.add(value[:2], value[2:]), (WIDTH, HEIGHT))
        return [*low.tolist(), *(high - low).tolist()]
    if field == "keypoints" and _are_numbers(value) and len(value) == 9:
        joints = np.array(value, dtype=float).reshape(3, 3)
        return ((joints + [0.5, 0.5, 0]) * (joints[:, 2:] > 0)).ravel().tolist()
    if field == "area" and _are_numbers([value]):
        return value
    if field == "iscrowd" and value in (None, 0, 1):
        return int(value or 0)
    if field == "segmentation" and type(value) is list and all(map(_are_numbers, value)) and value:
        polygons = [list(map(float, polygon)) for polygon in value]
        return str(mask_util.merge(mask_util.frPyObjects(polygons, HEIGHT, WIDTH)))
    if field == "segmentation" and type(value) is dict and _are_numbers(value.get("counts")):
        return str(mask_util.frPyObjects(value, HEIGHT, WIDTH))
    return None


def _is_said(content: Any, place: Any, found: dict[Any, Any], whole: dict[Any, Any]) -> bool:
    """Whether what differs is what the changed file says at that place, in plain values."""
    changed = {key for key in {*found, *whole} if found.get(key) != whole.get(key)}
    top, index, field = (*place, None, None)[:3]
    if field is None:  # entries or lists of them are gone: nothing else may change
        gone = {key for key in whole if key not in found}
        fewer = top not in content or len(content[top]) < len(COCO[top])
        return fewer and changed <= gone
    entry = content[top][index]
    value = entry.get(field)
    if top == "annotations":
        image = str(entry["image_id"])
        if field in ("segmentation", "keypoints") and value in (None, [], {}):
            return changed == {(image, field)} and (image, field) not in found
        if field == "image_id" and type(value) in (int, float) and value in (1, 2):
            return True  # both objects are one image's
        if field == "area" and value is None:
            return changed <= {(image, field)}
        written = _as_written(field, value)
        return changed == {(image, field)} and found.get((image, field)) == written is not None
    if top == "images" and field in ("height", "width"):  # what is cut then is counted
        return type(value) in (int, float) and found[str(entry["id"]), field] == value
    if top == "images":
        return type(value) is str and changed == {(str(entry["id"]), field)}
    names = value if field == "keypoints" else [value]
    if field == "skeleton":
        return changed == {("names", "keypoint_connection_rules")} and (
            value in (None, []) or [e for e in value if _are_numbers(e)] == value
        )
    return all(type(name) is str for name in names) and {key[0] for key in changed} == {"names"}


def test_no_form_has_another_meaning_in_silence(tmp_path):
    """A changed file is refused, or means the same, or says so: in its values or in a problem."""
    path = tmp_path / "a.json"
    whole, problems = _load(COCO, path, "whole")
    assert not problems
    silent = {}
    for seed in range(MUTANTS):
        content, place = mutated_form(random.Random(seed), COCO)
        try:
            found, problems = _load(content, path, f"form_{seed}")
        except ValueError as error:
            assert str(error).startswith(f"{path}: "), (seed, error)
            continue
        named = [step for step in ("image_id", *place) if f"'{step}'" in problems]
        if found != whole and not named and not _is_said(content, place, found, whole):
            silent[seed] = place, problems
    assert not silent
