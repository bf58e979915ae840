"""MAE's encoder as a backbone, against Detectron2's own ViT and MAE's blocks."""

from __future__ import annotations

import warnings

import pytest
import torch
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone.vit import Attention, ViT
from detectron2.structures import ImageList
from torch import nn

from d2_multitask.checkpoint import load_weights
from d2_multitask.config import get_multitask_cfg
from d2_multitask.engine.solver import build_optimizer
from d2_multitask.modeling.backbones import MAEViT
from d2_multitask.modeling.backbones.vit import ScaledDotProductAttention
from mae_support import DIALECTS, authors_weights, in_dialect, small_mae

SMALL = {"image_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}


def small_vit(seed: int = 0, **arguments) -> MAEViT:
    """Every learned tensor is random."""
    torch.manual_seed(seed)
    model = MAEViT(**{**SMALL, **arguments})
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    return model


def features(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model(images)["last_feat"]


def images_of(height: int, width: int, number: int = 2) -> torch.Tensor:
    return torch.randn(number, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("use_rel_pos", [False, True])
@pytest.mark.parametrize("grid_hw", [(4, 4), (3, 7), (12, 11)])
def test_attention_is_detectron2s(use_rel_pos, grid_hw):
    torch.manual_seed(0)
    arguments = {"num_heads": 2, "use_rel_pos": use_rel_pos, "input_size": (4, 4)}
    expected = Attention(16, rel_pos_zero_init=False, **arguments)
    found = ScaledDotProductAttention(16, **arguments)
    for name, parameter in expected.named_parameters():
        if "rel_pos" in name:
            nn.init.normal_(parameter)
    found.load_state_dict(expected.state_dict())
    x = torch.randn(3, *grid_hw, 16)
    assert (found(x) - expected(x)).abs().max() < 1e-5
    gradients = [
        torch.autograd.grad(m(x).square().sum(), list(m.parameters())) for m in (expected, found)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("use_rel_pos", [False, True])
@pytest.mark.parametrize("size", [(32, 32), (40, 72)])
def test_all_of_it_is_detectron2s(size, use_rel_pos):
    """Windows, global blocks, relative positions, resized absolute ones: the same weights."""
    found = small_vit(
        depth=4,
        window_size=3,
        global_blocks=(1, 3),
        use_rel_pos=use_rel_pos,
        rel_pos_image_size=(64, 64),
        final_norm=False,
    ).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = ViT(
            img_size=64,
            patch_size=8,
            embed_dim=16,
            depth=4,
            num_heads=2,
            norm_layer=lambda dim: nn.LayerNorm(dim, eps=1e-6),
            use_rel_pos=use_rel_pos,
            window_size=3,
            window_block_indexes=(0, 2),
            pretrain_img_size=32,
        ).eval()
    expected.load_state_dict(found.state_dict())  # also says that the names are the same
    x = images_of(*size)
    assert (features(found, x) - features(expected, x)).abs().max() < 1e-5


@pytest.mark.parametrize("size", [(32, 32), (24, 56)])
def test_without_class_token_it_is_mae(size):
    """The answer is that of the masked autoencoder's encoder run on the patches alone."""
    mae = small_mae(seed=1).eval()
    model = small_vit().eval()
    weights = authors_weights(mae)
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    x = images_of(*size)
    tokens = mae.encoder.embed(x)
    for block in mae.encoder.blocks:
        tokens = block(tokens)
    expected = mae.encoder.norm(tokens).transpose(1, 2).unflatten(2, [n // 8 for n in size])
    assert (features(model, x) - expected).abs().max() < 1e-5


def test_the_class_token_is_all_that_is_missing():
    """Where attention takes nothing from other tokens, the class token makes no difference."""
    mae = small_mae(seed=1).eval()
    encoder = mae.encoder
    with torch.no_grad():
        for block in encoder.blocks:
            block.attn.qkv.weight[32:].zero_()  # all values are the bias, also the class token's
    model = small_vit().eval()
    weights = authors_weights(mae)
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    x = images_of(32, 32)
    expected = mae.encoder(x)[:, 1:]
    assert (features(model, x).flatten(2).transpose(1, 2) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("is_global", [False, True])
def test_windows_limit_what_a_patch_sees(is_global):
    x = images_of(48, 48, 1)
    changed = x.clone()
    changed[..., 40:, 40:] += 1  # the last of 6 x 6 patches, in the last of four windows
    blocks = (0, 1) if is_global else (0,)
    model = small_vit(window_size=3, global_blocks=blocks).eval()
    if not is_global:
        model.blocks[0].window_size = 3
    change = (features(model, x) - features(model, changed))[0].abs().amax(0)
    assert (change[3:, 3:] > 0).all()
    assert (change > 0).all() if is_global else (change[:3] == 0).all()
    assert is_global or (change[:, :3] == 0).all()


def test_global_blocks_are_the_last_of_each_quarter():
    model = small_vit(depth=12, window_size=2)
    assert [i for i, block in enumerate(model.blocks) if not block.window_size] == [2, 5, 8, 11]
    model = small_vit(depth=8, window_size=2, global_blocks=(0,))
    assert [i for i, block in enumerate(model.blocks) if not block.window_size] == [0]


def test_padding_and_shapes():
    model = small_vit()
    images = [torch.zeros(3, 19, 30), torch.zeros(3, 17, 41)]
    batch = ImageList.from_tensors(
        images, model.size_divisibility, padding_constraints=model.padding_constraints
    )
    assert batch.tensor.shape[-2:] == (24, 48)
    shape = model.output_shape()["last_feat"]
    assert (shape.channels, shape.stride) == (16, 8)
    assert features(model, batch.tensor).shape == (2, 16, 3, 6)
    with pytest.raises(ValueError, match="cannot be cut into patches"):
        model(torch.zeros(1, 3, 19, 30))


def test_checkpointing_gives_the_same_gradients():
    plain = small_vit(drop_path=0.5, depth=3)
    again = small_vit(drop_path=0.5, depth=3, activation_checkpointing=True)
    x = images_of(16, 24, 4)
    gradients = []
    for model in (plain, again):
        torch.manual_seed(3)  # what is dropped
        features(model.train(), x).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize("checkpointing", [False, True])
def test_frozen_blocks_are_not_learned(checkpointing):
    model = small_vit(
        depth=3, freeze_blocks=2, drop_path=0.3, activation_checkpointing=checkpointing
    ).train()
    assert [block.training for block in model.blocks] == [False, False, True]
    features(model, images_of(16, 16)).sum().backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None}
    assert learned == {name for name in model.state_dict() if name.startswith(("blocks.2", "norm"))}
    assert not any(p.requires_grad for p in small_vit(freeze_blocks=2).parameters())


def test_exact_positions_are_not_learned():
    assert small_vit().pos_embed.requires_grad
    assert not small_vit(position_resize="sincos").pos_embed.requires_grad


def save(weights, path):
    torch.save({"model": weights}, path)
    return str(path)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_weights_of_every_dialect(dialect, tmp_path):
    mae = small_mae(seed=1)
    weights = in_dialect(authors_weights(mae), dialect)
    backbone = nn.ModuleDict({"backbone": small_vit(image_size=(24, 48), use_rel_pos=True)})
    report = load_weights(backbone, save(weights, tmp_path / "mae.pth"))
    assert all("rel_pos" in name for name in report.fresh)
    assert [tensor.name for tensor in report.resized] == ["backbone.pos_embed"]
    assert not report.mismatched
    text = str(report)
    assert "Unused on purpose: cls_token (the network has none)" in text
    assert ("the decoder, " in text) == (dialect != "timm")
    loaded = backbone["backbone"].state_dict()
    for name, value in authors_weights(mae).items():
        if name.startswith(("blocks", "norm", "patch_embed")):
            assert torch.equal(loaded[name], value)


def test_weights_of_a_detectron2_vit(tmp_path):
    """Its table has the class token's place, but the file has no class token."""
    source = small_vit(seed=1, final_norm=False)
    model = small_vit(image_size=64, final_norm=False)
    weights = {f"backbone.net.{name}": value for name, value in source.state_dict().items()}
    report = load_weights(model, save(weights, tmp_path / "vitdet.pth"))
    assert not report.fresh and not report.mismatched
    assert [t.file_shape for t in report.resized] == [(1, 17, 16)]
    assert torch.equal(model.blocks[1].mlp.fc2.weight, source.blocks[1].mlp.fc2.weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 3}, "3 heads do not divide"),
        ({"window_size": -1}, "WINDOW_SIZE: found -1"),
        ({"global_blocks": (2,)}, "GLOBAL_BLOCKS: found .2., expected numbers from 0 to 1"),
        ({"freeze_blocks": 3}, "FREEZE_BLOCKS: found 3, expected a number from 0 to 2"),
    ],
)
def test_numbers_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        MAEViT(**{**SMALL, **arguments})


def test_from_the_config_to_the_optimizer():
    cfg = get_multitask_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_mae_vit_backbone"
    cfg.MODEL.MAE.SIZE, cfg.MODEL.MAE.DEPTH, cfg.MODEL.MAE.EMBED_DIM = "tiny", 3, 24
    cfg.MODEL.VIT.WINDOW_SIZE, cfg.MODEL.VIT.GLOBAL_BLOCKS = 5, [1]
    cfg.MODEL.VIT.DROP_PATH, cfg.MODEL.VIT.FREEZE_BLOCKS = 0.2, 1
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.LAYER_DECAY, cfg.SOLVER.BASE_LR = "ADAMW", 0.5, 1.0
    model = nn.ModuleDict({"backbone": build_backbone(cfg)})
    vit = model["backbone"]
    assert [block.window_size for block in vit.blocks] == [5, 0, 5]
    assert vit.blocks[2].drop_path.drop_prob == pytest.approx(0.2)
    groups = build_optimizer(cfg, model).param_groups
    rates = {p: group["lr"] for group in groups for p in group["params"]}
    assert vit.blocks[0].attn.proj.weight not in rates
    assert rates[vit.blocks[1].attn.proj.weight] == pytest.approx(0.25)
    assert rates[vit.blocks[2].attn.proj.weight] == pytest.approx(0.5)
    assert rates[vit.norm.weight] == pytest.approx(1)
    cfg.MODEL.VIT.FREEZE_BLOCKS = 0
    model = nn.ModuleDict({"backbone": build_backbone(cfg)})
    groups = build_optimizer(cfg, model).param_groups
    settings = {p: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert settings[model["backbone"].pos_embed] == (pytest.approx(0.0625), 0)
    assert settings[model["backbone"].patch_embed.proj.weight][0] == pytest.approx(0.0625)
