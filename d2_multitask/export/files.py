"""Writes an exported network: ONNX, OpenVINO's IR, ``torch.export``, TorchScript."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata
from torch import Tensor, nn

from d2_multitask.export.model_json import model_json
from d2_multitask.export.network import ExportedNetwork, check_config
from d2_multitask.runtime.model_info import METADATA_KEY as KEY
from d2_multitask.visualization.metadata import cfg_metadata

logger = logging.getLogger(__name__)

_NOISY = ("torch.onnx", "torch.__trace", "onnxscript", "onnx_ir")
# Sides of the images that are recorded, in divisors; two different ones above 1.
_RECORDED = (3, 4)
MOST_IMAGES, MOST_SIDES = 1024, 1024


def export_file(
    cfg: CfgNode,
    model: nn.Module,
    path: Path,
    tasks: Sequence[str] | None = None,
    *,
    name: str = "",
    metadata: Metadata | None = None,
) -> dict[str, Any]:
    """Write a network with its weights as one file.

    Args:
        cfg: its config.
        model: the network, in evaluation mode, on the CPU.
        path: ``.onnx``; ``.xml`` (OpenVINO's, with a ``.bin`` beside it); ``.pt2`` of
            ``torch.export``; ``.ts`` (TorchScript).
        tasks: those that answer; ``None`` = those that run at inference.
        name: of the config, for the file's JSON.
        metadata: of `cfg_metadata`; ``None`` = the config's.

    Returns:
        The JSON in the file, see `model_json`.

    Raises:
        ValueError: another suffix, or a config or task that cannot be exported.
        ImportError: the format's library is not installed.
    """
    check_suffix(path)
    check_config(cfg)
    network = ExportedNetwork(model, tasks or ()).eval()
    with torch.no_grad():
        outputs = list(network(*example(network)))
    metadata = cfg_metadata(cfg) if metadata is None else metadata
    info = model_json(cfg, metadata, network, outputs, name)
    try:
        with _quiet():
            WRITERS[path.suffix](network, info, path)
    except OSError as error:
        if error.errno and error.filename is None:  # "no space left" comes without the path
            error.filename = str(path)
        raise
    return info


def check_suffix(path: Path) -> None:
    """Refuse names of formats that cannot be written."""
    if path.suffix not in WRITERS:
        raise ValueError(f"{path}: found {path.suffix!r}, expected one of {', '.join(WRITERS)}")


def example(network: ExportedNetwork, images: int = 2) -> tuple[Tensor, Tensor]:
    """A batch with which the network is recorded: images and sizes."""
    height, width = (factor * network.divisor for factor in network.fixed_sides or _RECORDED)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, height, width, 3), generator=generator)
    sizes = torch.tensor([[height - 1, width], [height, width - 1]], dtype=torch.int32)
    return pixels.to(torch.uint8), sizes[:images]


def record(network: ExportedNetwork) -> torch.export.ExportedProgram:
    """The network as a graph, for any number of images and multiples of the divisor as sides."""
    many = torch.export.Dim("N", min=1, max=MOST_IMAGES)
    sides = {}
    if network.fixed_sides is None:
        for axis, letter in ((1, "h"), (2, "w")):
            steps = torch.export.Dim(letter, min=1, max=MOST_SIDES)
            sides[axis] = steps * network.divisor if network.divisor > 1 else steps
    shapes = ({0: many, **sides}, {0: many})
    return torch.export.export(network, example(network), dynamic_shapes=shapes, strict=False)


def write_onnx(network: ExportedNetwork, info: dict[str, Any], path: Path) -> None:
    """``.onnx``, the JSON in its ``metadata_props``."""
    needs("onnx", "onnxscript")
    program = torch.onnx.export(record(network), dynamo=True, optimize=True, verbose=False)
    program.model.metadata_props[KEY] = json.dumps(info)
    program.model.producer_name, program.model.producer_version = "d2_multitask", None
    for value, name in zip(program.model.graph.outputs, info["outputs"], strict=True):
        value.name = name
    program.save(path, external_data=False)


def write_openvino(network: ExportedNetwork, info: dict[str, Any], path: Path) -> None:
    """``.xml`` and ``.bin``, the JSON in the model's runtime information."""
    openvino = needs("openvino")
    with tempfile.TemporaryDirectory() as folder:
        onnx_file = Path(folder) / "model.onnx"
        write_onnx(network, info, onnx_file)
        model = openvino.convert_model(onnx_file)
    save_openvino(model, json.dumps(info), path)


def save_openvino(model: Any, text: str, path: Path) -> None:
    """Write an ``openvino.Model`` with a JSON text; its weights go into a ``.bin`` beside it."""
    openvino = needs("openvino")
    model.set_rt_info(text, [KEY])
    try:
        openvino.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:  # of a stream that ends, as on a full disk
        raise OSError(
            errno.EIO, f"cannot be written ({error}), expected space", str(path)
        ) from error


def write_program(network: ExportedNetwork, info: dict[str, Any], path: Path) -> None:
    """``.pt2``: ``torch.export.load(path).module()(images, sizes)``."""
    buffer = io.BytesIO()
    torch.export.save(record(network), buffer, extra_files={KEY: json.dumps(info)})
    path.write_bytes(buffer.getvalue())


def write_torchscript(network: ExportedNetwork, info: dict[str, Any], path: Path) -> None:
    """``.ts``: ``torch.jit.load(path)(images, sizes)`` gives a dict."""
    batch = example(network)
    script = torch.jit.trace(network, batch, strict=False, check_trace=False)
    buffer = io.BytesIO()  # on a full disk torch.jit.save(path) ends the process
    torch.jit.save(script, buffer, _extra_files={KEY: json.dumps(info)})
    path.write_bytes(buffer.getvalue())


WRITERS: dict[str, Callable[[ExportedNetwork, dict[str, Any], Path], None]] = {
    ".onnx": write_onnx,
    ".xml": write_openvino,
    ".pt2": write_program,
    ".ts": write_torchscript,
}


def needs(*libraries: str) -> Any:
    """Import libraries of the extra ``export``; the last one is returned.

    Raises:
        ImportError: with what to type.
    """
    import importlib

    try:
        return [importlib.import_module(library) for library in libraries][-1]
    except ImportError as error:
        raise ImportError(
            f"{error.name or libraries[-1]} is not installed ({error}); type: python -m pip "
            "install 'd2_multitask[export]', or in a clone: python -m pip install -e '.[export]'"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings of the exporters away, which say nothing to users."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [log.level for log in loggers]
    try:
        for log in loggers:
            log.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)
