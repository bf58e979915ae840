"""Where the time of a call goes: seconds of its parts, measured where methods begin and end."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from torch import nn

from benchmark.timing import Clock, synchronize

DETECTRON2_HEADS = {"proposal_generator": "rpn", "roi_heads": "roi", "sem_seg_head": "seg"}


class PartTimer:
    """Seconds by part. Time inside a part of a part counts for the inner one only.

    Attributes:
        seconds: part -> seconds since the last :meth:`reset`.
    """

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        """
        Args:
            clock: see `benchmark.timing.CLOCKS`.
        """
        self.clock = clock
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[float] = []  # seconds of inner parts, for each part that is running
        self._watched: list[tuple[Any, str]] = []

    def reset(self) -> None:
        """Start again at zero."""
        self.seconds.clear()

    def watch(self, owner: Any, method: str, part: str) -> None:
        """Time a method of one object, until :meth:`release`.

        Args:
            owner: the object; a module is watched through ``"forward"``.
            method: its name.
            part: what its time counts for; several methods may count for the same part.
        """
        setattr(owner, method, self.timed(getattr(owner, method), part))
        self._watched.append((owner, method))

    def release(self) -> None:
        """Give all watched objects their own methods back."""
        for owner, method in reversed(self._watched):
            vars(owner).pop(method, None)
        self._watched.clear()

    def timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """``function``, counted for ``part``."""

        def run(*args: Any, **kwargs: Any) -> Any:
            synchronize()
            self._open.append(0.0)
            start = self.clock()
            try:
                return function(*args, **kwargs)
            finally:
                synchronize()
                duration = self.clock() - start
                self.seconds[part] += duration - self._open.pop()
                if self._open:
                    self._open[-1] += duration

        return run


def watch_network(timer: PartTimer, network: nn.Module) -> None:
    """Watch the parts of one of our networks or of a Detectron2 one.

    Parts: "preprocessing", "backbone", "neck", "head <name>", "decoding" and "post-processing".
    Detectron2's detectors decode inside their heads, and what is left of a call is their
    post-processing.

    Args:
        timer: gets the times.
        network: has a ``backbone``; others are not split.
    """
    if not hasattr(network, "backbone"):
        return
    if getattr(network.backbone, "_compiled_call_impl", None) is not None:
        return  # a clock would cut the compiled graph
    timer.watch(network, "forward", "post-processing")
    if hasattr(network, "preprocess_image"):
        timer.watch(network, "preprocess_image", "preprocessing")
    has_neck = hasattr(network.backbone, "bottom_up")
    timer.watch(network.backbone, "forward", "neck" if has_neck else "backbone")
    if has_neck:
        timer.watch(network.backbone.bottom_up, "forward", "backbone")
    for name, part in DETECTRON2_HEADS.items():
        if isinstance(getattr(network, name, None), nn.Module):
            timer.watch(getattr(network, name), "forward", f"head {part}")
    for name, head in getattr(network, "heads", {}).items():
        timer.watch(head, "layers", f"head {name}")
        timer.watch(head, "inference", "decoding")
        timer.watch(head, "postprocess", "post-processing")
