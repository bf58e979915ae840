"""Predictor on a network whose answers are known."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from detectron2.layers import batched_nms

from d2_multitask.runtime import ModelFileError, Predictor
from d2_multitask.runtime.objects import nms
from d2_multitask.runtime.sessions import SAME_SHAPES, OnnxSession
from runtime_support import write_model


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("runtime") / "tiny.onnx")


def test_objects_in_pixels_of_the_image(path):
    # 64 x 128 becomes 32 x 64: coordinates are doubled.
    result = Predictor(path)(grey(64, 128))
    assert result.image_size == (64, 128)
    assert result.scores.tolist() == pytest.approx([0.9, 0.6])
    assert result.classes.tolist() == [0, 1]
    assert result.boxes.tolist() == [[4, 8, 20, 40], [16, 16, 80, 48]]
    assert result.keypoints[0, 0].tolist() == pytest.approx([8, 12, 0.9])
    assert (result.boxes.dtype, result.classes.dtype) == (np.float32, np.int64)


def test_boxes_end_at_the_image_and_empty_ones_are_left_out(path):
    result = Predictor(path)(grey(32, 32))
    assert result.boxes.tolist() == [[2, 4, 10, 20], [8, 8, 32, 24]]
    assert len(Predictor(path)(grey(64, 7))) == 1  # the other begins at x = 8


def test_the_map_shows_where_the_image_is_bright(path):
    image = grey(32, 48)
    image[8:24, 16:40] = 200
    expected = np.zeros((32, 48), np.int64)
    expected[8:24, 16:40] = 1
    result = Predictor(path)(image)
    assert result.maps["sem_seg"].shape == (2, 32, 48)
    assert (result.sem_seg == expected).mean() > 0.95


def test_a_batch_of_several_sizes_gives_what_single_images_give(path):
    predictor = Predictor(path)
    images = [grey(40, 70), grey(100, 30), grey(33, 33)]
    for image, result in zip(images, predictor.predict_batch(images), strict=True):
        single = predictor(image)
        np.testing.assert_allclose(result.boxes, single.boxes)
        np.testing.assert_allclose(result.maps["sem_seg"], single.maps["sem_seg"], atol=1e-4)
    assert predictor.predict_batch([]) == []


def test_tasks(path):
    result = Predictor(path)(grey(32, 32), tasks=["seg"])
    assert result.boxes is None
    assert set(result.maps) == {"sem_seg"}
    result = Predictor(path, tasks=["det"])(grey(32, 32))
    assert (result.keypoints, result.maps) == (None, {})
    assert len(Predictor(path, tasks=["pose"])(grey(32, 32)).boxes) == 2
    with pytest.raises(ValueError, match="tasks: found 'parts', expected some of this network's"):
        Predictor(path, tasks=["parts"])


@pytest.mark.parametrize(
    "image",
    [
        "a.jpg",
        None,
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_image_is_refused(path, image):
    with pytest.raises(ValueError, match=r"^image: found .* expected an array \(H, W, 3\)"):
        Predictor(path)(image)


def test_an_image_of_2_x_3000_pixels(path):
    result = Predictor(path)(grey(2, 3000))
    assert result.maps["sem_seg"].shape == (2, 2, 3000)


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(FileNotFoundError, match="found no such file"):
        Predictor(tmp_path / "missing.onnx")
    text = tmp_path / "text.onnx"
    text.write_text("this is no network")
    with pytest.raises(ModelFileError, match=r"text.onnx: found no network, .*d2mt export"):
        Predictor(text)
    with pytest.raises(ModelFileError, match="found no metadata"):
        Predictor(write_model(tmp_path / "other.onnx", text=""))
    other = write_model(tmp_path / "names.onnx", outputs={"parts": {"task": "parts"}})
    with pytest.raises(ModelFileError, match="found no output 'parts', expected those of its"):
        Predictor(other)
    with pytest.raises(ValueError, match="backend: found 'tensorrt', expected one of"):
        Predictor(text, backend="tensorrt")


def test_a_file_cut_off_is_not_a_newer_one(path, tmp_path):
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ModelFileError, match="expected it whole: copy or export it again"):
        Predictor(cut)


def test_what_the_library_cannot_run_is_one_sentence(path):
    images, sizes = np.zeros((1, 8, 16, 3), np.float64), np.array([[8, 16]], np.int32)
    with pytest.raises(ModelFileError, match="cannot run it on 1 images of 8x16 pixels") as raised:
        OnnxSession(path, None).run(images, sizes, ["scores"])
    assert "\n" not in str(raised.value)


def test_a_file_for_a_newer_onnx_runtime(tmp_path):
    with pytest.raises(ModelFileError, match="pip install --upgrade onnxruntime") as raised:
        Predictor(write_model(tmp_path / "new.onnx", opset=99))
    assert "opset" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_openvino(path, tmp_path):
    pytest.importorskip("openvino")
    image = grey(64, 128)
    found, expected = Predictor(path, threads=1, backend="openvino")(image), Predictor(path)(image)
    np.testing.assert_allclose(found.boxes, expected.boxes)
    np.testing.assert_allclose(found.maps["sem_seg"], expected.maps["sem_seg"], atol=1e-4)
    text = tmp_path / "text.xml"
    text.write_text("this is no network")
    with pytest.raises(ModelFileError, match="text.xml: found no network"):
        Predictor(text)


def test_openvino_in_several_threads(path):
    pytest.importorskip("openvino")
    predictor = Predictor(path, threads=1, backend="openvino")
    images = [np.full((256, 256, 3), value, np.uint8) for value in range(0, 240, 30)] * 4
    expected = [predictor(image).maps["sem_seg"] for image in images]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(predictor, images))
    for result, values in zip(found, expected, strict=True):
        np.testing.assert_allclose(result.maps["sem_seg"], values, atol=1e-4)


def test_openvino_compiles_for_a_size_that_repeats(path):
    pytest.importorskip("openvino")
    predictor = Predictor(path, threads=1, backend="openvino")
    session = predictor._session
    for size in ((64, 128), (96, 64)):
        results = [predictor(grey(*size)) for _ in range(SAME_SHAPES - 1)]
        assert session._compiled is session._of_any_size
        results.append(predictor(grey(*size)))
        assert session._compiled is not session._of_any_size
        np.testing.assert_allclose(results[-1].boxes, results[0].boxes, atol=1e-3)
        for name, values in results[0].maps.items():
            np.testing.assert_allclose(results[-1].maps[name], values, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_nms_equals_torchvisions(seed):
    random = np.random.default_rng(seed)
    corners = np.sort(random.uniform(0, 50, (80, 2, 2)), 1).astype(np.float32)
    boxes, classes = corners.reshape(-1, 4), random.integers(0, 2, 80)
    scores = random.random(80).astype(np.float32)
    expected = batched_nms(*map(torch.from_numpy, (boxes, scores, classes)), 0.3)
    assert nms(boxes, scores, classes, 0.3).tolist() == expected.tolist()
    assert nms(boxes[:0], scores[:0], classes[:0], 0.3).tolist() == []


@pytest.mark.parametrize("threads", [0, -1, "2"])
def test_a_number_of_threads(tmp_path, threads: object) -> None:
    with pytest.raises(ValueError, match="expected a number above 0, or None"):
        Predictor(write_model(tmp_path / "model.onnx"), threads=threads)


def test_tasks_are_a_list(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"found 'seg', expected a list such as \['seg'\]"):
        Predictor(write_model(tmp_path / "model.onnx"), tasks="seg")
