"""A TensorFlow.js graph model with the layers of MoveNet MultiPose and synthetic weights."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = "StatefulPartitionedCall/"
BODY = f"{ROOT}center_net_mobile_net_v2fpn_feature_extractor/model_1/"
HEADS = {
    "center_0": 1,
    "box_scale_0": 2,
    "box_offset_0": 2,
    "kpt_heatmap_0": 17,
    "kpt_regress_0": 34,
    "kpt_offset_0": 34,
}
BLOCKS = (24, *(40,) * 2, *(48,) * 3, *(96,) * 4, *(144,) * 3, *(240,) * 3, 480)


def layers() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors of layers, as in the published file."""

    def normed(name: str, shape: tuple[int, ...], kind: str = "Conv2D"):
        bias = shape[2] if "depthwise" in kind else shape[3]
        yield f"{BODY}model/{name}/{kind}_weights", shape
        yield f"{BODY}model/{name}/{kind}_bn_offset", (bias,)

    yield from normed("Conv1", (3, 3, 3, 48))
    channels = 48
    for index, out in enumerate(BLOCKS):
        prefix, wide = f"block_{index}" if index else "expanded_conv", channels
        if index:
            wide = 6 * channels
            yield from normed(f"{prefix}_expand", (1, 1, channels, wide))
        yield from normed(f"{prefix}_depthwise", (3, 3, wide, 1), "depthwise")
        yield from normed(f"{prefix}_project", (1, 1, wide, out))
        channels = out
    yield from normed("Conv_1", (1, 1, 480, 1280))
    for index, (inside, out) in enumerate(((1280, 64), (96, 64), (48, 32), (40, 24))):
        name = f"{BODY}conv2d{f'_{index}' if index else ''}"
        yield f"{name}/Conv2D/ReadVariableOp", (1, 1, inside, out)
        yield f"{name}/BiasAdd/ReadVariableOp", (out,)
    for index, (inside, out) in enumerate(((64, 32), (32, 24), (24, 24))):
        name = f"{BODY}separable_conv2d{f'_{index}' if index else ''}/separable_conv2d"
        yield f"{name}/ReadVariableOp", (3, 3, inside, 1)
        yield f"{name}_weights", (1, 1, inside, out)
        yield f"{name}_bn_offset", (out,)
    for index, (head, out) in enumerate(HEADS.items()):
        hidden = f"{ROOT}{head}/separable_conv2d_{index + 3}"
        last = f"{ROOT}{head}/conv2d_{index + 4}"
        yield f"{hidden}/separable_conv2d/ReadVariableOp", (3, 3, 24, 1)
        yield f"{hidden}/separable_conv2d/ReadVariableOp_1", (1, 1, 24, 96)
        yield f"{hidden}/BiasAdd/ReadVariableOp", (96,)
        yield f"{last}/Conv2D/ReadVariableOp", (1, 1, 96, out)
        yield f"{last}/BiasAdd/ReadVariableOp", (out,)


def weights() -> dict[str, np.ndarray]:
    """Float16 arrays, such that activations keep their size from layer to layer."""
    random = np.random.RandomState(0)
    arrays = {}
    for name, shape in layers():
        is_depthwise = shape[0] == 3 and shape[-1] == 1
        inputs = 9 if is_depthwise else math.prod(shape[:-1])
        scale = math.sqrt(2 / inputs) if len(shape) == 4 else 0.2
        if shape[:3] == (1, 1, 96) and "_0/" in name:
            scale *= 0.03  # a head's last layer
        arrays[name] = (random.standard_normal(shape) * scale).astype(np.float16)
    # Scores, box sizes (cells) and distances of keypoints as a trained network has them.
    arrays[f"{ROOT}center_0/conv2d_4/BiasAdd/ReadVariableOp"] -= np.float16(1)
    arrays[f"{ROOT}box_scale_0/conv2d_5/BiasAdd/ReadVariableOp"] += np.float16(10)
    return arrays


def write_graph_model(
    folder: Path, arrays: dict[str, np.ndarray] | None = None, name: str = "model"
) -> Path:
    """Write NAME.json and NAME.bin; returns the path of the first."""
    arrays = weights() if arrays is None else arrays
    entries = [
        {
            "name": layer,
            "shape": list(array.shape),
            "dtype": "float32",
            "quantization": {"dtype": "float16", "original_dtype": "float32"},
        }
        for layer, array in arrays.items()
    ]
    manifest = [{"paths": [f"{name}.bin"], "weights": entries}]
    model = {"format": "graph-model", "modelTopology": {}, "weightsManifest": manifest}
    (folder / f"{name}.json").write_text(json.dumps(model))
    (folder / f"{name}.bin").write_bytes(b"".join(array.tobytes() for array in arrays.values()))
    return folder / f"{name}.json"
