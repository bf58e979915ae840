"""Quantises an exported file to int8, calibrated on images.

Convolutions and what lies between them are quantised; decoding stays in float32.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from d2_multitask.export.files import needs, save_openvino
from d2_multitask.runtime.images import network_input
from d2_multitask.runtime.model_info import METADATA_KEY, parse_model_info

# Nodes of the network, in ONNX; others (of decoding) stay as they are.
_QUANTIZED = ("Conv", "ConvTranspose", "Add", "MaxPool", "Resize", "Concat")
Feeds = dict[str, np.ndarray]


def quantize_file(source: Path, target: Path, images: Iterable[np.ndarray]) -> None:
    """Write the int8 network of an exported one.

    Args:
        source: ``.onnx``, as `export_file` writes it.
        target: ``.onnx`` (ONNX Runtime's static quantisation) or ``.xml`` (OpenVINO, by NNCF).
        images: (H, W, 3) uint8 BGR, a few hundred like those that the network will see.

    Raises:
        ValueError: no images, or a target of another format.
        ImportError: the library is not installed.
    """
    if target.suffix not in (".onnx", ".xml"):
        raise ValueError(f"{target}: found {target.suffix!r}, expected .onnx or .xml for int8")
    properties = needs("onnx").load(str(source)).metadata_props
    text = next((x.value for x in properties if x.key == METADATA_KEY), None)
    info = parse_model_info(text, str(source))
    inputs = (network_input([image], info.input) for image in images)
    feeds = [{"images": batch, "sizes": sizes} for batch, sizes in inputs]
    if not feeds:
        raise ValueError("--calibrate: found no images, expected a folder of photographs")
    if target.suffix == ".onnx":
        _quantize_onnx(source, target, feeds)
    else:
        _quantize_openvino(source, target, feeds, text)


def _quantize_onnx(source: Path, target: Path, feeds: list[Feeds]) -> None:
    needs("onnx", "onnxruntime")
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        """Gives the calibration one image after the other."""

        def __init__(self) -> None:
            self._feeds: Iterator[Feeds] = iter(feeds)

        def get_next(self) -> Feeds | None:
            return next(self._feeds, None)

    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder) / "prepared.onnx")
        quantization.quant_pre_process(str(source), prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            str(target),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTIZED),
            nodes_to_exclude=_float_nodes(prepared),
            per_channel=True,
            # Products of 8-bit weights overflow 16 bits on processors without VNNI.
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )


def _float_nodes(path: str) -> list[str]:
    """What stays in float32: nodes that have no convolution before or none after them.

    These are normalisation, decoding, and the convolutions that predict: a heatmap's scores and
    sub-cell offsets are worth more than eight bits, and their convolutions are small.
    """
    import onnx

    graph = onnx.load(path).graph
    makers = {output: node for node in graph.node for output in node.output}
    convolutions = {n.name for n in graph.node if n.op_type in ("Conv", "ConvTranspose")}
    after: set[str] = set()
    for node in graph.node:  # sorted: inputs come first
        before = (makers.get(name) for name in node.input)
        if any(n is not None and (n.name in after or n.name in convolutions) for n in before):
            after.add(node.name)
    ahead: set[str] = set()
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.name)
    for node in reversed(graph.node):
        later = [reader for name in node.output for reader in readers.get(name, ())]
        if any(name in ahead or name in convolutions for name in later):
            ahead.add(node.name)
    network = (convolutions | after) & ahead
    return [node.name for node in graph.node if node.name not in network]


def _quantize_openvino(source: Path, target: Path, feeds: list[Feeds], text: str) -> None:
    nncf, openvino = needs("nncf"), needs("openvino")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    model = openvino.convert_model(source)
    quantized = nncf.quantize(
        model,
        nncf.Dataset(feeds),
        subset_size=len(feeds),
        ignored_scope=nncf.IgnoredScope(types=["MatMul"], validate=False),
    )
    save_openvino(quantized, text, target)
