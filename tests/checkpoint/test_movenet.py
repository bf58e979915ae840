"""MoveNet MultiPose from TensorFlow.js: the same numbers, and what is said of other files.

movenet_golden.npz holds what TensorFlow.js 4.22 (Node.js, backend "cpu") computes with the
published graph and the weights of movenet_support.py: every fourth cell of the heads' outputs, and
the whole result of six people.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from d2_multitask.checkpoint.movenet import convert_movenet, read_graph_model
from d2_multitask.config import load_config
from d2_multitask.modeling.inference import fuse_for_inference
from movenet_support import ROOT, layers, weights, write_graph_model

GOLDEN = Path(__file__).with_name("movenet_golden.npz")
# TensorFlow.js gives (y, x) and (height, width).
PAIRS = ("offset", "wh", "keypoint_offset", "keypoint_heatmap_offset")


def build(*overrides):
    opts = ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", *overrides]
    return build_model(load_config("movenet/movenet_multipose.yaml", opts)).eval()


@pytest.fixture(scope="module")
def model():
    network = build("MODEL.CENTER_HEAD.SCORE_THRESH_TEST", "0.0")
    network.load_state_dict(convert_movenet(weights(), network.state_dict()))
    return network


@pytest.fixture(scope="module")
def image():
    """(3, 96, 64): squares of 16 pixels."""
    squares = np.random.RandomState(1).randint(0, 256, (6, 4, 3)).astype(np.uint8)
    pixels = np.kron(squares, np.ones((16, 16, 1), np.uint8))
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


@torch.no_grad()
def predictions(model, image):
    images = model.preprocess_image([{"image": image}])
    features = model.backbone(images.tensor)
    found = {}
    for head in model.heads.values():
        found |= head.layers(features)
    return found


@pytest.mark.parametrize("name", [*PAIRS, "heatmap", "keypoint_heatmap"])
def test_raw_outputs_equal_tensorflow_js(model, image, name):
    ours = predictions(model, image)[name][0, :, ::4, ::4].permute(1, 2, 0).numpy()
    if name in PAIRS:
        ours = ours.reshape(6, 4, -1, 2)[..., ::-1].reshape(6, 4, -1)
    np.testing.assert_allclose(ours, np.load(GOLDEN)[name], atol=1e-3, rtol=0)


@pytest.mark.parametrize("fused", [False, True])
def test_whole_results_of_six_people_equal_tensorflow_js(model, image, fused):
    network = fuse_for_inference(model) if fused else model
    found = network([{"image": image, "height": 96, "width": 64}])[0]["instances"]
    golden = np.load(GOLDEN)["six_people"]
    assert len(found) == 6
    size = np.array([96, 64, 96, 64])
    boxes = found.pred_boxes.tensor.numpy()[:, [1, 0, 3, 2]] / size
    np.testing.assert_allclose(boxes, golden[:, 51:55], atol=1e-4)
    np.testing.assert_allclose(found.scores.numpy(), golden[:, 55], atol=1e-5)
    keypoints = found.pred_keypoints.numpy()[:, :, [1, 0, 2]] / np.array([96, 64, 1])
    np.testing.assert_allclose(keypoints, golden[:, :51].reshape(6, 17, 3), atol=1e-4)


def test_all_people_instead_of_six():
    network = build("MODEL.CENTER_HEAD.TOPK_TEST", "40")
    network.load_state_dict(convert_movenet(weights(), network.state_dict()))
    image = torch.randint(0, 256, (3, 128, 128), generator=torch.Generator().manual_seed(0))
    assert len(network([{"image": image.float()}])[0]["instances"]) > 6


def test_the_file_gives_every_tensor(tmp_path):
    arrays = read_graph_model(write_graph_model(tmp_path))
    assert arrays.keys() == dict(layers()).keys()
    for name, array in weights().items():
        np.testing.assert_array_equal(arrays[name], array)


def test_it_can_be_trained(model, image):
    network = build()
    network.load_state_dict(model.state_dict())
    network.train()
    features = network.backbone(network.preprocess_image([{"image": image}]).tensor)
    sum(value.sum() for value in network.heads["det"].layers(features).values()).backward()
    gradients = [p.grad for p in network.backbone.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_separable_branches_at_peaks_equal_whole_maps(model, image):
    fused = fuse_for_inference(model)
    assert not isinstance(predictions(fused, image)["wh"], torch.Tensor)  # computed where asked


def edit(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "layers-model"}, "'layers-model'.*expected 'graph-model'"),
        ({"weightsManifest": None}, "'weightsManifest' is missing"),
        ({"weightsManifest": [{"paths": ["../x.bin"], "weights": []}]}, "a name without folder"),
        ({"weightsManifest": [{"paths": ["none.bin"], "weights": []}]}, "none.bin: expected"),
        ({"weightsManifest": [{"paths": ["model.bin"] * 9, "weights": []}]}, "listed twice"),
        ({"weightsManifest": [{"paths": ["a"] * 99, "weights": []}]}, "at most 20"),
        (
            {"weightsManifest": [{"paths": [], "weights": [{"name": "a", "shape": [10**30]}]}]},
            "name, shape and dtype",
        ),
    ],
)
def test_other_files_are_refused(tmp_path, changes, message):
    path = write_graph_model(tmp_path)
    edit(path, **changes)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_graph_model(path)


def test_quantised_weights_are_refused(tmp_path):
    path = write_graph_model(tmp_path)
    manifest = json.loads(path.read_text())["weightsManifest"]
    manifest[0]["weights"][3]["quantization"] = {"dtype": "uint8", "min": 0, "scale": 1}
    edit(path, weightsManifest=manifest)
    with pytest.raises(ValueError, match="stored as 'uint8'; expected float32, or float16"):
        read_graph_model(path)


@pytest.mark.parametrize(("cut", "message"), [(100, "is cut off"), (-2, "another file of weights")])
def test_weights_of_another_length_are_refused(tmp_path, cut, message):
    path = write_graph_model(tmp_path)
    file = tmp_path / "model.bin"
    content = file.read_bytes()
    file.write_bytes(content[:-cut] if cut > 0 else content + bytes(-cut))
    with pytest.raises(ValueError, match=message):
        read_graph_model(path)


@pytest.mark.parametrize("content", [b"\x00\x01", b"[" * 100_000, b"[1]", b'"text"'])
def test_what_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "model.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="model.json"):
        read_graph_model(path)


def test_another_network_is_refused_with_its_missing_layers(model):
    arrays = {n: a for n, a in weights().items() if not n.startswith(f"{ROOT}kpt_heatmap_0")}
    with pytest.raises(ValueError, match=r"lacks the layers \['heads.pose.keypoint_heatmap.0"):
        convert_movenet(arrays, model.state_dict())


def test_a_layer_of_another_width_is_refused(model):
    arrays = weights()
    name = f"{ROOT}center_0/conv2d_4/Conv2D/ReadVariableOp"
    arrays[name] = np.zeros((1, 1, 96, 80), np.float16)
    with pytest.raises(ValueError, match=r"center.heatmap.2.weight: found \(80, 96, 1, 1\)"):
        convert_movenet(arrays, model.state_dict())


def test_no_object_at_all(model):
    """Nothing above the threshold: no candidate is left to weigh keypoints for."""
    network = build("MODEL.CENTER_HEAD.SCORE_THRESH_TEST", "1.0")
    network.load_state_dict(model.state_dict())
    assert len(network([{"image": torch.zeros(3, 32, 900)}])[0]["instances"]) == 0


def test_an_image_has_the_same_people_in_any_batch(model):
    opts = ["MODEL.CENTER_HEAD.TOPK_TEST", "40", "MODEL.CENTER_HEAD.SCORE_THRESH_TEST", "0.2"]
    network = build(*opts)
    network.load_state_dict(model.state_dict())
    random = torch.Generator().manual_seed(0)
    images = [torch.rand(3, 64, 96, generator=random) * scale for scale in (255, 30)]
    together = network([{"image": image} for image in images])
    for image, found in zip(images, together, strict=True):
        alone = network([{"image": image}])[0]["instances"]
        torch.testing.assert_close(found["instances"].scores, alone.scores)
        torch.testing.assert_close(found["instances"].pred_keypoints, alone.pred_keypoints)
