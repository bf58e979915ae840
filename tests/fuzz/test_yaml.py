"""Seeded mutations of a small YAML file: a config or a sentence, nothing else."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from detectron2.config import CfgNode

from d2_multitask.config import load_config
from fuzz.mutation import mutated_bytes, number_of_mutants

SMALL = b"""_BASE_: base.yaml
VERSION: 2
MODEL:
  TASKS: ['seg', "det"]
  RESNETS: {DEPTH: 50, OUT_FEATURES: [res2, res3]}
  PIXEL_MEAN: &mean [1.0, 2.5e+1, 3]
  PIXEL_STD: *mean
DATASETS:
  TRAIN: ("a",)
  REGISTER:
  - {NAME: a, JSON: b.json, IMAGE_ROOT: c, SEM_SEG_IDS: {0: 0}}
SOLVER:
  MAX_ITER: 10
"""
WORDS = (
    *(b"[", b"]", b"{", b"}", b":", b"- ", b"&a ", b"*mean", b"!!int ", b"!!bool x", b"? ", b"|"),
    *(b"\xff", b"\0", b"\t", b"\n", b"'", b'"', b"%", b"---\n", b"_BASE_: mine.yaml\n", b"/etc"),
    *(b"2020-99-99", b"0x", b"9" * 5000, b".nan", b"null", b"<<: *mean", b"1: 2", b"~", b"!!map "),
)
MUTANTS = number_of_mutants(300)


@pytest.mark.filterwarnings("ignore")
def test_a_config_or_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("OUTPUT_DIR: x\nMODEL: {MASK_ON: True}\n")
    path = tmp_path / "mine.yaml"
    draw = random.Random(1)
    told = 0
    for index in range(MUTANTS):
        text = mutated_bytes(draw, SMALL, WORDS)
        path.write_bytes(text)
        try:
            assert isinstance(load_config(path), CfgNode)
        except ValueError as error:
            told += 1
            assert str(tmp_path) in str(error), (index, text)
        except Exception as error:
            raise AssertionError(f"mutant {index} raises {error!r}: {text!r}") from error
    assert 0 < told < MUTANTS
