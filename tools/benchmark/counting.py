"""Multiply-adds and memory of a call."""

from __future__ import annotations

import ctypes
import ctypes.util
import math
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision  # noqa: F401 (registers its operators)
from torch.utils.flop_counter import FlopCounterMode

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def count_multiply_adds(function: Callable[[], Any]) -> float:
    """Multiply-adds of the convolutions, also deformable, and matrix products that one call runs.

    The same number as fvcore's where that can trace the call; this counts what is run, so that
    decoding and heads on regions of interest are included.
    """
    formulas = {torch.ops.torchvision.deform_conv2d: _deformable_operations}
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    with torch.no_grad(), counter:
        function()
    return counter.get_total_flops() / 2  # a multiply-add is two operations


def _deformable_operations(
    x: tuple[int, ...], weight: tuple[int, ...], *_: Any, out_shape: tuple[int, ...], **__: Any
) -> int:
    """Of the product with the weights, as for a plain convolution; not of the interpolation."""
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


def peak_memory(function: Callable[[], Any]) -> int:
    """Bytes that one run needs beyond what was there before it.

    On a GPU from PyTorch's allocator, on Linux from the process's resident memory. Elsewhere the
    growth of the peak since the process began: 0 for a run that is smaller than an earlier one.
    """
    if torch.cuda.is_available() and torch.cuda.memory_allocated():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    before = _reset_peak()
    function()
    return max(_peak() - before, 0)


def _reset_peak() -> int:
    """Let the peak start at what is resident now, if the system can; returns that in bytes."""
    name = ctypes.util.find_library("c")
    if name and hasattr(ctypes.CDLL(name), "malloc_trim"):
        ctypes.CDLL(name).malloc_trim(0)  # memory kept from earlier runs would hide what is taken
    try:
        _CLEAR.write_text("5")
        return _status("VmRSS")
    except OSError:
        return _peak()


def _peak() -> int:
    try:
        return _status("VmHWM")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(key: str) -> int:
    """Bytes of one line of Linux's process status, which counts in KiB."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {key}")
