"""Every format answers as the network does, for batches and sizes that were not recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from d2_multitask.export import compare_file, export_file
from d2_multitask.export.compare import compare_program
from d2_multitask.export.files import needs
from d2_multitask.runtime import Predictor
from export_support import THRESHOLD, blobs, exported, small_config, small_network

IMAGES = [blobs(48, 80), blobs(90, 60, seed=1), blobs(33, 31, seed=2)]


def test_whole_results_equal_the_networks() -> None:
    differences = compare_file(exported(), small_config(), small_network(), IMAGES)
    assert differences.within_limits, differences
    assert differences.objects > 10 and set(differences.maps) == {"sem_seg"}


def test_a_batch_of_images_of_any_sizes() -> None:
    together = Predictor(exported()).predict_batch(IMAGES)
    apart = [Predictor(exported())(image) for image in IMAGES]
    assert [result.image_size for result in together] == [(48, 80), (90, 60), (33, 31)]
    # Padding is not the network's own border: values next to it differ, as in PyTorch.
    assert [len(result) > 0 for result in together] == [len(result) > 0 for result in apart]


def test_openvino(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    cfg, model, path = small_config(), small_network(), tmp_path / "model.xml"
    export_file(cfg, model, path)
    differences = compare_file(path, cfg, model, IMAGES)
    assert differences.within_limits and differences.objects > 10, differences


@pytest.mark.parametrize("suffix", [".pt2", ".ts"])
def test_programs_of_pytorch_answer_as_the_network(tmp_path: Path, suffix: str) -> None:
    tasks = ["seg", "det"]
    path = tmp_path / f"model{suffix}"
    export_file(small_config(tasks), small_network(tasks), path)
    differences = compare_program(path, small_network(tasks), None)
    assert differences.within_limits and differences.images == 3, differences
    if suffix == ".ts":
        files = {"d2_multitask": ""}
        torch.jit.load(path, _extra_files=files)
        assert json.loads(files["d2_multitask"])["input"]["divisor"] == 8


def test_the_file_says_all_that_prediction_needs() -> None:
    info = Predictor(exported()).info
    assert (info.config, info.input.format, info.input.divisor) == ("small.yaml", "BGR", 8)
    assert (info.input.min_size, info.input.max_size) == (60, 60)
    assert set(info.outputs) == {"sem_seg", "scores", "classes", "boxes", "keypoints"}
    assert info.tasks and set(info.tasks) == {"center", "seg", "det", "pose"}
    assert info.objects.score_threshold == THRESHOLD
    assert info.objects.keypoint_names[0] == "nose"
    assert (5, 11) in info.objects.skeleton  # left shoulder, left hip
    assert info.outputs["sem_seg"].stride == 4 and len(info.maps["sem_seg"].class_names) == 2


def test_a_choice_of_tasks(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_file(small_config(), small_network(), path, ["seg"])
    result = Predictor(path)(IMAGES[0])
    assert result.boxes is None and result.sem_seg.shape == (48, 80)


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found '.tflite', expected one of .onnx, .xml"):
        export_file(small_config(), small_network(), tmp_path / "model.tflite")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("suffix", [".ts", ".xml"])
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path, suffix: str) -> None:
    if suffix == ".xml":
        pytest.importorskip("openvino")
    path = tmp_path / f"model{suffix}"
    for place in (path, path.with_suffix(".bin")):
        place.symlink_to("/dev/full")
    with pytest.raises(OSError, match="model"):
        export_file(small_config(["seg"]), small_network(["seg"]), path)


def test_a_missing_library_says_what_to_type() -> None:
    with pytest.raises(ImportError, match=r"no_such_library is not installed.*pip install"):
        needs("no_such_library")
