"""Mutated files of PASCAL in Detail: a sentence, or records of sane values, in all readers."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d2_multitask.data.datasets.pascal_in_detail import load_phase
from d2_multitask.data.labels.masks import MaskError, to_rle
from detail_files.convert import convert_file
from detail_files.validate import validate_file
from detail_miniature import HEIGHT, WIDTH, miniature
from fuzz.mutation import mutated_form, mutated_json, number_of_mutants

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


def _learnt(value: Any, told: list[str]) -> Any:
    """A record with masks as they are decoded and without arrays; bad masks are told then."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list):
        return [_learnt(v, told) for v in value]
    if not isinstance(value, dict):
        return value
    if "counts" not in value:
        return {k: _learnt(v, told) for k, v in value.items() if k != "annotation_id"}
    try:
        return str(to_rle(value, HEIGHT, WIDTH, allow_empty=True))
    except MaskError as error:
        told.append(f"'counts' {error}")
        return None


def _load(content: Any, path: Path) -> tuple[Any, list[str]]:
    path.write_text(json.dumps(content), encoding="utf-8")
    loaded = load_phase(str(path), "images", "train")
    told = [problem.details for problem in loaded.problems]
    return _learnt(loaded.dataset_dicts, told), told


def _is_said(content: Any, place: Any) -> bool:
    """Whether the changed file has a plain value at a place, or none, which then is its meaning."""
    missing = object()
    old = new = missing
    value, whole = content, miniature()
    for step in place:
        there = step in value if isinstance(value, dict) else step < len(value)
        old, new = whole[step], value[step] if there else missing
        value, whole = new, old
    if new is missing or new in (None, [], {}) or (place[-1] == "iscrowd" and new is True):
        return True  # true is a form of 1
    numbers = (int, float)
    if type(old) in numbers:
        return type(new) in numbers
    if type(old) is list and type(new) is list:
        kinds = [{type(v) for v in values} for values in (old, new)]
        return kinds[1] <= {*kinds[0], *(numbers if kinds[0] <= {*numbers} else ())}
    return type(old) is type(new)


@pytest.mark.filterwarnings("ignore")
def test_no_form_has_another_meaning_in_silence(tmp_path):
    """A changed file is refused, or means the same, or says so: in its values or in a problem."""
    path, content = tmp_path / "a.json", miniature()
    whole, told = _load(content, path)
    assert not told
    silent = {}
    for seed in range(MUTANTS):
        changed, place = mutated_form(random.Random(seed), content)
        try:
            found, told = _load(changed, path)
        except ValueError as error:
            assert str(path) in str(error), seed
            continue
        if found != whole and not told and not _is_said(changed, place):
            silent[seed] = place
    assert not silent
