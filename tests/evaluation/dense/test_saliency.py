"""Measures of foreground maps, by hand and against PySODMetrics."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
import warnings
from typing import Any

import numpy as np
import pytest

from d2_multitask.evaluation.dense import saliency
from support import needs_pysodmetrics


def random_pair(seed: int, height: int = 37, width: int = 51) -> tuple[np.ndarray, np.ndarray]:
    """A blurred rectangle with noise, and the rectangle; every few of them with an odd case."""
    generator = np.random.default_rng(seed)
    positive = np.zeros((height, width), bool)
    y0, x0 = generator.integers(0, (height - 5, width - 5))
    y1, x1 = y0 + generator.integers(1, height - y0), x0 + generator.integers(1, width - x0)
    positive[y0:y1, x0:x1] = True
    probability = 0.6 * np.roll(positive, generator.integers(-6, 7, 2), (0, 1))
    probability = (probability + 0.4 * generator.random(positive.shape)).clip(0, 1)
    if seed == 0:
        probability = positive.astype(float)
    elif seed == 1:
        positive[:] = False
    elif seed == 2:
        positive[:] = True
    elif seed == 3:
        probability[:] = 0
    elif seed == 4:
        probability[:] = 1
    elif seed == 5:
        probability = np.round(probability)
    return probability, positive


@pytest.fixture
def py_sod_metrics(monkeypatch) -> Any:
    """The one module of PySODMetrics that is needed here.

    The package itself imports scikit-image and scikit-learn for measures that are not compared;
    tools/install.py installs it without them.
    """
    package = types.ModuleType("py_sod_metrics")
    found = importlib.util.find_spec("py_sod_metrics")
    package.__path__ = list(found.submodule_search_locations)
    skimage = types.ModuleType("skimage")
    skimage.measure = skimage.morphology = None
    for module in (package, skimage):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("utils", "sod_metrics"):  # taken out again afterwards
        monkeypatch.delitem(sys.modules, f"py_sod_metrics.{name}", raising=False)
    return importlib.import_module("py_sod_metrics.sod_metrics")


@needs_pysodmetrics
@pytest.mark.parametrize("seed", range(16))
def test_equal_to_pysodmetrics(seed, py_sod_metrics):
    probability, positive = random_pair(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "This class will be removed"
        theirs = {
            "F": py_sod_metrics.Fmeasure(beta=0.3),
            "E": py_sod_metrics.Emeasure(),
            "S": py_sod_metrics.Smeasure(),
        }
        for metric in theirs.values():
            metric.step(probability, positive, normalize=False)
    f, e = theirs["F"].get_results()["fm"], theirs["E"].get_results()["em"]
    values, truth = probability.ravel(), positive.ravel()
    total, size = int(truth.sum()), truth.size
    curve = saliency.threshold_counts(values, truth)
    adaptive = saliency.counts_at(saliency.adaptive_threshold(values), values, truth)
    np.testing.assert_allclose(saliency.f_measure(curve, total), f["curve"], atol=1e-12)
    np.testing.assert_allclose(saliency.f_measure(adaptive, total), f["adp"], atol=1e-12)
    np.testing.assert_allclose(saliency.e_measure(curve, total, size), e["curve"], atol=1e-12)
    np.testing.assert_allclose(saliency.e_measure(adaptive, total, size), e["adp"], atol=1e-12)
    expected = theirs["S"].get_results()["sm"]
    np.testing.assert_allclose(saliency.s_measure(probability, positive), expected, atol=1e-10)


def test_counts_by_hand():
    """Thresholds fall: at 255 only the certain pixel counts, at 0 every pixel."""
    values, truth = np.array([1.0, 0.5, 0.2, 0.0]), np.array([True, False, True, False])
    true, false = saliency.threshold_counts(values, truth)
    assert (true[0], false[0]) == (1, 0)
    assert (true[255 - 127], false[255 - 127]) == (1, 1)  # 0.5 * 255 = 127.5, rounded down
    assert false[255 - 128] == 0
    assert (true[-1], false[-1]) == (2, 2)
    assert saliency.counts_at(0.2, values, truth).tolist() == [2, 1]
    assert saliency.adaptive_threshold(values) == pytest.approx(0.85)
    assert saliency.adaptive_threshold(np.ones(3)) == 1


def test_f_by_hand():
    """Precision 1/2, recall 1/4: 1.3 * 1/8 / (0.3 / 2 + 1/4)."""
    assert saliency.f_measure(np.array([1.0, 1.0]), 4) == pytest.approx(1.3 / 8 / 0.4)
    assert saliency.f_measure(np.array([0.0, 0.0]), 0) == 0


def test_perfect_and_inverted():
    probability, positive = random_pair(0)
    assert saliency.s_measure(probability, positive) == pytest.approx(1)
    total, size = int(positive.sum()), positive.size
    assert saliency.e_measure(np.array([total, 0.0]), total, size) == pytest.approx(1, abs=1e-3)
    assert saliency.e_measure(np.array([0.0, size - total]), total, size) == pytest.approx(0)
    assert saliency.s_measure(1 - probability, positive) < 0.1


def test_a_centroid_in_the_last_row_leaves_no_block_below():
    positive = np.zeros((4, 4), bool)
    positive[3, 3] = True
    assert saliency.s_measure(positive.astype(float), positive) == pytest.approx(1)
