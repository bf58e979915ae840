from __future__ import annotations

import importlib.util

import pytest
import torch

from benchmark.mae import measure_mae
from mae_support import small_mae

has_transformers = importlib.util.find_spec("transformers") is not None


def test_numbers():
    results = measure_mae(small_mae(), torch.randn(1, 3, 32, 32), runs=1)
    ratio = results["encoder, a quarter visible, ms"] / results["encoder, all patches visible, ms"]
    assert results["encoder: a quarter / all"] == pytest.approx(ratio)
    assert ("step: ours / Hugging Face" in results) == has_transformers


@pytest.mark.skipif(not has_transformers, reason="transformers is not installed")
@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_predictions_are_hugging_faces(norm_pix_loss):
    model = small_mae(norm_pix_loss=norm_pix_loss)
    results = measure_mae(model, torch.randn(2, 3, 32, 32), runs=1)
    assert results["largest difference of predictions"] < 1e-5
