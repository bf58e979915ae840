"""Mutated weight files: a sentence, or a dict; of a format with checksums the same weights."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import pytest
import torch

from d2_multitask.checkpoint import read_checkpoint
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
