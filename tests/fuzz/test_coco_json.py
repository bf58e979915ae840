"""Mutated COCO files: a sentence, or dicts of sane values; never another exception.

``D2_MULTITASK_MUTANTS=10000 pytest tests/fuzz`` tries more of them than CI does.
"""

from __future__ import annotations

import math
import random
from typing import Any

from d2_multitask.data.datasets.coco import CocoFormatDataset
from fuzz.mutation import mutated_json, number_of_mutants

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
