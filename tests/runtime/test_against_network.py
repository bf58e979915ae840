"""Whole results of an exported file are those of MultitaskPredictor, to 1e-3."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from PIL import Image

from d2_multitask.config import load_config
from d2_multitask.data.transforms.build import build_test_resize
from d2_multitask.engine.predictor import MultitaskPredictor, load_trained_model
from d2_multitask.export import export_file
from d2_multitask.runtime import Predictor, Result
from export_support import blobs, exported, small_config, small_network
from support import REPOSITORY

PHOTOGRAPHS = sorted((REPOSITORY / "docs/pictures/photographs").glob("*.jpg"))
PEOPLE = REPOSITORY / "output/movenet/mcn_people.safetensors"


def photograph(index: int = 0) -> np.ndarray:
    return np.asarray(Image.open(PHOTOGRAPHS[index]).convert("RGB"))[:, :, ::-1]


def assert_equal(result: Result, expected: dict[str, Any]) -> None:
    instances = expected["instances"]
    assert len(result) == len(instances) > 0
    np.testing.assert_allclose(result.scores, instances.scores.numpy(), atol=1e-4)
    assert result.classes.tolist() == instances.pred_classes.tolist()
    np.testing.assert_allclose(result.boxes, instances.pred_boxes.tensor.numpy(), atol=1e-3)
    np.testing.assert_allclose(result.keypoints, instances.pred_keypoints.numpy(), atol=1e-3)
    np.testing.assert_allclose(result.maps["sem_seg"], expected["sem_seg"].numpy(), atol=1e-3)
    assert result.image_size == instances.image_size == result.sem_seg.shape


def both(input_format: str = "BGR", **objects: Any) -> tuple[Predictor, MultitaskPredictor]:
    """The same small network in ONNX Runtime and in PyTorch."""
    cfg, model = small_config(), small_network()
    predictor = Predictor(exported(), threads=1)
    info = predictor.info
    predictor.info = dataclasses.replace(
        info,
        input=dataclasses.replace(info.input, format=input_format),
        objects=dataclasses.replace(info.objects, **objects),
    )
    for name, value in objects.items():
        setattr(model.heads["center"], name, value)
    resize = build_test_resize(cfg)
    return predictor, MultitaskPredictor(model=model, resize=resize, input_format=input_format)


@pytest.mark.parametrize("size", [(60, 60), (45, 61), (20, 30), (131, 150), (300, 77)])
def test_images_of_several_sizes(size):
    predictor, network = both()
    assert_equal(predictor(blobs(*size)), network(blobs(*size)))


@pytest.mark.parametrize("input_format", ["BGR", "RGB"])
def test_a_batch_of_several_sizes_and_a_photograph(input_format):
    predictor, network = both(input_format)
    images = [photograph(), blobs(31, 47), photograph(2), blobs(200, 90)]
    pairs = zip(predictor.predict_batch(images), network.predict_batch(images), strict=True)
    for result, expected in pairs:
        assert_equal(result, expected)


def test_nms_before_the_scaling():
    image = blobs(131, 150)
    predictor, network = both(nms_threshold=0.01)
    assert_equal(predictor(image), network(image))
    assert len(predictor(image)) < len(both()[0](image))


@pytest.mark.parametrize("size", [(60, 60), (45, 61)])
def test_an_image_in_centernets_frame(size):
    cfg, (predictor, _) = small_config(), both()
    info = predictor.info
    framed = dataclasses.replace(info.input, resize="centernet_keep")
    predictor.info = dataclasses.replace(info, input=framed)
    cfg.INPUT.RESIZE_TEST = "centernet_keep"
    network = MultitaskPredictor(model=small_network(), resize=build_test_resize(cfg))
    assert_equal(predictor(blobs(*size)), network(blobs(*size)))


@pytest.mark.slow
@pytest.mark.skipif(not PEOPLE.is_file(), reason=f"{PEOPLE} is not there (make people)")
def test_people_in_photographs(tmp_path):
    options = ["MODEL.WEIGHTS", str(PEOPLE), "MODEL.DEVICE", "cpu", "TEST.SCALES", "[]"]
    cfg = load_config("movenet/mcn_people.yaml", options)
    model = load_trained_model(cfg).eval()
    export_file(cfg, model, tmp_path / "people.onnx")
    predictor = Predictor(tmp_path / "people.onnx")
    network = MultitaskPredictor(
        model=model, resize=build_test_resize(cfg), input_format=cfg.INPUT.FORMAT
    )
    for index in range(len(PHOTOGRAPHS)):
        assert_equal(predictor(photograph(index)), network(photograph(index)))
