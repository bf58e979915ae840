"""What the table of GPUs computes, against a ring all-reduce that is carried out."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.scaling import Step, all_reduce_seconds, scaling_rows, scaling_table


def ring_all_reduce(gradients: list[np.ndarray]) -> tuple[list[np.ndarray], int]:
    """Sum over all workers; also returns the numbers that each of them sends."""
    workers = len(gradients)
    parts = [np.array_split(gradient.copy(), workers) for gradient in gradients]
    sent = [0] * workers
    for turn in range(2 * (workers - 1)):
        adds = turn < workers - 1
        messages = []
        for rank in range(workers):
            step = turn if adds else turn - workers  # the sums begin one worker further
            part = (rank - step) % workers
            messages.append((part, parts[rank][part].copy()))
            sent[rank] += len(messages[-1][1])
        for rank, (part, numbers) in enumerate(messages):
            receiver = parts[(rank + 1) % workers]
            receiver[part] = receiver[part] + numbers if adds else numbers
    return [np.concatenate(part) for part in parts], sent[0]


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_bytes_that_a_ring_sends(workers: int) -> None:
    gradients = [np.random.default_rng(rank).integers(0, 9, 64) for rank in range(workers)]
    sums, sent = ring_all_reduce(gradients)
    assert all(np.array_equal(total, sum(gradients)) for total in sums)
    assert all_reduce_seconds(64, workers, 1.0) == sent


def test_a_message_that_is_hidden_costs_nothing() -> None:
    # 100 MB over 100 Gb/s to 64 GPUs take 15.75 ms, less than the backward pass of 50 ms.
    rows = {(r["GPUs"], r["slowest link"]): r for r in scaling_rows(Step(100_000_000, 0.1, 0.5, 4))}
    assert rows[1, "-"]["images/s, hidden"] == rows[1, "-"]["images/s, nothing hidden"] == 40
    row = rows[64, "InfiniBand EDR or Ethernet, 100 Gb/s"]
    assert row["all-reduce, ms"] == pytest.approx(15.75)
    assert row["efficiency, hidden in backward"] == 1
    assert row["efficiency, nothing hidden"] == pytest.approx(1 / 1.1575)
    row = rows[64, "Ethernet, 10 Gb/s"]  # 157.5 ms: 107.5 ms of it are seen
    assert row["efficiency, hidden in backward"] == pytest.approx(1 / 2.075)
    assert row["images/s, hidden"] == pytest.approx(64 * 40 / 2.075)


def test_table_says_what_was_measured() -> None:
    steps = {"a": Step(1000, 1.0, 0.5, 2)}
    assert "1.000 s (measured here)" in scaling_table(steps, [])
    table = scaling_table(steps, [1.0])
    assert "1.000 s (given)" in table and "computed, not run" in table
