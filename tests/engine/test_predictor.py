"""MultitaskPredictor: sizes, batches, tasks, channel order, and no start from random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T  # noqa: N812
from detectron2.modeling import build_model
from torch import nn

from d2_multitask.config import load_config
from d2_multitask.engine.predictor import (
    MultitaskPredictor,
    chosen_tasks,
    find_weights,
    inference_model,
    load_trained_model,
)

SMALL = [
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.RESNETS.RES2_OUT_CHANNELS", "8"),
    *("MODEL.FPN.OUT_CHANNELS", "8", "MODEL.CENTER_HEAD.SCORE_THRESH_TEST", "0.0"),
]


def small_cfg(folder: Path, *opts: str):
    opts = [*SMALL, "OUTPUT_DIR", str(folder), *opts]
    return load_config("quick/mcn_seg_det_pose.yaml", opts)


def save_weights(cfg, path: Path) -> Path:
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predictor")
    cfg = small_cfg(folder)
    save_weights(cfg, folder / "model_final.pth")
    return cfg


@pytest.fixture(scope="module")
def predictor(cfg):
    return MultitaskPredictor(cfg)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


class Recorder(nn.Module):
    """Stands in for the network and remembers its input."""

    def forward(self, batched_inputs, tasks=None):
        self.inputs, self.tasks = batched_inputs, tasks
        return [{} for _ in batched_inputs]


def recording_predictor(size: int = 0, input_format: str = "BGR") -> MultitaskPredictor:
    resize = T.ResizeShortestEdge([size, size], 1333)
    return MultitaskPredictor(model=Recorder(), resize=resize, input_format=input_format)


@pytest.mark.parametrize("size", [(96, 128), (75, 61), (32, 200)])
def test_results_have_the_size_of_the_image(predictor, size):
    result = predictor(picture(*size))
    assert result["sem_seg"].shape == (2, *size)
    instances = result["instances"]
    assert instances.image_size == size
    assert instances.pred_keypoints.shape[1:] == (17, 3)
    assert not result["sem_seg"].requires_grad


def test_a_batch_gives_what_single_images_give(predictor):
    images = [picture(96, 96), picture(96, 96, seed=1)]
    both = predictor.predict_batch(images)
    for image, result in zip(images, both, strict=True):
        torch.testing.assert_close(predictor(image)["sem_seg"], result["sem_seg"])


def test_tasks_choose_the_heads(predictor):
    assert set(predictor(picture(64, 64), ["seg"])) == {"sem_seg"}
    result = predictor(picture(64, 64), ["det"])
    assert set(result) == {"instances"}
    assert not result["instances"].has("pred_keypoints")


def test_an_unknown_task_is_an_error(predictor):
    with pytest.raises(ValueError, match="found 'depth'"):
        predictor(picture(64, 64), ["depth"])


@pytest.mark.parametrize(
    ("size", "image_hw", "expected"),
    [
        pytest.param(0, (60, 80), (60, 80), id="0-keeps-the-size"),
        pytest.param(120, (60, 80), (120, 160), id="shorter-side"),
        pytest.param(600, (60, 600), (133, 1333), id="longer-side-limited"),
    ],
)
def test_the_network_input_has_the_test_size(size, image_hw, expected):
    predictor = recording_predictor(size)
    predictor(picture(*image_hw))
    (network_input,) = predictor.model.inputs
    assert network_input["image"].shape == (3, *expected)
    assert network_input["image"].dtype == torch.uint8
    assert (network_input["height"], network_input["width"]) == image_hw


@pytest.mark.parametrize(("input_format", "expected"), [("BGR", [1, 2, 3]), ("RGB", [3, 2, 1])])
def test_the_image_comes_in_the_order_of_the_network(input_format, expected):
    predictor = recording_predictor(input_format=input_format)
    predictor(np.broadcast_to(np.array([1, 2, 3], np.uint8), (8, 8, 3)))
    assert predictor.model.inputs[0]["image"][:, 0, 0].tolist() == expected


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(np.zeros((8, 8), np.uint8), id="grey"),
        pytest.param(np.zeros((8, 8, 4), np.uint8), id="alpha"),
        pytest.param(np.zeros((8, 8, 3), np.float32), id="float"),
    ],
)
def test_another_kind_of_array_is_an_error(image):
    with pytest.raises(ValueError, match="expected \\(H, W, 3\\) and uint8"):
        recording_predictor()(image)


def test_another_channel_order_is_an_error():
    with pytest.raises(ValueError, match="INPUT.FORMAT: found 'GRB'"):
        recording_predictor(input_format="GRB")


def test_the_config_is_not_changed(cfg):
    before = cfg.dump()
    MultitaskPredictor(cfg)
    assert cfg.dump() == before


def test_named_weights_come_first(cfg, tmp_path):
    path = tmp_path / "mine.pth"
    path.touch()
    named = cfg.clone()
    named.MODEL.WEIGHTS = str(path)
    assert find_weights(named) == str(path)


def test_the_final_weights_of_the_output_folder_are_found(cfg, caplog):
    with caplog.at_level("INFO"):
        assert find_weights(cfg).endswith("model_final.pth")
    assert "MODEL.WEIGHTS is empty" in caplog.text


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        pytest.param("", "add `MODEL.WEIGHTS path", id="none-anywhere"),
        pytest.param("nowhere.pth", "found 'nowhere.pth'", id="named-but-absent"),
    ],
)
def test_no_weights_is_an_error_that_says_what_to_type(tmp_path, weights, message):
    cfg = small_cfg(tmp_path, *(["MODEL.WEIGHTS", weights] if weights else []))
    with pytest.raises(ValueError, match=message):
        MultitaskPredictor(cfg)


def test_weights_without_a_head_are_an_error(cfg, tmp_path):
    fewer = cfg.clone()
    fewer.MODEL.TASKS = ["det"]
    weights = save_weights(fewer, tmp_path / "det.pth")
    wanting = cfg.clone()
    wanting.MODEL.WEIGHTS = str(weights)
    with pytest.raises(ValueError, match="has no values for .* heads.seg") as error:
        load_trained_model(wanting)
    assert "MODEL.TASKS" in str(error.value)


@pytest.mark.parametrize(
    ("model_tasks", "test_tasks", "asked", "expected"),
    [
        pytest.param(["seg", "det"], [], None, ["seg", "det"], id="all"),
        pytest.param(["seg", "det"], ["det"], None, ["det"], id="config"),
        pytest.param(["seg", "det"], ["det"], ["seg"], ["seg"], id="asked"),
        pytest.param(["det"], [], ["center"], ["center"], id="required-head"),
    ],
)
def test_chosen_tasks(cfg, model_tasks, test_tasks, asked, expected):
    cfg = cfg.clone()
    cfg.MODEL.TASKS, cfg.TEST.TASKS = model_tasks, test_tasks
    assert chosen_tasks(cfg, asked) == expected


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        pytest.param("depth", "unknown task 'depth', expected some of: .*det", id="unknown"),
        pytest.param("pose", "found 'pose', expected some of this network's", id="not-built"),
    ],
)
def test_a_task_that_cannot_run_is_an_error(cfg, asked, message):
    cfg = cfg.clone()
    cfg.MODEL.TASKS = ["seg", "det"]
    with pytest.raises(ValueError, match=message):
        chosen_tasks(cfg, [asked])


def test_the_faster_copy_answers_the_same(cfg, predictor):
    plain = cfg.clone()
    plain.TEST.FUSED = False
    slow = MultitaskPredictor(plain)
    assert any(hasattr(m, "running_var") for m in slow.model.modules())
    assert not any(hasattr(m, "running_var") for m in predictor.model.modules())
    image = picture(120, 90)
    before, after = slow(image), predictor(image)
    torch.testing.assert_close(after["sem_seg"], before["sem_seg"], rtol=1e-3, atol=1e-4)
    scores = [result["instances"].scores for result in (before, after)]
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-3, atol=1e-5)


def test_without_the_keys_the_network_itself_runs(cfg):
    model = nn.Identity()
    plain = cfg.clone()
    plain.TEST.FUSED = False
    assert inference_model(plain, model) is model
    plain.TEST.COMPILED = True
    compiled = inference_model(plain, model)
    assert compiled is not model and not compiled.training


def test_tiles_are_those_of_the_config(tmp_path):
    """Twice the tile's size in each direction, neighbours overlap: nine tiles, in threes."""
    opts = ["TEST.TILES.ENABLED", "True", "TEST.TILES.SIZE", "(32, 48)"]
    cfg = small_cfg(tmp_path, "TEST.TILES.BATCH_SIZE", "3", "TEST.FUSED", "False", *opts)
    calls = []

    class Tiles(nn.Module):
        def forward(self, batched_inputs):
            calls.append([tuple(x["image"].shape[1:]) for x in batched_inputs])
            return [{"sem_seg": torch.zeros(2, 32, 48)} for _ in batched_inputs]

    model = inference_model(cfg, Tiles())
    (result,) = model([{"image": torch.zeros(3, 64, 96), "height": 10, "width": 20}])
    assert result["sem_seg"].shape == (2, 10, 20)
    assert calls == [[(32, 48)] * 3] * 3
