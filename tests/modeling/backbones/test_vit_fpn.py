"""The simple feature pyramid on MAE's encoder."""

from __future__ import annotations

import warnings

import pytest
import torch
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.vit import SimpleFeaturePyramid
from detectron2.structures import ImageList
from torch import nn

from d2_multitask.checkpoint import MultitaskCheckpointer, load_weights
from d2_multitask.config import get_multitask_cfg
from d2_multitask.engine.solver import build_optimizer
from d2_multitask.modeling.backbones import MAEFeaturePyramid, MAEViT
from d2_multitask.modeling.inference import fuse_for_inference
from mae_support import authors_weights, small_mae

ALL = ["p2", "p3", "p4", "p5", "p6"]


def small_pyramid(patch_size: int = 8, levels=ALL, out_channels: int = 16, **arguments):
    torch.manual_seed(0)
    net = MAEViT(
        image_size=32, patch_size=patch_size, embed_dim=16, depth=2, num_heads=2, **arguments
    )
    return MAEFeaturePyramid(net, out_channels, levels)


@pytest.mark.parametrize("patch_size", [4, 8, 16])
@pytest.mark.parametrize("size", [(32, 32), (75, 100), (72, 72), (33, 1)])
def test_any_image_size(size, patch_size):
    model = small_pyramid(patch_size).eval()
    batch = ImageList.from_tensors(
        [torch.zeros(3, *size)],
        model.size_divisibility,
        padding_constraints=model.padding_constraints,
    )
    height, width = (-(-side // 32) * 32 for side in size)
    assert batch.tensor.shape == (1, 3, height, width)
    found = model(batch.tensor)
    shapes = model.output_shape()
    assert list(found) == list(shapes) == ALL
    for name, feature in found.items():
        stride = 2 ** int(name[1:])
        assert (shapes[name].stride, shapes[name].channels) == (stride, 16)
        assert feature.shape == (1, 16, -(-height // stride), -(-width // stride))


@pytest.mark.parametrize(
    ("levels", "patch_size", "divisor"),
    [(["p2"], 16, 16), (["p2"], 8, 8), (["p2", "p3", "p4"], 8, 16), (["p3", "p4", "p5"], 4, 32)],
)
def test_levels(levels, patch_size, divisor):
    model = small_pyramid(patch_size, levels)
    assert model.size_divisibility == model.padding_constraints["size_divisibility"] == divisor
    found = model(torch.randn(1, 3, divisor, 2 * divisor))
    assert {name: f.shape[-2:] for name, f in found.items()} == {
        name: (divisor >> int(name[1:]), 2 * divisor >> int(name[1:])) for name in levels
    }
    sum(f.sum() for f in found.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_it_is_detectron2s():
    """Patches of 16 pixels: the same modules under the same names."""
    found = small_pyramid(16).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = SimpleFeaturePyramid(
            found.net, "last_feat", 16, (4.0, 2.0, 1.0, 0.5), LastLevelMaxPool()
        ).eval()
    expected.load_state_dict(found.state_dict())
    x = torch.randn(1, 3, 64, 96)
    for name, value in expected(x).items():
        assert torch.equal(found(x)[name], value)


def test_a_quarter_is_a_half_of_a_half():
    """p5 of patches of 8 pixels: Detectron2's stage of scale 0.5 after one more pooling."""
    model = small_pyramid(8).eval()
    model.simfp_5[1].load_state_dict(model.simfp_4[1].state_dict())
    model.simfp_5[2].load_state_dict(model.simfp_4[2].state_dict())
    x = torch.randn(1, 16, 8, 8)
    halved = torch.nn.functional.max_pool2d(x, 2)
    assert torch.allclose(model.simfp_5(x), model.simfp_4(halved), atol=1e-6)


@pytest.mark.parametrize("levels", [[], ["p4"], ["p2", "p4"], ["p3", "p2"], ["res2"], ["p2", "p6"]])
def test_levels_that_cannot_be(levels):
    with pytest.raises(ValueError, match="MODEL.VIT.LEVELS: found"):
        small_pyramid(levels=levels)


def test_patches_that_cannot_be():
    with pytest.raises(ValueError, match="PATCH_SIZE: found 2, expected one of"):
        small_pyramid(2)


@pytest.mark.parametrize("heuristics", ["", "?matching_heuristics=True"])
def test_weights_where_the_pyramid_is_as_wide_as_the_tokens(heuristics, tmp_path):
    """MAE's last norm fits the pyramid's norms by shape and by the end of its name."""
    mae = small_mae(seed=1)
    model = nn.ModuleDict({"backbone": small_pyramid(8, final_norm=not heuristics)})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    path = str(tmp_path / "mae.pth")
    torch.save({"model": authors_weights(mae)}, path)
    checkpointer = MultitaskCheckpointer(model)
    checkpointer.load(path + heuristics)
    net = model["backbone"].net
    assert torch.equal(net.blocks[1].attn.qkv.weight, mae.encoder.blocks[1].attn.qkv.weight)
    fresh = set(checkpointer.report.fresh)
    assert fresh == {name for name in before if ".simfp_" in name}
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in fresh)


def test_our_pretraining_checkpoint(tmp_path):
    mae = small_mae(seed=1)
    path = str(tmp_path / "model_final.pth")
    torch.save({"model": mae.state_dict(), "iteration": 7}, path)
    model = nn.ModuleDict({"backbone": small_pyramid(16)})  # other patches, too
    report = load_weights(model, path)
    assert report.dialect == "d2_multitask"
    assert [t.name for t in report.resized] == [
        "backbone.net.pos_embed",
        "backbone.net.patch_embed.proj.weight",
    ]
    assert {name.split(".")[0] for name in report.unused} == {"decoder", "encoder"}
    assert [name for name in report.unused if name.startswith("encoder")] == ["encoder.cls_token"]


def test_config_layer_decay_and_inference_copy():
    cfg = get_multitask_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_mae_vit_fpn_backbone"
    cfg.MODEL.MAE.SIZE, cfg.MODEL.MAE.DEPTH, cfg.MODEL.MAE.EMBED_DIM = "tiny", 2, 24
    cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FPN.NORM = 12, "LN"
    cfg.MODEL.VIT.LEVELS = ["p2", "p3"]
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.LAYER_DECAY, cfg.SOLVER.BASE_LR = "ADAMW", 0.5, 1.0
    model = nn.ModuleDict({"backbone": build_backbone(cfg)})
    backbone = model["backbone"]
    rates = {p: g["lr"] for g in build_optimizer(cfg, model).param_groups for p in g["params"]}
    assert len(rates) == len(list(model.parameters()))
    assert rates[backbone.net.blocks[0].mlp.fc1.bias] == pytest.approx(0.25)
    assert rates[backbone.net.pos_embed] == pytest.approx(0.125)
    assert rates[backbone.simfp_2[0].weight] == 1
    x = torch.randn(1, 3, 32, 48)
    backbone.eval()
    with torch.no_grad():
        expected = backbone(x)["p2"]
        copy = fuse_for_inference(model)
        assert torch.allclose(copy["backbone"](x)["p2"], expected, atol=1e-5)
