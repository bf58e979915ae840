"""Mutated COCO files: a sentence, or dicts of sane values; never another exception.

``D2_MULTITASK_MUTANTS=10000 pytest tests/fuzz`` tries more of them than CI does.
"""

from __future__ import annotations

import copy
import json
import math
import os
import random
from typing import Any

from d2_multitask.data.coco_format import CocoFormatDataset

MUTANTS = int(os.environ.get("D2_MULTITASK_MUTANTS", "400"))
HEIGHT, WIDTH = 24, 32
VALUES = [
    *(None, True, False, 0, 1, -1, 1.0, 0.5, 7, 1e18, 10**60, 10**400, -(10**400)),
    *(float("nan"), float("inf"), "", "0", "1", "true", "NaN", "5", "\ud800", "a.png"),
    *([], [None], [[]], [[1]], {}, {"id": 1}, [1, 2, 3, 4], [[8, 4, 2], [10, 9, 1], [0, 0, 0]]),
]
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


def _places(value: Any) -> list[tuple[Any, Any]]:
    """All (container, key) of a JSON."""
    if not isinstance(value, dict | list):
        return []
    keys = value if isinstance(value, dict) else range(len(value))
    return [place for key in keys for place in [(value, key), *_places(value[key])]]


def _mutant(rng: random.Random) -> str:
    content = copy.deepcopy(COCO)
    for _ in range(rng.choice([1, 1, 2, 4])):
        container, key = rng.choice(_places(content))
        action = rng.random()
        if action < 0.8:
            container[key] = copy.deepcopy(rng.choice(VALUES))
        elif action < 0.9:
            del container[key]
        elif isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
    text = json.dumps(content)
    if rng.random() < 0.1:
        position = rng.randrange(len(text))
        text = (
            text[:position]
            + rng.choice(["", "[", "}", '"', "\ufeff", "9" * 5000])
            + text[position + 1 :]
        )
    return text


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
        path.write_text(_mutant(random.Random(seed)), encoding="utf-8")
        try:
            records = CocoFormatDataset(f"fuzz_{seed}", str(path), str(tmp_path))()
        except ValueError as error:
            assert str(error).startswith(f"{path}: "), (seed, error)
            continue
        loaded += 1
        for record in records:
            _check(record)
    assert MUTANTS // 4 < loaded < MUTANTS
