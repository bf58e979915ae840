"""What each stage of a pipeline takes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

MEMORY = 0.9  # of the running mean, a frame


class StageTimes:
    """Time of the stages of each frame: ``with times("draw"): ...``, and `frame` at its end."""

    def __init__(self) -> None:
        self.frames = 0
        self._total: dict[str, float] = {}
        self._recent: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Measure a block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self._total[stage] = self._total.get(stage, 0.0) + seconds
            before = self._recent.get(stage, seconds)
            self._recent[stage] = MEMORY * before + (1 - MEMORY) * seconds

    def frame(self) -> None:
        """A frame is done."""
        self.frames += 1

    def recent(self) -> list[str]:
        """Lines for the picture: the last frames' running means."""
        total = max(sum(self._recent.values()), 1e-9)
        return [f"{1 / total:.1f} frames/s", *_lines(self._recent, 1)]

    def summary(self) -> str:
        """One line for the console: the mean of all frames."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        stages = ", ".join(_lines(self._total, max(self.frames, 1)))
        return f"{self.frames / seconds:.1f} frames a second; a frame: {stages}"


def _lines(seconds: dict[str, float], count: int) -> list[str]:
    return [f"{stage} {1000 * value / count:.1f} ms" for stage, value in seconds.items()]
