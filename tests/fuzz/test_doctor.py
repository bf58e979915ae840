"""Mutated COCO files, dicts and images: the doctor says something, and no check of it fails."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from d2_multitask.config import get_multitask_cfg
from d2_multitask.data.datasets.coco import CocoFormatDataset
from d2_multitask.data.problems import DATA_REPORT
from d2_multitask.doctor import examine
from d2_multitask.doctor.findings import write_json
from fuzz.mutation import mutated_bytes, mutated_form, mutated_json, number_of_mutants
from fuzz.test_coco_json import COCO, HEIGHT, WIDTH
from fuzz.test_custom_dicts import _mutant

MUTANTS = number_of_mutants(150)
NAME = "fuzzed_by_doctor"


def examined(load, folder: Path, **metadata) -> None:
    """Every subject says what it says, as text and as JSON."""
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS = ["seg", "det", "pose"]
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (NAME,)
    DatasetCatalog.register(NAME, load)
    MetadataCatalog.get(NAME).set(**metadata)
    try:
        findings = examine(cfg)
    finally:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)
        DATA_REPORT.clear()
    failed = [finding.text for finding in findings if finding.check == "start/check-failed"]
    assert not failed and all(map(str, findings))
    write_json(folder / "findings.json", findings)


def write_image(path: Path) -> bytes:
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(path)
    return path.read_bytes()


def test_mutated_files(tmp_path: Path) -> None:
    rng, path = random.Random(0), tmp_path / "coco.json"
    data = write_image(tmp_path / "1.png")
    for number in range(MUTANTS):
        text = mutated_json(rng, COCO) if number % 2 else json.dumps(mutated_form(rng, COCO)[0])
        path.write_text(text, errors="replace")
        (tmp_path / "2.png").write_bytes(mutated_bytes(rng, data))
        examined(CocoFormatDataset(NAME, str(path), str(tmp_path)), tmp_path)


def test_mutated_dicts(tmp_path: Path) -> None:
    rng = random.Random(1)
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name)
    for _ in range(MUTANTS):
        records = _mutant(rng, str(tmp_path))
        names = {"thing_classes": ["person"], "keypoint_names": ["nose", "left", "right"]}
        examined(lambda records=records: records, tmp_path, **names)
