"""Mutated files of PASCAL in Detail: a sentence, or records of sane values, in all readers."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from d2_multitask.data.datasets.pascal_in_detail import load_phase
from detail_files.convert import convert_file
from detail_files.validate import validate_file
from detail_miniature import miniature
from fuzz.mutation import mutated_json, number_of_mutants

MUTANTS = number_of_mutants(200)


def _check(record: dict[str, Any]) -> None:
    assert type(record["image_id"]) is int and type(record["file_name"]) is str
    assert type(record["height"]) is int and type(record["width"]) is int
    for label in record.get("annotations", ()):
        assert type(label["category_id"]) is int and label["iscrowd"] in (0, 1)
        assert min(label["bbox"][2:]) > 0
        assert all(math.isfinite(v) for v in [*label["bbox"], *label.get("keypoints", ())])


@pytest.mark.filterwarnings("ignore")
def test_a_sentence_or_sane(tmp_path):
    path, whole = tmp_path / "a.json", miniature()

    def load() -> None:
        for record in load_phase(str(path), "images", "train").dataset_dicts:
            _check(record)

    readers = {
        "load": load,
        "validate": lambda: validate_file(str(path)),
        "convert": lambda: convert_file(path, tmp_path / "out"),
    }
    failed = {}
    for seed in range(MUTANTS):
        path.write_text(mutated_json(random.Random(seed), whole), encoding="utf-8")
        for name, reader in readers.items():
            try:
                reader()
            except ValueError as error:
                if str(path) not in str(error):
                    failed[seed, name] = repr(error)
            except Exception as error:
                failed[seed, name] = repr(error)
    assert not failed
