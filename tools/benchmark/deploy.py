"""Exported networks against the eager network and against other files, in the same runtimes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tabulate import tabulate

from benchmark.networks import Setting, set_candidate_thresholds
from benchmark.nms import suppress_boxes
from benchmark.timing import Clock, Timing, describe_error, paired_ratio, time_interleaved
from d2_multitask.export import export_file, quantize_file
from d2_multitask.export.network import ExportedNetwork

Call = Callable[[], Any]

EAGER, INT8 = "eager", "int8 "
RUNTIMES = ("ONNX Runtime", "OpenVINO")
# What a network's float32 and int8 files are to take at most, of its eager self.
EXPORTED_TARGET, INT8_TARGET = 0.75, 0.50
CALIBRATED = 4  # images; with random weights int8's accuracy is not looked at


@dataclass(frozen=True)
class FileRatio:
    """One ratio: above / below; ``target`` is its limit, ``None`` where there is none."""

    above: str
    below: str
    value: float
    target: float | None


def measure_deploy(
    cfgs: Mapping[str, CfgNode],
    peers: Mapping[str, Sequence[Path]],
    setting: Setting,
    *,
    int8: bool = False,
    runs: int = 10,
    warmup: int = 2,
    clock: Clock = time.perf_counter,
) -> tuple[dict[str, Timing], list[FileRatio], dict[str, str]]:
    """Time everything in turn: one image with decoding, as many threads as PyTorch has.

    Args:
        cfgs: name -> config of a network, which is run eagerly and exported.
        peers: name -> ``.onnx`` files that run one after the other, with random inputs of their own
            shapes; what :func:`benchmark.nms.suppress_boxes` does is counted.
        setting: size of the images, number of people.
        int8: also the int8 files.
        runs: counted turns.
        warmup: turns before them.
        clock: see `benchmark.timing.CLOCKS`.

    Returns:
        Timings and ratios, and name -> message of what failed.
    """
    errors: dict[str, str] = {}
    calls: dict[str, Call] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, cfg in cfgs.items():
            eager, files = write_files(cfg, setting, Path(folder), int8)
            calls[f"{name}, {EAGER}"] = eager
            for title, file in files.items():
                add_call(calls, errors, f"{name}, {title}", [file], title, setting.size)
        for name, paths in peers.items():
            for runtime in RUNTIMES:
                add_call(calls, errors, f"{name}, {runtime}", paths, runtime, setting.size)
        timings = time_interleaved(calls, runs, warmup, errors, clock)
    return timings, ratios_of(timings, list(cfgs), list(peers)), errors


def write_files(
    cfg: CfgNode, setting: Setting, folder: Path, int8: bool
) -> tuple[Call, dict[str, Path]]:
    """The eager network, ready to run, and its files, by what they are and run in."""
    torch.manual_seed(0)
    model = build_model(cfg)
    set_candidate_thresholds(model, setting.images(1), setting.people)
    network = ExportedNetwork(model).eval()
    images = torch.randint(0, 256, (1, setting.size, setting.size, 3), dtype=torch.uint8)
    sizes = torch.full((1, 2), setting.size, dtype=torch.int32)
    number = len(list(folder.iterdir()))
    path = folder / f"{number}.onnx"
    export_file(cfg, model, path)
    files = dict.fromkeys(RUNTIMES, path)
    for runtime, suffix in zip(RUNTIMES, (".onnx", ".xml"), strict=True) if int8 else ():
        files[INT8 + runtime] = path.with_name(f"{number}-int8{suffix}")
        quantize_file(path, files[INT8 + runtime], [images[0].numpy()] * CALIBRATED)
    return partial(torch.no_grad()(network), images, sizes), files


def add_call(
    calls: dict[str, Call],
    errors: dict[str, str],
    name: str,
    paths: Sequence[Path],
    title: str,
    size: int,
) -> None:
    """Put files that run one after the other into ``calls``, or the reason why not into errors."""
    load = load_onnxruntime if title.endswith(RUNTIMES[0]) else load_openvino
    try:
        runs = [load(path, size) for path in paths]
    except Exception as error:  # one file that a runtime cannot read; the others are measured
        errors[name] = describe_error(error)
        return
    calls[name] = lambda: [suppress_boxes(run()) for run in runs]


def load_onnxruntime(path: Path, size: int) -> Callable[[], list[np.ndarray]]:
    """A file in ONNX Runtime; each call runs it on the same random inputs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    # Waiting threads of one file would take time from the next one.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    feeds = {x.name: random_input(x.name, x.type, x.shape, size) for x in session.get_inputs()}
    return lambda: session.run(None, feeds)


def load_openvino(path: Path, size: int) -> Callable[[], list[np.ndarray]]:
    """The same in OpenVINO, in float32 unless the file is int8."""
    import openvino

    model = openvino.Core().read_model(path)
    feeds = {}
    for x in model.inputs:
        shape = [side.get_length() if side.is_static else None for side in x.partial_shape]
        kind = x.element_type.get_type_name()
        feeds[x.any_name] = random_input(x.any_name, kind, shape, size)
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    # As `d2_multitask.runtime` does from the eighth image of a size on.
    model.reshape({name: list(value.shape) for name, value in feeds.items()})
    compiled = openvino.compile_model(model, "CPU", hints)
    return lambda: list(compiled(feeds).values())


def random_input(name: str, kind: str, shape: Sequence[Any], size: int) -> np.ndarray:
    """An input of a file: ours are ``sizes`` and uint8 images of any size, others' are floats."""
    if name == "sizes":
        return np.full((1, 2), size, np.int32)
    free = [1, size, size, 3] if kind in ("tensor(uint8)", "u8") else [1, 3, size, size]
    sides = [x if isinstance(x, int) else other for x, other in zip(shape, free, strict=True)]
    values = np.random.default_rng(0).random(sides, np.float32)
    return values if free[-1] == size else (255 * values).astype(np.uint8)


def ratios_of(
    timings: Mapping[str, Timing], names: Sequence[str], peers: Sequence[str]
) -> list[FileRatio]:
    """Each network's files against its eager self, and against the peers in the same runtime."""
    pairs: list[tuple[str, str, float | None]] = []
    for name in names:
        for runtime in RUNTIMES:
            ours, eager = f"{name}, {runtime}", f"{name}, {EAGER}"
            pairs.append((ours, eager, EXPORTED_TARGET))
            pairs.append((f"{name}, {INT8}{runtime}", eager, INT8_TARGET))
            pairs += [(ours, f"{peer}, {runtime}", None) for peer in peers]
    return [
        FileRatio(above, below, paired_ratio(timings[above], timings[below]), target)
        for above, below, target in pairs
        if above in timings and below in timings
    ]


def deploy_table(
    timings: Mapping[str, Timing], ratios: Sequence[FileRatio], errors: Mapping[str, str]
) -> str:
    """Two Markdown tables: milliseconds, and ratios beside their targets."""
    rows = [
        (name, f"{t.median * 1e3:.1f} ({t.spread[0] * 1e3:.1f}-{t.spread[1] * 1e3:.1f})")
        for name, t in timings.items()
    ]
    rows += [(name, f"failed: {error[:100]}") for name, error in errors.items()]
    lines = [
        (f"{x.above} / {x.below}", f"{x.value:.3f}", "" if x.target is None else x.target)
        for x in ratios
    ]
    options = {"tablefmt": "github", "colalign": ("left", "right"), "disable_numparse": True}
    times = tabulate(rows, ("what runs", "ms (min-max)"), **options)
    options["colalign"] = ("left", "right", "right")
    return f"{times}\n\n{tabulate(lines, ('ratio', 'value', 'at most'), **options)}"


def deploy_json(
    timings: Mapping[str, Timing], ratios: Sequence[FileRatio], errors: Mapping[str, str]
) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "ms": {name: timing.median * 1e3 for name, timing in timings.items()},
        "ratios": [asdict(ratio) for ratio in ratios],
        "errors": dict(errors),
    }
