"""Dicts of a user's function with fields of other types: the same meaning, told, or a sentence."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from d2_multitask.config import get_multitask_cfg
from d2_multitask.data.datasets.catalog import load_dataset
from d2_multitask.data.labels.instances import BoxLabel
from d2_multitask.data.loader import check_evaluated, get_training_dicts
from d2_multitask.data.mapper import MultitaskDatasetMapper
from d2_multitask.evaluation.coco.evaluator import MultitaskCOCOEvaluator
from fuzz.mutation import VALUES, number_of_mutants

MUTANTS = number_of_mutants(300)
NAME, HEIGHT, WIDTH = "fuzzed_dicts", 24, 32
RLE = {"size": [HEIGHT, WIDTH], "counts": "R3`080000000000000n>"}


def _records(folder: str) -> list[dict[str, Any]]:
    person = {
        "category_id": 0,
        "iscrowd": 0,
        "bbox": [4.0, 2.0, 12.0, 18.0],
        "bbox_mode": BoxMode.XYXY_ABS,
        "segmentation": [[4.0, 2.0, 12.0, 2.0, 12.0, 18.0, 4.0, 18.0]],
        "keypoints": [8.5, 4.5, 2.0, 10.5, 9.5, 1.0, 0.0, 0.0, 0.0],
    }
    record = {"file_name": f"{folder}/a.png", "image_id": 1, "height": HEIGHT, "width": WIDTH}
    other = {**record, "file_name": f"{folder}/b.png", "image_id": 2}
    return [{**record, "annotations": [person]}, {**other, "annotations": [copy.deepcopy(person)]}]


def _forms(value: Any) -> list[Any]:
    """A value as the types of NumPy and PyTorch, as text, nested, and other values."""
    forms: list[Any] = [[value], str(value), (value,), np.array(value, dtype=object)]
    if isinstance(value, int | float):
        number = float(value)
        forms += [np.float32(number), np.int64(number), np.array(number), torch.tensor(number)]
        forms += [-value, value + 1, number, bool(value)]
    elif isinstance(value, list) and value and isinstance(value[0], float):
        forms += [np.array(value), torch.tensor(value), tuple(value), np.array(value, dtype=int)]
        forms += [[int(v) for v in value], list(map(str, value)), [-v for v in value], value[:-1]]
        forms += [np.reshape(value, (-1, n)) for n in (1, 2, 3) if len(value) % n == 0]
        forms += [np.reshape(value, (-1, 2)).tolist()] if len(value) % 2 == 0 else []
    elif isinstance(value, list):
        forms += [
            np.zeros((HEIGHT, WIDTH), dtype=np.uint8),
            RLE,
            {**RLE, "counts": b"R3`080000000000000n>"},
        ]
        forms += [{**RLE, "counts": [0, 768]}, {**RLE, "counts": np.array([1, 767])}]
    return [*forms, *VALUES, BoxMode.XYXY_REL, "XYXY_ABS"]


def _mutant(rng: random.Random, folder: str) -> list[dict[str, Any]]:
    records = _records(folder)
    record = records[0]
    holder, key = rng.choice(
        [(record, k) for k in record]
        + [(record["annotations"][0], k) for k in record["annotations"][0]] * 2
        + [(record["annotations"][0][k], 0) for k in ("bbox", "segmentation", "keypoints")]
    )
    if isinstance(holder, dict) and rng.random() < 0.1:
        del holder[key]
    else:
        holder[key] = copy.deepcopy(rng.choice(_forms(holder[key])))
    return records


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("images")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(path / name)
    return str(path)


@pytest.fixture
def registered():
    """Registers NAME for a list of dicts, which the test may replace."""
    records: list[Any] = []
    DatasetCatalog.register(NAME, lambda: copy.deepcopy(records))
    names = ["nose", "left_hand", "right_hand"]
    flips = [("left_hand", "right_hand")]
    MetadataCatalog.get(NAME).set(
        thing_classes=["person", "horse"], keypoint_names=names, keypoint_flip_map=flips
    )
    yield records
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def _cfg():
    cfg = get_multitask_cfg()
    cfg.DATASETS.TRAIN, cfg.MODEL.TASKS = (NAME,), ["det", "pose"]
    cfg.MODEL.CENTER_HEAD.NUM_CLASSES, cfg.MODEL.POSE_HEAD.NUM_KEYPOINTS = 2, 3
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.RANDOM_FLIP = "none"
    return cfg


def _train(cfg) -> list[dict[str, Any]]:
    mapper = MultitaskDatasetMapper(cfg, True)
    return [mapper(record) for record in get_training_dicts(cfg)]


def _evaluate(cfg) -> None:
    records = load_dataset(NAME)
    check_evaluated(NAME, records)
    BoxLabel().check(NAME, records)
    metrics = ("bbox", "segm", "keypoints")
    MultitaskCOCOEvaluator(NAME, metrics, output_dir=None, records=records)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("use", [_train, _evaluate])
def test_never_a_traceback(folder, registered, use):
    cfg, failed = _cfg(), {}
    for seed in range(MUTANTS):
        registered[:] = _mutant(random.Random(seed), folder)
        try:
            use(cfg)
        except ValueError as error:
            if not any(word in str(error) for word in (NAME, folder, "MODEL.")):
                failed[seed] = repr(error)
        except Exception as error:
            failed[seed] = repr(error)
    assert not failed
