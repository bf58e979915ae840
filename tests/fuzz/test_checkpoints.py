"""Mutated weight files: a sentence, or a dict; of a format with checksums the same weights."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import pytest
import torch

from d2_multitask.checkpoint import Description, read_checkpoint
from d2_multitask.checkpoint.description import parse_description
from fuzz.mutation import mutated_bytes, number_of_mutants

MUTANTS = number_of_mutants(200)
WEIGHTS = {"conv.weight": torch.arange(600.0).view(20, 30), "bn.bias": torch.ones(7)}


def _write(path: Path) -> None:
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps({k: v.numpy() for k, v in WEIGHTS.items()}, protocol=2))
    elif path.suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(WEIGHTS, path)
    else:
        torch.save(WEIGHTS, path, _use_new_zipfile_serialization=path.stem == "zip")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth", "numbers.pkl", "numbers.safetensors"])
def test_a_sentence_or_weights(tmp_path, name):
    path = tmp_path / name
    _write(path)
    whole = path.read_bytes()
    draw = random.Random(1)
    for index in range(MUTANTS):
        path.write_bytes(data := mutated_bytes(draw, whole))
        try:
            found = read_checkpoint(str(path))["model"]
        except ValueError as error:
            assert str(path) in str(error), index
            continue
        except Exception as error:
            raise AssertionError(f"mutant {index} raises {error!r}") from error
        if name == "zip.pth" and data != whole:
            assert found.keys() == WEIGHTS.keys(), index
            assert all(torch.equal(found[k], v) for k, v in WEIGHTS.items()), index


def test_a_sentence_or_a_description():
    names = {"thing_classes": ["a"], "thing_dataset_id_to_contiguous_id": {3: 0}}
    names["keypoint_connection_rules"] = [("a", "b", (1, 2, 3))]
    whole = Description("MODEL: {TASKS: [det]}", names, "0.1.0").to_json().encode()
    draw, told = random.Random(1), 0
    words = (b"null", b"[]", b"{}", b'"a"', b"1e999", b"NaN", b"-1", b"true")
    for index in range(MUTANTS):
        text = mutated_bytes(draw, whole, words).decode(errors="replace")
        try:
            parse_description(text, "a.pth").to_json()
        except ValueError as error:
            told += 1
            assert str(error).startswith("a.pth: its description"), index
        except Exception as error:
            raise AssertionError(f"mutant {index} raises {error!r}: {text}") from error
    assert 0 < told < MUTANTS
