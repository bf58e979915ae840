"""The evaluator of binary segmentation: what is averaged over what, and what does not count."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from d2_multitask.data.datasets.folders import register_mask_folder
from d2_multitask.data.labels.foreground import MaskValues
from d2_multitask.evaluation.build import build_evaluator
from d2_multitask.evaluation.dense import saliency
from d2_multitask.evaluation.dense.foreground import ForegroundEvaluator
from evaluation_support import JOINTS  # noqa: F401 (fixtures of conftest)

VALUES = MaskValues.from_mapping({"BACKGROUND": 0, "FOREGROUND": 1, "IGNORE": 255})


@pytest.fixture
def score(tmp_path):
    """Labels and probabilities of a few images -> results."""

    def run(*pairs, **options):
        records, inputs, outputs = [], [], []
        for index, (labels, probability) in enumerate(pairs):
            path = tmp_path / f"{index}.png"
            array = np.array(labels, dtype=np.uint8)
            Image.fromarray(array).save(path)
            records.append(
                {
                    "file_name": f"{index}.jpg",
                    "image_id": index,
                    "foreground_file_name": str(path),
                    "foreground_values": VALUES,
                }
            )
            size = {"height": array.shape[0], "width": array.shape[1]}
            inputs.append({"file_name": f"{index}.jpg", "image_id": index, **size})
            outputs.append({"foreground": torch.tensor(probability)})
        evaluator = ForegroundEvaluator("x", records, distributed=False, **options)
        evaluator.process(inputs, outputs)
        results = evaluator.evaluate()["foreground"]
        names = {f"foreground/{name}" for name in results}
        assert names <= set(evaluator.metric_names()) and len(names) in (1, 11)
        return results

    return run


def test_means_over_images_and_over_pixels(score):
    """IoU 1/2 of two pixels and 3/4 of four: mean 5/8, and 4/6 of all pixels at once."""
    first = [[1, 0, 0, 0]], [[0.9, 0.8, 0.1, 0.0]]
    second = [[1, 1, 1, 0]], [[0.5, 0.6, 0.7, 0.5]]
    found = score(first, second)
    assert found["num_images"] == 2
    assert found["IoU"] == pytest.approx(100 * (1 / 2 + 3 / 4) / 2)
    assert found["global-IoU"] == pytest.approx(100 * 4 / 6)
    errors = (0.1 + 0.8 + 0.1 + 0.0) / 4, (0.5 + 0.4 + 0.3 + 0.5) / 4
    assert found["pixel-error"] == pytest.approx(100 * sum(errors) / 2)


def test_the_maximum_is_that_of_the_mean_curve(score):
    """Each image is perfect at a threshold of its own: the mean curve never is."""
    low = [[1, 1, 0, 0]], [[0.4, 0.4, 0.1, 0.1]]
    high = [[1, 1, 0, 0]], [[0.9, 0.9, 0.6, 0.6]]
    assert score(low)["max-F"] == score(high)["max-F"] == pytest.approx(100)
    # From 0.4 to 0.9 only one is right; above 0.6 the first finds nothing, below the second takes
    # everything: precision 1/2, recall 1.
    half = 1.3 * 0.5 / (0.3 * 0.5 + 1)
    assert score(low, high)["max-F"] == pytest.approx(100 * (1 + half) / 2)


def test_pixels_without_a_label_do_not_count(score):
    labels, probability = [[1, 1, 0, 255, 255, 0]], [[0.9, 0.3, 0.2, 0.9, 0.1, 0.6]]
    found = score((labels, probability))
    expected = score(([[1, 1, 0, 0]], [[0.9, 0.3, 0.2, 0.6]]))
    for key in ("IoU", "global-IoU", "max-F", "adaptive-F", "pixel-error", "E-measure", "max-E"):
        assert found[key] == pytest.approx(expected[key]), key
    assert found["IoU"] == pytest.approx(100 / 3)


def test_images_without_foreground(score):
    nothing = [[0, 0, 0]]
    assert score((nothing, [[0.1, 0.4, 0.2]]))["IoU"] == 100
    assert score((nothing, [[0.1, 0.6, 0.2]]))["IoU"] == 0
    assert score((nothing, [[0.1, 0.4, 0.2]]))["global-IoU"] == 100


def test_nothing_labelled(score, caplog):
    with caplog.at_level(logging.WARNING):
        assert score(([[255, 255]], [[0.1, 0.2]])) == {"num_images": 0}
    assert "no labelled image" in caplog.text


def test_stretch(score):
    pair = [[1, 0]], [[0.4, 0.2]]
    assert score(pair)["IoU"] == 0
    assert score(pair, stretch=True)["IoU"] == 100


def test_broken_predictions_are_told(score, caplog):
    found = score(([[1, 0]], [[float("nan"), 0.1]]))
    assert found["IoU"] == 0 and "NaN or infinite" in caplog.text


def test_mistakes(score):
    with pytest.raises(ValueError, match=r"0.jpg.*shape \(1, 3\), expected \(1, 2\)"):
        score(([[1, 0]], [[0.1, 0.2, 0.3]]))
    evaluator = ForegroundEvaluator("x", [{"image_id": 0, "annotations": []}], distributed=False)
    record = {"annotations": [], "sem_seg_from_annotations": True, "image_id": 0}
    evaluator = ForegroundEvaluator("x", [record], distributed=False)
    inputs = [{"file_name": "a", "image_id": 0, "height": 1, "width": 2}]
    with pytest.raises(ValueError, match="expected 'foreground'. Is 'foreground' one of"):
        evaluator.process(inputs, [{"sem_seg": 0}])


def test_curves_are_those_of_the_measures(score):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, (9, 11))
    probability = generator.random((9, 11))
    found = score((labels, probability))
    values, truth = probability.ravel(), labels.ravel() == 1
    curve = saliency.threshold_counts(values, truth)
    f = saliency.f_measure(curve, truth.sum())
    e = saliency.e_measure(curve, truth.sum(), truth.size)
    assert found["mean-F"] == pytest.approx(100 * f.mean())
    assert found["E-measure"] == pytest.approx(100 * e.mean())
    assert found["max-E"] == pytest.approx(100 * e.max())
    s = saliency.s_measure(probability, labels == 1)
    assert found["S-measure"] == pytest.approx(100 * s)


def test_a_mask_folder_gets_the_evaluator(cfg, tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / folder / "a.png")
    register_mask_folder("fg_test", tmp_path / "images", tmp_path / "masks")
    try:
        for tasks, expected in (
            (["foreground"], ["ForegroundEvaluator"]),
            (["foreground", "reconstruction"], ["ForegroundEvaluator", "ReconstructionEvaluator"]),
            (["seg"], []),
        ):
            cfg.MODEL.TASKS = tasks
            built = build_evaluator(cfg, "fg_test", str(tmp_path / "out"))._evaluators
            assert [type(one).__name__ for one in built] == expected
    finally:
        DatasetCatalog.remove("fg_test")
        MetadataCatalog.remove("fg_test")
