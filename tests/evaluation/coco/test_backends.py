"""hotcoco against pycocotools: the same arrays and numbers, whatever the labels look like."""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
import types

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2_multitask.evaluation.coco import backends as coco_backends
from d2_multitask.evaluation.coco.backends import BACKENDS, as_coco, choose_backend
from d2_multitask.evaluation.coco.evaluator import MultitaskCOCOEvaluator
from evaluation_support import JOINTS, inputs_of, perfect_outputs, two_images
from support import needs_hotcoco, needs_real_data, real_data

METRICS = ("bbox", "keypoints", "segm")
SIZE = 120
NAMES = [pytest.param(n, marks=needs_hotcoco if n == "hotcoco" else ()) for n in BACKENDS]


def random_mask(rng: np.random.Generator) -> dict:
    (x0, x1), (y0, y1) = np.sort(rng.integers(0, SIZE + 1, (2, 2)), axis=1)
    mask = np.zeros((SIZE, SIZE), np.uint8, order="F")
    mask[y0:y1, x0:x1] = 1
    rle = mask_util.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def random_box(rng: np.random.Generator) -> np.ndarray:
    return np.concatenate([rng.random(2) * SIZE * 0.7, rng.random(2) * SIZE]).round(rng.integers(3))


def random_case(seed: int, num_keypoints: int, per_image: int, ids: list, categories: list):
    """Labels with crowds, masks missing, joints missing; predictions with many equal scores."""
    rng = np.random.default_rng(seed)
    annotations, predictions = [], []
    for number in range(1, 1 + int(rng.integers(1, 4 * len(ids)))):
        box = np.maximum(random_box(rng), [0, 0, 1, 1])
        xy = box[:2] + rng.random((num_keypoints, 2)) * box[2:]
        joints = np.concatenate([xy, rng.integers(0, 3, (num_keypoints, 1))], axis=1)
        if rng.random() < 0.2:
            joints[:] = 0
        area = [box[2] * box[3], 0.5 * box[2] * box[3], 32**2, 96**2][rng.integers(4)]
        annotations.append(
            {
                "id": number,
                "image_id": ids[rng.integers(len(ids))],
                "category_id": categories[rng.integers(len(categories))],
                "bbox": box.tolist(),
                "area": float(area),
                "iscrowd": int(rng.random() < 0.2),
                "keypoints": joints.reshape(-1).tolist(),
                "num_keypoints": int((joints[:, 2] > 0).sum()),
            }
        )
        if rng.random() < 0.9:
            annotations[-1]["segmentation"] = random_mask(rng)
    for _ in range(int(rng.integers(1, per_image * len(ids) + 1))):
        near = annotations[rng.integers(len(annotations))]
        step = [0, 0.5, 3, 30][rng.integers(4)]
        box = np.array(near["bbox"]) + rng.normal(size=4) * step
        joints = np.array(near["keypoints"]).reshape(-1, 3)
        joints[:, :2] += rng.normal(size=(num_keypoints, 2)) * step
        predictions.append(
            {
                "image_id": near["image_id"],
                "category_id": categories[rng.integers(len(categories))],
                "bbox": np.maximum(box, [-9, -9, 0, 0]).tolist(),
                "score": float(rng.integers(5) / 4 if rng.random() < 0.5 else rng.random()),
                "keypoints": joints.reshape(-1).tolist(),
                "segmentation": random_mask(rng),
            }
        )
    labels = {
        "images": [{"id": i, "height": SIZE, "width": SIZE, "file_name": ""} for i in ids],
        "categories": [{"id": c, "name": str(c)} for c in categories],
        "annotations": annotations,
    }
    return labels, predictions


def assert_equal(labels: dict, predictions: list, **options) -> None:
    before = [dict(prediction) for prediction in predictions]
    for metric in METRICS:
        expected, found = (
            BACKENDS[name](labels).evaluate(predictions, metric, **options)
            for name in ("pycocotools", "hotcoco")
        )
        for array in ("precision", "recall", "scores"):
            np.testing.assert_allclose(found.eval[array], expected.eval[array], atol=1e-4)
        np.testing.assert_allclose(found.stats, expected.stats, atol=1e-6)
    assert predictions == before


IDS = st.one_of(
    st.lists(st.integers(-(2**40), 2**60), min_size=1, max_size=5, unique=True),
    st.lists(st.text("ab01", min_size=1), min_size=1, max_size=5, unique=True),
)


@needs_hotcoco
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    num_keypoints=st.integers(1, 18),
    ids=IDS,
    categories=st.lists(st.integers(0, 500), min_size=1, max_size=3, unique=True),
    max_dets=st.sampled_from([100, 100, 3, 10, 150]),
    scored=st.none() | st.integers(0, 4),
)
def test_same_as_pycocotools(seed, num_keypoints, ids, categories, max_dets, scored):
    labels, predictions = random_case(seed, num_keypoints, 12, ids, categories)
    sigmas = np.random.default_rng(seed).uniform(0.01, 0.2, num_keypoints).tolist()
    img_ids = None if scored is None else ids[:scored]
    assert_equal(labels, predictions, max_dets=max_dets, oks_sigmas=sigmas, img_ids=img_ids)


@needs_hotcoco
def test_same_for_more_detections_than_are_counted():
    labels, predictions = random_case(3, 17, 1000, [5, 2], [1])
    assert len(predictions) > 400
    assert_equal(labels, predictions)
    assert_equal(labels, predictions, max_dets=300)


@pytest.mark.parametrize("name", NAMES)
def test_objects_without_a_mask_are_ignored_in_mask_ap(name):
    labels, _ = random_case(0, 1, 1, [1], [1])
    mask = mask_util.encode(np.ones((SIZE, SIZE), np.uint8, order="F"))
    mask["counts"] = mask["counts"].decode()
    fields = {"image_id": 1, "category_id": 1, "area": float(SIZE**2), "iscrowd": 0}
    fields |= {"bbox": [0, 0, SIZE, SIZE], "keypoints": [], "num_keypoints": 0}
    labels["annotations"] = [
        {"id": 1, **fields, "segmentation": mask},
        {"id": 2, **fields, "bbox": [5, 5, 30, 40]},
    ]
    labels["images"].append({**labels["images"][0], "id": 2})
    found = [{"image_id": 1, "category_id": 1, "score": 0.9, "segmentation": mask}]
    stats = BACKENDS[name](labels).evaluate(found, "segm").stats
    assert stats[0] == pytest.approx(1)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", NAMES)
def test_no_predictions_are_ap_0(name, metric):
    labels, _ = random_case(1, 17, 1, [1, 2, 3], [1])
    for annotation in labels["annotations"]:
        annotation.update(iscrowd=0, segmentation=random_mask(np.random.default_rng(0)))
    assert BACKENDS[name](labels).evaluate([], metric).stats[0] == 0


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", NAMES)
def test_no_labels_is_not_computed(name, metric):
    labels, predictions = random_case(1, 17, 5, [1, 2, 3], [1])
    labels["annotations"] = []
    stats = BACKENDS[name](labels).evaluate(predictions, metric).stats
    assert (stats == -1).all()


@pytest.mark.parametrize("name", NAMES)
def test_wrong_number_of_joints_is_an_error(name, register, tmp_path):
    content = two_images()
    outputs = perfect_outputs(content)
    for output in outputs:
        output["instances"].pred_keypoints = output["instances"].pred_keypoints[:, :4]
    evaluator = MultitaskCOCOEvaluator(
        register(content),
        output_dir=None,
        kpt_oks_sigmas=[0.08] * len(JOINTS),
        backend=name,
    )
    evaluator.reset()
    evaluator.process([{"image_id": i} for i in (1, 2)], outputs)
    with pytest.raises(ValueError, match="pred_keypoints: found 4 keypoints, expected 5"):
        evaluator.evaluate()


@pytest.mark.parametrize("name", NAMES)
def test_evaluator_with_all_metrics(name, register, tmp_path):
    content = two_images()
    data_set = register(content)
    outputs = perfect_outputs(content)
    for output, masks in zip(outputs, ([0, 1], [2]), strict=True):
        rles = [content["annotations"][i]["segmentation"] for i in masks]
        decoded = np.stack([mask_util.decode(rle) for rle in rles])
        output["instances"].pred_masks = torch.from_numpy(decoded).bool()
    evaluator = MultitaskCOCOEvaluator(
        data_set,
        METRICS,
        output_dir=str(tmp_path),
        kpt_oks_sigmas=[0.08] * len(JOINTS),
        backend=name,
    )
    assert evaluator.backend == name
    evaluator.reset()
    evaluator.process(inputs_of(data_set), outputs)
    for _ in range(2):  # evaluating again gives the same
        results = evaluator.evaluate()
        assert list(results) == sorted(METRICS)
        assert [results[metric]["AP"] for metric in METRICS] == pytest.approx([100] * 3)


@needs_hotcoco
@needs_real_data
@pytest.mark.parametrize(
    ("path", "num_keypoints"),
    [
        ("coco_people/person_keypoints_train.json", 17),
        ("coco_people/person_keypoints_val.json", 17),
        ("tud_pedestrians/person_keypoints_val.json", 11),
    ],
)
def test_same_on_real_labels(path, num_keypoints):
    labels = json.loads((real_data() / path).read_text())
    coco = as_coco(labels)
    rng = np.random.default_rng(0)
    predictions = []
    for annotation in labels["annotations"] * 2:
        joints = np.array(annotation["keypoints"], float).reshape(-1, 3)
        joints[:, :2] += rng.normal(size=(num_keypoints, 2)) * 4
        box = np.array(annotation["bbox"]) + rng.normal(size=4) * 4
        predictions.append(
            {
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "bbox": np.maximum(box, [0, 0, 1, 1]).tolist(),
                "score": round(float(rng.random()), 1),
                "keypoints": joints.reshape(-1).tolist(),
                "segmentation": coco.annToRLE(annotation),
            }
        )
    assert_equal(labels, predictions, oks_sigmas=[0.08] * num_keypoints)


def test_automatic_choice_without_hotcoco(monkeypatch, caplog):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with caplog.at_level(logging.INFO):
        assert choose_backend("auto") == "pycocotools"
    assert "computed by pycocotools" in caplog.text and "fast-eval" in caplog.text
    with pytest.raises(ImportError, match=r"d2_multitask\[fast-eval\]"):
        choose_backend("hotcoco")


def test_old_hotcoco_is_not_trusted(monkeypatch, caplog):
    monkeypatch.setattr(coco_backends.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "hotcoco", types.SimpleNamespace(__version__="1.2.9"))
    with caplog.at_level(logging.INFO):
        assert choose_backend() == "pycocotools"
    assert "found version 1.2.9, expected 1.3 or newer" in caplog.text


@needs_hotcoco
def test_automatic_choice_is_hotcoco(caplog):
    with caplog.at_level(logging.INFO):
        assert choose_backend("auto") == "hotcoco"
    assert caplog.messages == ["COCO's metric is computed by hotcoco."]


def test_unknown_backend_names_the_key():
    with pytest.raises(ValueError, match=r"TEST\.COCO_BACKEND: found 'fast', expected one of"):
        choose_backend("fast")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "ids",
    [
        pytest.param([3, "3", "a", -7], id="numbers and text"),
        pytest.param([2**62 + 1, 2**62 + 2, -(2**62), 0], id="huge"),
        pytest.param([2**63 + 1, 2**63 + 2, -5, 0], id="more than 63 bits"),
    ],
)
def test_any_image_ids_give_the_numbers_of_plain_ones(name, ids):
    plain = [2, 3, 4, 1] if "a" in ids else [3, 4, 1, 2]  # the same order
    labels, predictions = random_case(5, 17, 6, [1, 2, 3, 4], [1, 2])
    other = dict(zip(plain, ids, strict=True))
    renamed = {
        **labels,
        "images": [{**image, "id": other[image["id"]]} for image in labels["images"]],
        "annotations": [{**a, "image_id": other[a["image_id"]]} for a in labels["annotations"]],
    }
    moved = [{**p, "image_id": other[p["image_id"]]} for p in predictions]
    for metric in METRICS:
        expected = BACKENDS[name](labels).evaluate(predictions, metric, img_ids=plain[:3])
        found = BACKENDS[name](renamed).evaluate(moved, metric, img_ids=ids[:3])
        np.testing.assert_array_equal(found.stats, expected.stats)
