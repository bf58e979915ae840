from __future__ import annotations

import copy

import pytest
import torch
from detectron2.layers import get_norm
from torch import nn

from d2_multitask.config import get_multitask_cfg
from d2_multitask.engine.solver import Muon, build_optimizer, layer_decay_factors
from d2_multitask.modeling.backbones import DeformableConv2d
from mae_support import small_mae


@pytest.fixture
def cfg():
    cfg = get_multitask_cfg()
    cfg.SOLVER.BASE_LR = 0.01
    cfg.SOLVER.WEIGHT_DECAY = 0.1
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0
    return cfg


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("SGD", torch.optim.SGD),
        ("ADAM", torch.optim.Adam),
        ("ADAMW", torch.optim.AdamW),
        ("MUON", Muon),
    ],
)
def test_name_chooses_the_optimizer(name, kind, cfg):
    cfg.SOLVER.OPTIMIZER = name
    optimizer = build_optimizer(cfg, small_model())
    assert type(optimizer) is kind
    assert optimizer.defaults["lr"] == 0.01
    assert optimizer.defaults["weight_decay"] == 0.1


@pytest.mark.parametrize("name", ["SGD", "ADAM", "ADAMW", "MUON"])
def test_normalisation_has_its_own_weight_decay(name, cfg):
    cfg.SOLVER.OPTIMIZER = name
    model = small_model()
    optimizer = build_optimizer(cfg, model)
    decay = {p: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert len(decay) == len(list(model.parameters()))
    assert decay[model[0].weight] == 0.1
    assert decay[model[1].weight] == decay[model[1].bias] == 0


@pytest.mark.parametrize(("decay_bias", "bias"), [(None, 0), (0.3, 0.3)])
def test_norms_of_a_feature_pyramid_are_norms(decay_bias, bias, cfg):
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    cfg.SOLVER.WEIGHT_DECAY_BIAS = decay_bias
    model = nn.Sequential(nn.Conv2d(3, 4, 1), get_norm("LN", 4), nn.Conv2d(4, 1, 1, bias=False))
    groups = build_optimizer(cfg, model).param_groups
    decay = {p: g["weight_decay"] for g in groups for p in g["params"]}
    assert [decay[model[i].weight] for i in range(3)] == [0.1, 0, 0.1]
    assert decay[model[1].bias] == bias
    assert sum(len(g["params"]) for g in groups) == 5 and all(g["lr"] == 0.01 for g in groups)


@pytest.mark.parametrize("name", ["SGD", "ADAM", "ADAMW"])
def test_frozen_parameters_are_left_out(name, cfg):
    cfg.SOLVER.OPTIMIZER = name
    model = small_model()
    model[0].requires_grad_(False)
    optimizer = build_optimizer(cfg, model)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == 4


def test_nothing_to_learn(cfg):
    cfg.MODEL.FREEZE = ["backbone", "heads"]
    with pytest.raises(ValueError, match=r"MODEL.FREEZE: found \['backbone', 'heads'\], which, m"):
        build_optimizer(cfg, small_model().requires_grad_(False))


@pytest.mark.parametrize("name", ["SGD", "ADAM", "ADAMW"])
def test_gradients_are_clipped(name, cfg):
    cfg.SOLVER.OPTIMIZER = name
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "norm"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.5
    model = small_model()
    optimizer = build_optimizer(cfg, model)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    optimizer.step()
    assert max(p.grad.norm() for p in model.parameters()) == pytest.approx(0.5, rel=1e-4)


def test_adamw_step_is_that_of_the_paper(cfg):
    """First step of AdamW by hand: w - lr * wd * w - lr * g / (|g| + eps) (arXiv 1711.05101)."""
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(2.0)
    optimizer = build_optimizer(cfg, model)
    model.weight.grad = torch.full_like(model.weight, 5.0)
    optimizer.step()
    assert model.weight.item() == pytest.approx(2.0 - 0.01 * 0.1 * 2.0 - 0.01, abs=1e-6)


def test_muon_turns_the_gradient_of_a_matrix_into_an_orthogonal_one(cfg):
    """The first step keeps the gradient's singular vectors, all at a like length (2502.16982)."""
    cfg.SOLVER.OPTIMIZER = "MUON"
    torch.manual_seed(0)
    layer = nn.Linear(24, 16)
    start = layer.weight.detach().clone()
    optimizer = build_optimizer(cfg, layer)
    layer.weight.grad, layer.bias.grad = torch.randn(16, 24), torch.full((16,), 5.0)
    u, lengths, v = torch.linalg.svd(layer.weight.grad, full_matrices=False)
    assert lengths[0] > 5 * lengths[-1]
    bias = layer.bias.detach().clone()
    optimizer.step()
    moved = (1 - 0.01 * 0.1) * start - layer.weight.detach()
    turned = u.T @ moved @ v.T / (0.01 * 0.2 * 24**0.5)
    assert turned.diagonal().min() > 0.6 and turned.diagonal().max() < 1.3
    assert (turned - turned.diagonal().diag()).abs().max() < 0.05
    assert torch.allclose(layer.bias, (1 - 0.01 * 0.1) * bias - 0.01, atol=1e-6)  # AdamW's


def test_muon_resumes_exactly(cfg):
    cfg.SOLVER.OPTIMIZER = "MUON"
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))

    def steps(model, optimizer, number):
        for _ in range(number):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()

    model = small_model()
    optimizer = build_optimizer(cfg, model)
    steps(model, optimizer, 2)
    resumed = copy.deepcopy(model)
    resumed_optimizer = build_optimizer(cfg, resumed)
    resumed_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each in ((model, optimizer), (resumed, resumed_optimizer)):
        steps(*each, 2)
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_muon_needs_linear_layers_and_a_pytorch_that_has_it(cfg, monkeypatch):
    cfg.SOLVER.OPTIMIZER = "MUON"
    with pytest.raises(ValueError, match=r"SOLVER\.OPTIMIZER: found 'MUON' .* 30\.8% .*'ADAMW'"):
        build_optimizer(cfg, nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(4, 2)))
    assert len(build_optimizer(cfg, nn.Linear(3, 4, bias=False)).param_groups) == 1
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ValueError, match="expected PyTorch 2.9 or later, or 'ADAMW'"):
        build_optimizer(cfg, small_model())


def test_unknown_name(cfg):
    cfg.SOLVER.OPTIMIZER = "ADAMV"
    with pytest.raises(ValueError, match=r"SOLVER\.OPTIMIZER: found 'ADAMV'.*'SGD', 'ADAM'"):
        build_optimizer(cfg, small_model())


def test_betas(cfg):
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    cfg.SOLVER.BETAS = (0.9, 0.95)
    assert build_optimizer(cfg, small_model()).defaults["betas"] == (0.9, 0.95)
    cfg.SOLVER.BETAS = (0.9, 1.0)
    with pytest.raises(ValueError, match="SOLVER.BETAS: found .*expected two numbers"):
        build_optimizer(cfg, small_model())


def test_what_an_mae_does_not_decay(cfg):
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.0
    model = small_mae()
    optimizer = build_optimizer(cfg, model)
    decay = {p: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    decayed = {name for name, p in model.named_parameters() if decay.get(p)}
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    blocks = [
        f"{half}.{index}"
        for half in ("encoder.blocks", "decoder.decoder_blocks")
        for index in (0, 1)
    ]
    assert decayed == {f"{block}.{layer}.weight" for block in blocks for layer in layers} | {
        "encoder.patch_embed.proj.weight",
        "decoder.decoder_embed.weight",
        "decoder.decoder_pred.weight",
    }
    tables = {p for name, p in model.named_parameters() if name.endswith("pos_embed")}
    assert not tables.intersection(decay)  # they are not learned


@pytest.mark.parametrize(
    ("name", "power"),
    [
        ("backbone.net.patch_embed.proj.weight", 13),
        ("backbone.net.pos_embed", 13),
        ("backbone.net.blocks.0.attn.qkv.weight", 12),
        ("backbone.net.blocks.11.mlp.fc1.bias", 1),
        ("backbone.simfp_2.0.weight", 0),
        ("decoder.decoder_blocks.0.mlp.fc1.bias", 0),
        ("decoder.decoder_pos_embed", 0),
    ],
)
def test_layer_decay(name, power):
    model = nn.ModuleDict({"blocks": nn.ModuleList(nn.Linear(1, 1) for _ in range(12))})
    assert layer_decay_factors(model, 0.5)(name) == pytest.approx(0.5**power)


def test_layer_decay_reaches_the_optimizer(cfg):
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    cfg.SOLVER.LAYER_DECAY = 0.5
    model = small_mae()
    optimizer = build_optimizer(cfg, model)
    rates = {p: g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert rates[model.encoder.blocks[0].mlp.fc1.weight] == pytest.approx(0.01 / 4)
    assert rates[model.encoder.cls_token] == pytest.approx(0.01 / 8)
    assert rates[model.decoder.mask_token] == pytest.approx(0.01)


def test_undecayed_parameters_have_to_be_there(cfg):
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.UNDECAYED_PARAMETERS = "ADAMW", ["pos_embed", "cls_tokens"]
    with pytest.raises(ValueError, match=r"UNDECAYED_PARAMETERS: found \['cls_tokens'\], of which"):
        build_optimizer(cfg, small_mae())


@pytest.mark.parametrize(
    ("optimizer", "decay", "message"),
    [
        ("SGD", 0.5, "with SOLVER.OPTIMIZER 'SGD'"),
        ("ADAMW", 0.5, "without transformer blocks"),
        ("ADAMW", 0.0, "expected a number in"),
    ],
)
def test_layer_decay_that_cannot_be(optimizer, decay, message, cfg):
    cfg.SOLVER.OPTIMIZER = optimizer
    cfg.SOLVER.LAYER_DECAY = decay
    with pytest.raises(ValueError, match=message):
        build_optimizer(cfg, small_model())


class Deformable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = DeformableConv2d(2, 3)
        self.head = nn.Conv2d(3, 1, 1)


@pytest.mark.parametrize("name", ["ADAM", "ADAMW"])
def test_offsets_have_a_rate_of_their_own(name, cfg):
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.OFFSET_LR_FACTOR = name, 0.1
    model = Deformable()
    rates = {p: g["lr"] for g in build_optimizer(cfg, model).param_groups for p in g["params"]}
    for parameter_name, parameter in model.named_parameters():
        factor = 0.1 if "offset" in parameter_name else 1.0
        assert rates[parameter] == pytest.approx(factor * cfg.SOLVER.BASE_LR)


@pytest.mark.parametrize(
    ("optimizer", "factor", "model", "message"),
    [
        ("ADAMW", 0.0, Deformable, r"OFFSET_LR_FACTOR: found 0.0, expected a number in \(0, 1\]"),
        ("ADAMW", float("nan"), Deformable, "found nan, expected a number"),
        ("ADAMW", 0.5, small_model, "found 0.5 for a model without deformable convolutions"),
        (
            *("SGD", 0.5, Deformable),
            r"with SOLVER\.OPTIMIZER 'SGD', expected one of \['ADAM', 'ADAMW', 'MUON'\]",
        ),
    ],
)
def test_rates_of_offsets_that_cannot_be(optimizer, factor, model, message, cfg):
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.OFFSET_LR_FACTOR = optimizer, factor
    with pytest.raises(ValueError, match=message):
        build_optimizer(cfg, model())
