"""Ratios beside their targets; groups that fail harm no other."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace

import pytest
import torch

from benchmark import ratios
from benchmark.networks import Setting
from benchmark.ratios import (
    GROUPS,
    Effort,
    Ratio,
    in_own_process,
    measure_ratios,
    ratio_table,
    ratios_json,
)

TINY, SHORT = Setting(size=64, people=2), Effort(runs=1, warmup=0, steps=1, images=2)


@pytest.mark.parametrize(
    ("ratio", "met"),
    [
        (Ratio(0.2, 0.2), True),
        (Ratio(0.3, 0.2), False),
        (Ratio(3.0, 2.0, at_least=True), True),
        (Ratio(1.0, 2.0, at_least=True), False),
        (Ratio(math.nan, 2.0), False),
    ],
)
def test_met_or_not(ratio: Ratio, met: bool) -> None:
    assert ratio.is_met == met


def test_a_group_that_fails_is_told_and_harms_no_other() -> None:
    def broken(setting: Setting, effort: Effort) -> dict[str, Ratio]:
        raise ValueError("no such thing")

    seen: list[str] = []
    measured = measure_ratios(
        TINY,
        SHORT,
        {"broken": broken, "whole": lambda *_: {"a / b": Ratio(0.1, 0.2)}},
        lambda some: seen.extend(some),
    )
    assert seen == ["broken", "a / b"]
    table = ratio_table(measured)
    assert "failed: ValueError: no such thing" in table and "at most 0.20" in table
    content = json.loads(json.dumps(ratios_json(measured), allow_nan=False))["ratios"]
    assert content["a / b"] == {"value": 0.1, "target": 0.2, "at_least": False}
    assert "value" not in content["broken"] and "no such thing" in content["broken"]["error"]


def tell_process(setting: Setting, effort: Effort) -> dict[str, Ratio]:
    """Pretends that process and threads are ratios."""
    if effort.runs == 0:
        raise ValueError("nothing to run")
    return {"process": Ratio(os.getpid(), 0), "threads": Ratio(torch.get_num_threads(), 0)}


def test_a_process_for_each_group() -> None:
    threads = torch.get_num_threads()
    measure = in_own_process(tell_process)
    first, second = measure(TINY, SHORT), measure(TINY, SHORT)
    assert len({first["process"].value, second["process"].value, os.getpid()}) == 3
    assert first["threads"].value == threads
    with pytest.raises(ValueError, match="nothing to run"):
        measure(TINY, replace(SHORT, runs=0))


def test_a_side_that_cannot_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ratios.JOINT, "R18", ("absent.yaml", ()))
    measured = ratios.joint_ratios("R18", TINY, SHORT)
    assert len(measured) == 2
    assert all("absent.yaml" in r.error and math.isnan(r.value) for r in measured.values())


def test_joint_parameters() -> None:
    measured = ratios.joint_ratios("MobileNetV2", TINY, SHORT)
    assert measured["joint MobileNetV2 / 3 single networks, parameters"].is_met
    assert measured["joint MobileNetV2 / 3 single networks, latency"].value > 0


def test_every_promise_has_a_name() -> None:
    assert set(GROUPS) == {
        *("joint-R18", "joint-R50", "joint-MobileNetV2", "joint-DLA-34"),
        *("r50", "fast", "training", "evaluation"),
    }


def test_numbers_that_differ_are_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"ratio": 50.0, "largest difference": 0.5}
    monkeypatch.setattr(ratios, "measure_evaluation", lambda *_a, **_k: wrong)
    with pytest.raises(ValueError, match="AP differs by 0.5"):
        ratios.evaluation_ratios(TINY, SHORT)
