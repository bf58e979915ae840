"""The clocks on functions of known length; nothing here is faster than it sleeps."""

from __future__ import annotations

import time

import pytest
from torch import Tensor, nn

from benchmark.parts import PartTimer, watch_network
from benchmark.timing import (
    CLOCKS,
    Timing,
    paired_ratio,
    time_interleaved,
    time_once,
)


def test_functions_are_timed_in_turn() -> None:
    calls: list[str] = []
    timings = time_interleaved(
        {
            "short": lambda: (calls.append("short"), time.sleep(0.002)),
            "long": lambda: (calls.append("long"), time.sleep(0.02)),
        },
        runs=3,
        warmup=1,
    )
    assert calls == ["short", "long"] * 4
    assert len(timings["long"].seconds) == 3
    # Sleeping takes at least as long as asked; how much longer is the machine's business.
    assert timings["short"].median >= 0.002 and timings["long"].median >= 0.02
    low, high = timings["long"].spread
    assert low <= timings["long"].median <= high


def test_what_raises_is_left_out_and_harms_no_other() -> None:
    errors: dict[str, str] = {}
    timings = time_interleaved(
        {"broken": lambda: 1 / 0, "whole": lambda: None}, runs=2, warmup=0, errors=errors
    )
    assert list(timings) == ["whole"] and len(timings["whole"].seconds) == 2
    assert errors == {"broken": "ZeroDivisionError: division by zero"}
    with pytest.raises(ZeroDivisionError):
        time_interleaved({"broken": lambda: 1 / 0})


def test_ratios_are_taken_turn_by_turn() -> None:
    """A machine that is ten times slower in one turn: 2/1, 40/20, 3/1."""
    assert paired_ratio(Timing((2.0, 40.0, 3.0)), Timing((1.0, 20.0, 1.0))) == 2.0


def test_sleep_takes_no_processor_time() -> None:
    assert time_once(lambda: time.sleep(0.05), CLOCKS["wall"]) >= 0.05
    assert time_once(lambda: time.sleep(0.05), CLOCKS["cpu"]) < 0.05


class Clock:
    """Seconds that pass only where a fake module says so: exact, on every machine."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Slow(nn.Module):
    """Takes known seconds, and its inner module takes its own."""

    def __init__(self, clock: Clock, seconds: float, bottom_up: nn.Module | None = None) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds
        if bottom_up is not None:
            self.bottom_up = bottom_up

    def forward(self, x: Tensor) -> Tensor:
        self.clock.now += self.seconds
        return self.bottom_up(x) if hasattr(self, "bottom_up") else x


class SlowHead(nn.Module):
    def __init__(self, clock: Clock, layers: float, decoding: float, post: float) -> None:
        super().__init__()
        self.clock, self.times = clock, (layers, decoding, post)

    def _take(self, index: int) -> None:
        self.clock.now += self.times[index]

    def layers(self) -> None:
        self._take(0)

    def inference(self) -> None:
        self._take(1)

    def postprocess(self) -> None:
        self._take(2)


class SlowNetwork(nn.Module):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.backbone = Slow(clock, 3.0, bottom_up=Slow(clock, 20.0))
        self.heads = nn.ModuleDict(
            {"det": SlowHead(clock, 5.0, 0.5, 0.25), "seg": SlowHead(clock, 7.0, 0.5, 0.25)}
        )

    def preprocess_image(self, x: Tensor) -> Tensor:
        self.clock.now += 1.0
        return x

    def forward(self, x: Tensor) -> None:
        self.backbone(self.preprocess_image(x))
        for method in ("layers", "inference", "postprocess"):
            for head in self.heads.values():
                getattr(head, method)()
        self.clock.now += 0.125  # whatever else a network does in the end


EXPECTED = {
    "preprocessing": 1.0,
    "backbone": 20.0,
    "neck": 3.0,
    "head det": 5.0,
    "head seg": 7.0,
    "decoding": 1.0,
    "post-processing": 0.625,
}


def test_a_call_is_split_into_its_parts() -> None:
    network = SlowNetwork(clock := Clock())
    timer = PartTimer(clock)
    watch_network(timer, network)
    network(None)
    assert timer.seconds == EXPECTED
    timer.reset()
    network(None)
    assert timer.seconds == EXPECTED
    timer.release()
    network(None)
    assert timer.seconds == EXPECTED  # not counted any more


def test_sleeping_parts_on_the_wall() -> None:
    timer = PartTimer()
    inner = timer.timed(lambda: time.sleep(0.02), "inner")
    timer.timed(lambda: (time.sleep(0.01), inner()), "outer")()
    assert timer.seconds["inner"] >= 0.02 and timer.seconds["outer"] >= 0.01


def test_a_part_that_raises_is_counted_and_the_timer_goes_on() -> None:
    timer = PartTimer(clock := Clock())

    def fail() -> None:
        clock.now += 2.0
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        timer.timed(timer.timed(fail, "inner"), "outer")()
    timer.timed(lambda: None, "outer")()
    assert timer.seconds == {"inner": 2.0, "outer": 0.0}


def test_networks_without_a_backbone_are_not_split() -> None:
    timer = PartTimer()
    watch_network(timer, layer := nn.ReLU())
    assert "forward" not in vars(layer)
