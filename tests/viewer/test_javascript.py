"""The page's preprocessing and post-processing in Node, against Pillow, Detectron2 and PyTorch."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.layers import batched_nms
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from PIL import Image

from d2_multitask.data.transforms.build import ResizeShortestEdge
from d2_multitask.data.transforms.crops import WholeImageResize
from d2_multitask.heads.dense import resize_maps
from d2_multitask.viewer.server import PAGE, STATIC
from d2_multitask.visualization.style import CLASS_COLORS, OBJECT_COLORS

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="Node is not installed")

SHORTEST_EDGE = {"format": "BGR", "divisor": 32, "resize": "shortest_edge", "square": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modules")
    for name in PAGE:
        shutil.copy(STATIC / name, folder)
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


def run(folder: Path, code: str, data: Any = None, module: str = "network.js") -> Any:
    """The value of a JavaScript expression that sees the module as ``m``, the data as ``d``."""
    script = f"""
import {{ readFileSync }} from "node:fs";
import * as m from "./{module}";
const d = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify({code}));
"""
    (folder / "script.js").write_text(script)
    done = subprocess.run(
        [NODE, "script.js"], cwd=folder, input=json.dumps(data), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def rgba(image: np.ndarray) -> list[int]:
    return np.dstack([image, np.full(image.shape[:2], 255, np.uint8)]).ravel().tolist()


@pytest.mark.parametrize(
    ("size", "new_size"),
    [
        ((37, 53), (20, 31)),  # smaller
        ((20, 31), (37, 53)),  # larger
        ((40, 30), (40, 17)),  # one axis alone
        ((40, 30), (13, 30)),
        ((3, 400), (1, 64)),
        ((5, 5), (5, 5)),
        ((1, 1), (9, 4)),
    ],
)
def test_resizing_is_pillows_to_the_last_bit(folder, size, new_size):
    image = noise(*size)
    expected = Image.fromarray(image).resize(new_size[::-1], Image.Resampling.BILINEAR)
    code = "Array.from(m.resizePixels(d.pixels, d.size, d.new_size))"
    found = run(folder, code, {"pixels": rgba(image), "size": size, "new_size": new_size})
    found = np.array(found).reshape(*new_size, 4)[..., :3]
    np.testing.assert_array_equal(found, np.asarray(expected))


def network_input(folder: Path, image: np.ndarray, **changes: Any) -> tuple[np.ndarray, list[int]]:
    code = (
        "(({data, size, padded}) => ({data: Array.from(data), size, padded}))"
        "(m.networkInput(d.pixels, d.size, d.input))"
    )
    data = {"pixels": rgba(image[..., ::-1]), "size": image.shape[:2]}
    found = run(folder, code, {**data, "input": {**SHORTEST_EDGE, **changes}})
    return np.array(found["data"]).reshape(*found["padded"], 3), found["size"]


@pytest.mark.parametrize("size", [(48, 64), (71, 50), (40, 300), (2, 300), (96, 97)])
def test_network_input_is_that_of_detectron2(folder, size):
    bgr = noise(*size)
    expected = ResizeShortestEdge([64, 64], 100).get_transform(bgr).apply_image(bgr)
    found, found_size = network_input(folder, bgr, min_size=64, max_size=100)
    assert found_size == list(expected.shape[:2])
    assert found.shape[:2] == tuple(-(-side // 32) * 32 for side in expected.shape[:2])
    np.testing.assert_array_equal(found[: found_size[0], : found_size[1]], expected)
    assert not found[found_size[0] :].any() and not found[:, found_size[1] :].any()


def test_network_input_of_a_fixed_size_in_rgb_and_padded_to_a_square(folder):
    bgr = noise(50, 80)
    expected = WholeImageResize((32, 48)).get_transform(bgr).apply_image(bgr)
    stretch = {"resize": "stretch", "size": [32, 48]}
    np.testing.assert_array_equal(network_input(folder, bgr, **stretch)[0][:, :48], expected)
    found, size = network_input(folder, bgr, format="RGB", square=90, min_size=0, max_size=0)
    assert size == [50, 80] and found.shape == (96, 96, 3)
    np.testing.assert_array_equal(found[:50, :80], bgr[..., ::-1])


@pytest.mark.parametrize("nms", [0.0, 0.3])
def test_objects_are_those_of_detectron2(folder, nms):
    generator = np.random.default_rng(1)
    corners = generator.uniform(-20, 90, (60, 2))
    boxes = np.hstack([corners, corners + generator.uniform(0, 40, (60, 2))]).astype(np.float32)
    fields = {
        "boxes": boxes,
        "scores": generator.permutation(60).astype(np.float32) / 59,
        "classes": generator.integers(0, 2, 60),
        "keypoints": generator.uniform(-10, 90, (60, 3, 3)).astype(np.float32),
    }
    size, image_size = (64, 72), (100, 300)
    tensors = {name: torch.from_numpy(value) for name, value in fields.items()}
    instances = Instances(
        size,
        pred_boxes=Boxes(tensors["boxes"]),
        scores=tensors["scores"],
        pred_classes=tensors["classes"],
        pred_keypoints=tensors["keypoints"],
    )
    instances = instances[instances.scores > 0.2]
    if nms:
        kept = batched_nms(
            instances.pred_boxes.tensor, instances.scores, instances.pred_classes, nms
        )
        assert len(kept) < len(instances)
        instances = instances[kept]
    expected = detector_postprocess(instances, *image_size)
    expected = expected[expected.scores.argsort(descending=True)]
    code = """m.findObjects(
        Object.fromEntries(Object.entries(d.fields).map(([name, values]) =>
            [name, {data: Float32Array.from(values)}])),
        d.objects, d.size, d.image_size)"""
    data = {
        "fields": {name: value.ravel().tolist() for name, value in fields.items()},
        "objects": {"score_threshold": 0.2, "nms_threshold": nms, "keypoint_names": ["a"] * 3},
        "size": size,
        "image_size": image_size,
    }
    found = run(folder, code, data)
    assert 0 < len(found) == len(expected)
    for key, value in {
        "score": expected.scores,
        "classId": expected.pred_classes,
        "box": expected.pred_boxes.tensor,
        "keypoints": expected.pred_keypoints,
    }.items():
        np.testing.assert_allclose([one[key] for one in found], value, atol=1e-3)


def best_channels(folder: Path, maps: torch.Tensor, stride: int, size, image_size) -> np.ndarray:
    code = """Array.from(m.bestChannels(
        {data: Float32Array.from(d.map), dims: [1, ...d.dims]}, d.stride, d.size, d.image_size))"""
    data = {"map": maps.ravel().tolist(), "dims": maps.shape, "stride": stride, "size": size}
    return np.array(run(folder, code, {**data, "image_size": image_size})).reshape(image_size)


@pytest.mark.parametrize(
    ("stride", "cells", "size", "image_size"),
    [
        (4, (16, 24), (64, 90), (133, 187)),  # the image ends inside a cell
        (4, (16, 24), (60, 88), (133, 187)),  # and between cells
        (4, (16, 24), (64, 93), (30, 41)),
        (1, (24, 16), (21, 13), (60, 40)),
        (8, (4, 4), (3, 31), (5, 64)),
    ],
)
def test_classes_of_pixels_are_those_of_pytorch(folder, stride, cells, size, image_size):
    maps = torch.randn(3, *cells, generator=torch.Generator().manual_seed(0))
    scores = resize_maps(maps, stride, size, image_size)
    best = scores.topk(2, dim=0)
    clear = (best.values[0] - best.values[1]).numpy() > 1e-4  # else rounding decides
    assert clear.mean() > 0.99
    found = best_channels(folder, maps, stride, size, image_size)
    np.testing.assert_array_equal(found[clear], best.indices[0].numpy()[clear])


@pytest.mark.parametrize("kind", ["logits", "values"])
def test_mask_threshold_is_a_probability(folder, kind):
    maps = torch.randn(2 if kind == "logits" else 1, 8, 8) * 2
    maps = maps if kind == "logits" else maps.sigmoid()
    resized = resize_maps(maps, 4, (32, 32), (50, 60))
    probability = resized.softmax(0)[1] if kind == "logits" else resized[0]
    code = """Array.from(m.classesOf({data: Float32Array.from(d.map), dims: d.dims},
        {stride: 4, kind: d.kind}, ["background", "person"], 0.8, [32, 32], [50, 60]))"""
    data = {"map": maps.ravel().tolist(), "dims": [1, *maps.shape], "kind": kind}
    found = np.array(run(folder, code, data)).reshape(50, 60)
    clear = (probability - 0.8).abs().numpy() > 1e-4
    np.testing.assert_array_equal(found[clear], (probability > 0.8).numpy()[clear])


def test_run_lengths_are_cocos(folder):
    classes = np.array([[1, 0, 2], [1, 1, 2]])
    data = classes.ravel().tolist()
    assert run(folder, "[1, 2, 3].map((id) => m.runLengths(d, [2, 3], id))", data) == [
        [0, 2, 1, 1, 2],
        [4, 2],
        [6],
    ]


def test_colours_are_those_of_the_other_pictures(folder):
    found = run(folder, "[m.OBJECT_COLORS, m.CLASS_COLORS]", module="drawing.js")
    palettes = (OBJECT_COLORS, CLASS_COLORS)
    expected = [["#{:02x}{:02x}{:02x}".format(*color) for color in one] for one in palettes]
    assert found == expected


def test_the_page_loads_nothing_from_elsewhere():
    text = "".join((STATIC / name).read_text(encoding="utf-8") for name in PAGE)
    assert {path.name for path in STATIC.iterdir()} == set(PAGE)
    assert set(re.findall(r"https?://[^\s<>\"']+", text)) == {"http://127.0.0.1:8000"}
