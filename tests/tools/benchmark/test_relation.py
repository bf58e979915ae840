from __future__ import annotations

import pytest
import torch

from benchmark.relation import measure_relation_cost
from mae_support import small_mae


def test_numbers() -> None:
    torch.manual_seed(0)
    image = torch.randn(3, 32, 32)
    results = measure_relation_cost(small_mae(32).eval(), image, passes=60, runs=1, warmup=0)
    slow, fast = results["set by set, ms a set"], results["in batches, ms a set"]
    assert results["set by set / in batches"] == pytest.approx(slow / fast)
    assert results["sets a batch"] == 64
    stages = [value for name, value in results.items() if name.endswith("of a segmentation")]
    assert len(stages) == 6 and sum(stages) == pytest.approx(100)
    assert 0 < results["neither relation nor autoencoder, %"] < 100
    assert results["memory of the process at its peak, MB"] > 0
