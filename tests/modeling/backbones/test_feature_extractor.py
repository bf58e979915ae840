"""Networks of torchvision and timm by name: nodes, strides, freezing, weights."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
import torchvision
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn

from d2_multitask.modeling.backbones import (
    FeatureExtractor,
    add_backbone_config,
    build_feature_extractor,
)
from d2_multitask.modeling.backbones.feature_extractor import find_last_blocks
from support import needs_real_data, real_data

RGB = ShapeSpec(channels=3)
LIGHT = ["features.3", "features.6", "features.13", "features.17"]


def extractor_config(name="torchvision/mobilenet_v2", **keys):
    cfg = get_cfg()
    add_backbone_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_feature_fpn_stride4_backbone"
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.FEATURE_EXTRACTOR.NAME = name
    for key, value in keys.items():
        cfg.MODEL.FEATURE_EXTRACTOR[key] = value
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    cfg.INPUT.FORMAT = "RGB"
    return cfg


def channels(extractor):
    return [shape.channels for shape in extractor.output_shape().values()]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # after the last block of each stride, not after the next block's expansion (144 channels)
        pytest.param("torchvision/mobilenet_v2", [24, 32, 96, 1280], id="mobilenet_v2"),
        pytest.param("torchvision/mobilenet_v3_small", [16, 24, 48, 576], id="mobilenet_v3"),
        pytest.param("torchvision/resnet18", [64, 128, 256, 512], id="resnet18"),
        pytest.param("torchvision/regnet_y_400mf", [48, 104, 208, 440], id="nested-stages"),
        pytest.param("torchvision/shufflenet_v2_x0_5", [24, 48, 96, 1024], id="ends-in-pooling"),
        pytest.param("timm/mobilenetv3_small_100", [16, 24, 48, 576], id="timm-mobilenetv3"),
        pytest.param("timm/resnet10t", [64, 128, 256, 512], id="timm-resnet"),
        pytest.param("timm/convnext_atto", [40, 80, 160, 320], id="timm-no-stride-2"),
    ],
)
def test_networks(name, expected):
    backbone = build_backbone(extractor_config(name))
    extractor = backbone.bottom_up
    assert channels(extractor) == expected
    assert [shape.stride for shape in extractor.output_shape().values()] == [4, 8, 16, 32]
    assert backbone.size_divisibility == 32
    with torch.no_grad():
        features = extractor(torch.rand(1, 3, 64, 96))
        assert backbone(torch.rand(1, 3, 64, 96))["p2"].shape == (1, 16, 16, 24)
    for feature, shape in zip(features.values(), extractor.output_shape().values(), strict=True):
        assert feature.shape == (1, shape.channels, 64 // shape.stride, 96 // shape.stride)


class Block(nn.Module):
    """Expands at the old stride, then reduces: the end of `expand` is no block's output."""

    def __init__(self):
        super().__init__()
        self.expand = nn.Conv2d(3, 12, 1)
        self.reduce = nn.Conv2d(12, 3, 2, stride=2)

    def forward(self, x):
        return self.reduce(self.expand(x))


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        pytest.param(
            nn.Sequential(*[Block() for _ in range(5)]), ["1", "2", "3", "4"], id="one-block-each"
        ),
        pytest.param(
            nn.Sequential(
                nn.Sequential(Block(), Block(), nn.ReLU(), Block()),
                nn.Sequential(Block(), Block()),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
            ),
            ["0.2", "0.3", "1.0", "1.1"],
            id="opens-what-mixes-strides",
        ),
        pytest.param(
            nn.Sequential(Block(), nn.Sequential(Block(), nn.ReLU()), Block(), Block(), Block()),
            ["1", "2", "3", "4"],
            id="closes-what-has-one-stride",
        ),
    ],
)
def test_last_blocks(network, expected):
    assert find_last_blocks("test", network) == expected


def test_keys_are_torchvisions():
    body = build_feature_extractor(extractor_config(), RGB).body
    own = torchvision.models.mobilenet_v2(weights=None).state_dict()
    assert set(body.state_dict()) == {key for key in own if key.startswith("features.")}
    assert len(body.state_dict()) == 312


def test_keys_are_timms():
    timm = pytest.importorskip("timm")
    body = build_feature_extractor(extractor_config("timm/convnext_atto"), RGB).body
    own = timm.create_model("convnext_atto").state_dict()
    assert {key.removeprefix("model.") for key in body.state_dict()} <= set(own)


@pytest.mark.parametrize("nodes", [LIGHT, LIGHT[::-1]], ids=["in-order", "in-any-order"])
def test_out_nodes(nodes):
    extractor = build_feature_extractor(extractor_config(OUT_NODES=nodes), RGB)
    assert channels(extractor) == [24, 32, 96, 320]
    assert not any(key.startswith("features.18") for key in extractor.body.state_dict())


def test_fewer_out_nodes():
    shallow = build_feature_extractor(extractor_config(OUT_NODES=LIGHT[:2]), RGB)
    assert list(shallow.output_shape()) == ["res2", "res3"]
    assert shallow.size_divisibility == 8


def test_timm_takes_other_numbers_of_channels():
    cfg = extractor_config("timm/mobilenetv3_small_100")
    extractor = build_feature_extractor(cfg, ShapeSpec(channels=4))
    assert extractor(torch.rand(1, 4, 64, 64))["res5"].shape == (1, 576, 2, 2)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        pytest.param({"name": "mobilenet_v2"}, "expected 'torchvision/<network>'", id="no-library"),
        pytest.param(
            {"name": "keras/x"}, "is 'keras/x'; expected 'torchvision/", id="other-library"
        ),
        pytest.param({"name": "torchvision/mobilnet_v2"}, "mobilenet_v2", id="misspelt"),
        pytest.param(
            {"name": "timm/mobilnetv3_small_100"}, "mobilenetv3_small", id="timm-misspelt"
        ),
        pytest.param({"name": "timm/vit_tiny_patch16_224"}, r"strides \[16\]", id="vit"),
        pytest.param({"name": "torchvision/vit_b_16"}, "any size", id="torchvision-vit"),
        pytest.param({"name": "torchvision/squeezenet1_1"}, r"strides \[\]", id="odd-strides"),
        pytest.param({"OUT_NODES": ["features.99"]}, "OUT_NODES.*features.99", id="unknown-node"),
        pytest.param({"OUT_NODES": LIGHT[1:]}, r"\[8, 16, 32\]", id="no-stride-4"),
        pytest.param(
            {"name": "timm/mobilenetv3_small_100", "OUT_NODES": LIGHT},
            "timm defines",
            id="timm-nodes",
        ),
        pytest.param({"WEIGHTS": "a.pth", "PRETRAINED": True}, "one of them", id="two-weights"),
    ],
)
def test_bad_config(keys, message):
    keys = dict(keys)
    cfg = extractor_config(keys.pop("name", "torchvision/mobilenet_v2"), **keys)
    with pytest.raises(ValueError, match=message):
        build_backbone(cfg)


def test_network_for_one_image_size_is_refused_with_its_own_words():
    class FixedSize(nn.Module):
        def forward(self, x):
            raise AssertionError("takes 224 x 224 only")

    with pytest.raises(ValueError, match="takes 224 x 224 only"):
        FeatureExtractor("fixed", FixedSize())


def test_training_and_evaluation_mode_and_copies():
    extractor = build_feature_extractor(extractor_config(), RGB)
    average = copy.deepcopy(extractor).eval()
    extractor.eval()
    image = torch.rand(2, 3, 64, 64)
    before = average(image)["res5"]
    torch.testing.assert_close(extractor(image)["res5"], before)
    extractor.train()
    extractor(image)
    assert not torch.allclose(extractor.eval()(image)["res5"], before)
    assert torch.equal(average(image)["res5"], before)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchvision/mobilenet_v2", "timm/mobilenetv3_small_100"])
def test_compiles_without_a_graph_break(name):
    extractor = build_feature_extractor(extractor_config(name), RGB).eval()
    compiled = torch.compile(extractor, backend="eager", fullgraph=True)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(compiled(image)["res5"], extractor(image)["res5"])


def test_own_weights_are_loaded_by_the_builder(tmp_path):
    trained = torchvision.models.mobilenet_v2(weights=None)
    torch.save(trained.state_dict(), tmp_path / "weights.pth")
    cfg = extractor_config(WEIGHTS=str(tmp_path / "weights.pth"))
    body = build_feature_extractor(cfg, RGB).body
    assert torch.equal(
        body.state_dict()["features.9.conv.2.weight"], trained.features[9].conv[2].weight
    )


def test_own_weights_are_not_read_when_the_whole_model_is_loaded(caplog):
    cfg = extractor_config(WEIGHTS="no_such_file.pth")
    with pytest.raises(FileNotFoundError, match="no_such_file.pth"):
        build_feature_extractor(cfg, RGB)
    cfg.MODEL.WEIGHTS = "model_final.pth"
    with caplog.at_level(logging.INFO):
        build_feature_extractor(cfg, RGB)
    assert "model_final.pth" in caplog.text


@pytest.mark.parametrize(
    ("pixel_std", "image_format", "warns"),
    [
        pytest.param([58.395, 57.12, 57.375], "RGB", False, id="right"),
        pytest.param([1.0, 1.0, 1.0], "RGB", True, id="std-1"),
        pytest.param([58.395, 57.12, 57.375], "BGR", True, id="bgr"),
    ],
)
def test_warns_of_another_normalisation(tmp_path, caplog, pixel_std, image_format, warns):
    weights = torchvision.models.mobilenet_v2(weights=None).state_dict()
    torch.save(weights, tmp_path / "weights.pth")
    cfg = extractor_config(WEIGHTS=str(tmp_path / "weights.pth"))
    cfg.MODEL.PIXEL_STD = pixel_std
    cfg.INPUT.FORMAT = image_format
    build_feature_extractor(cfg, RGB)
    assert ("expect RGB images" in caplog.text) == warns


@needs_real_data
def test_real_mobilenet_v2_features_are_torchvisions():
    file = real_data() / "weights" / "mobilenet_v2_imagenet.pth"
    reference = torchvision.models.mobilenet_v2(weights=None)
    state = torch.load(file, weights_only=True)
    assert reference.load_state_dict(state, strict=False).missing_keys == [
        "classifier.1.weight",
        "classifier.1.bias",
    ]
    extractor = build_feature_extractor(extractor_config(WEIGHTS=str(file)), RGB).eval()
    image = torch.randint(0, 256, (2, 3, 96, 160)).float()
    cfg = extractor_config()
    normalised = (image - torch.tensor(cfg.MODEL.PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(
        cfg.MODEL.PIXEL_STD
    ).view(3, 1, 1)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    expected = torchvision.transforms.functional.normalize(image / 255, mean, std)
    torch.testing.assert_close(normalised, expected, rtol=0, atol=1e-5)
    with torch.no_grad():
        features = extractor(normalised)
        x = expected
        for index, block in enumerate(reference.eval().features):
            x = block(x)
            for name, node in {"res2": 3, "res3": 6, "res4": 13, "res5": 18}.items():
                if node == index:
                    torch.testing.assert_close(features[name], x, rtol=1e-5, atol=1e-5)
    assert features["res5"].mean() > 0.1  # trained features, not zeros


def test_initial_weights_are_scaled_and_norms_undo_it():
    extractors = []
    for scale in (1.0, 0.25):
        torch.manual_seed(0)
        cfg = extractor_config("timm/mobilenetv4_conv_small", INIT_SCALE=scale)
        extractors.append(build_feature_extractor(cfg, RGB).train())
    plain, scaled = extractors
    for before, after in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(after, before * (0.25 if before.dim() == 4 else 1.0))
    for module in [*plain.modules(), *scaled.modules()]:
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-12
    image = torch.randn(2, 3, 64, 64)
    for name, feature in plain(image).items():
        torch.testing.assert_close(scaled(image)[name], feature, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scale", [0.0, float("nan")])
def test_a_scale_that_cannot_be(scale):
    with pytest.raises(ValueError, match="INIT_SCALE: found .*, expected a number > 0"):
        build_feature_extractor(extractor_config(INIT_SCALE=scale), RGB)


def test_trained_weights_are_not_scaled(tmp_path):
    trained = torchvision.models.mobilenet_v2(weights=None)
    torch.save(trained.state_dict(), tmp_path / "trained.pth")
    cfg = extractor_config(INIT_SCALE=0.25, WEIGHTS=str(tmp_path / "trained.pth"))
    first = next(build_feature_extractor(cfg, RGB).parameters())
    torch.testing.assert_close(first, next(trained.parameters()))
