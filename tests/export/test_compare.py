"""The comparison finds files that answer differently."""

from __future__ import annotations

import pytest
import torch

from d2_multitask.export import compare_file
from d2_multitask.export.compare import Differences
from export_support import blobs, exported, small_config, small_network

IMAGES = [blobs(48, 80)]


@pytest.mark.parametrize(
    ("parameter", "change", "field"),
    [
        ("heads.det.wh.1.bias", 0.01, "pixels"),
        ("heads.center.heatmap.1.bias", 0.01, "score"),
        ("heads.center.heatmap.1.bias", -2.0, "unmatched"),
    ],
)
def test_another_network_is_told_apart(parameter: str, change: float, field: str) -> None:
    model = small_network()
    with torch.no_grad():
        model.get_parameter(parameter).add_(change)
    differences = compare_file(exported(), small_config(), model, IMAGES)
    assert not differences.within_limits
    assert getattr(differences, field) > 1e-3, differences


def test_another_map_is_told_apart() -> None:
    model = small_network()
    with torch.no_grad():
        model.heads["seg"].sem_seg[-1].bias[0] += 0.1
    differences = compare_file(exported(), small_config(), model, IMAGES)
    assert not differences.within_limits and differences.maps["sem_seg"] > 1e-3
    assert differences.pixels < 1e-3 and not differences.unmatched


def test_nan_is_not_within_limits() -> None:
    assert Differences(1, 1, 1e-4, 1e-5, {"sem_seg": 1e-4}).within_limits
    assert not Differences(1, 1, float("nan")).within_limits
    assert not Differences(1, 1, maps={"sem_seg": float("nan")}).within_limits
    assert not Differences(1, 1, unmatched=1).within_limits
    assert "1 objects found by one" in str(Differences(1, 1, unmatched=1))
