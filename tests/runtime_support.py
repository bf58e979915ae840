"""A tiny exported network: two objects whatever the image shows, and a map of bright pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SCORES = np.array([0.9, 0.005, 0.6], np.float32)
CLASSES = np.array([0, 0, 1], np.int32)
BOXES = np.array([[2, 4, 10, 20], [0, 0, 5, 5], [8, 8, 40, 24]], np.float32)
KEYPOINTS = np.array(
    [[[4, 6, 0.9], [8, 18, 0.05]], [[0, 0, 0], [0, 0, 0]], [[10, 10, 0.8], [30, 20, 0.7]]],
    np.float32,
)


def metadata(**changes: Any) -> dict[str, Any]:
    """The JSON of the file; ``input__min_size=0`` changes a field."""
    content: dict[str, Any] = {
        "format_version": 1,
        "package_version": "0.1.0",
        "config": "quick/mcn_seg_det_pose.yaml",
        "input": {
            "format": "BGR",
            "divisor": 8,
            "resize": "shortest_edge",
            "min_size": 32,
            "max_size": 64,
            "size": None,
            "square": 0,
        },
        "outputs": {
            "boxes": {"task": "det"},
            "scores": {"task": "center"},
            "classes": {"task": "center"},
            "keypoints": {"task": "pose"},
            "sem_seg": {"task": "seg", "stride": 4, "kind": "logits"},
        },
        "objects": {
            "score_threshold": 0.01,
            "nms_threshold": 0.0,
            "class_names": ["person", "dog"],
            "category_ids": [1, 18],
            "keypoint_names": ["left_eye", "right_hip"],
            "keypoint_sigmas": [0.026, 0.1],
            "skeleton": [[0, 1]],
            "draw_boxes": True,
        },
        "maps": {"sem_seg": {"class_names": ["background", "bright"], "category_ids": [0, 1]}},
        "draw": {"confidence_threshold": 0.3, "keypoint_threshold": 0.1, "mask_threshold": 0.5},
    }
    for name, value in changes.items():
        node, _, key = name.rpartition("__")
        (content[node] if node else content)[key] = value
    return content


def write_model(path: Path, text: str | None = None, opset: int = 17, **changes: Any) -> Path:
    """Write the network with this metadata (``""``: none); returns the path."""
    names = ("scores", "classes", "boxes", "keypoints")
    values = dict(zip(names, (SCORES, CLASSES, BOXES, KEYPOINTS), strict=True))
    kernel = np.array([[-1.0] * 3, [1.0] * 3], np.float32).reshape(2, 3, 1, 1) / 3
    constants = {f"{name}_value": value[None] for name, value in values.items()}
    constants |= {"kernel": kernel, "bias": np.array([128, -128], np.float32)}
    constants |= {f"ones_{d}": np.ones(d, np.int64) for d in (1, 2, 3)}
    constants |= {"zero": np.zeros(1, np.int64), "one": np.ones(1, np.int64)}
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["cells"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Conv", ["cells", "kernel", "bias"], ["sem_seg"]),
        helper.make_node("Shape", ["sizes"], ["shape"]),
        helper.make_node("Slice", ["shape", "zero", "one"], ["batch"]),
    ]
    outputs = [helper.make_tensor_value_info("sem_seg", TensorProto.FLOAT, ["N", 2, "h", "w"])]
    for name, value in values.items():
        full = [f"{name}_shape"]
        nodes += [
            helper.make_node("Concat", ["batch", f"ones_{value.ndim}"], full, axis=0),
            helper.make_node("Expand", [f"{name}_value", *full], [name]),
        ]
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        outputs.append(helper.make_tensor_value_info(name, kind, ["N", *value.shape]))
    inputs = [
        helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", "H", "W", 3]),
        helper.make_tensor_value_info("sizes", TensorProto.INT32, ["N", 2]),
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    text = json.dumps(metadata(**changes)) if text is None else text
    if text:
        helper.set_model_props(model, {"d2_multitask": text})
    onnx.save(model, str(path))
    return path
