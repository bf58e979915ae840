"""Heads on a masked autoencoder that goes on learning to reconstruct."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from d2_multitask.config import load_config
from d2_multitask.engine.predictor import chosen_tasks
from d2_multitask.engine.solver import layer_decay_factors
from d2_multitask.modeling.mae import MaskedAutoencoder
from support import labelled_image, without


def config(*opts: Any) -> CfgNode:
    cfg = load_config("quick/foreground_decoder_joint.yaml")
    cfg.MODEL.MAE.DEPTH, cfg.MODEL.MAE.DECODER_DEPTH, cfg.MODEL.WEIGHTS = 2, 1, ""
    cfg.merge_from_list(list(opts))
    return cfg


def network(*opts: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(config(*opts))


def image(seed: int, size: int = 32) -> dict[str, Any]:
    return labelled_image(size, size, boxes=((4, 4, 20, 24),), seed=seed)


def test_unlabelled_images_teach_reconstruction_alone():
    model = network()
    bare = [without(image(seed), "foreground") for seed in range(2)]
    losses = model(bare)
    assert set(losses) == {
        "loss_foreground_bce",
        "loss_foreground_dice",
        "loss_reconstruction",
    }
    assert losses["loss_foreground_bce"] == losses["loss_foreground_dice"] == 0
    losses["loss_reconstruction"].backward()
    assert model.backbone.encoder.patch_embed.proj.weight.grad.abs().sum() > 0


def test_every_parameter_has_a_gradient():
    model = network()
    sum(model([image(0), image(1)]).values()).backward()
    for name, parameter in model.named_parameters():
        assert not parameter.requires_grad or parameter.grad is not None, name


def test_the_reconstruction_is_that_of_pretraining():
    """The same weights in `MaskedAutoencoder` give the same loss and the same pictures."""
    model = network("MODEL.MAE_BACKBONE.RECONSTRUCTION_WEIGHT", 0.5)
    backbone = model.backbone
    mae = MaskedAutoencoder(
        encoder=backbone.encoder,
        decoder=backbone.decoder,
        norm_pix_loss=False,
        mask_ratio=(0.75, 0.75),
    )
    batch = [image(0), image(1)]
    torch.manual_seed(3)
    found = model(batch)["loss_reconstruction"]
    torch.manual_seed(3)
    assert found.item() == pytest.approx(0.5 * mae(batch)["loss_reconstruction"].item(), rel=1e-6)
    found, expected = model.eval()(batch)[1], mae.eval()(batch)[1]
    for key in ("reconstruction", "patch_mask", "patch_error", "patch_variance"):
        torch.testing.assert_close(found[key], expected[key])


def test_padding_is_not_reconstructed():
    """An image beside a larger one: only its own patches count."""
    model = network().train()
    small, large = image(0, 16), image(1, 32)
    images = model.preprocess_image([small, large])
    output = model.backbone.reconstruct(images.tensor, noise=torch.rand(2, 16))
    model.backbone.reconstruct = lambda _: output
    inside = torch.ones(2, 4, 4)
    inside[0] = 0
    inside[0, :2, :2] = 1
    mask = output.mask * inside.flatten(1)
    expected = (output.error * mask).sum() / mask.sum()
    found = model.losses([small, large], images)["loss_reconstruction"]
    assert found.item() == pytest.approx(expected.item())


@pytest.mark.parametrize(
    ("tasks", "keys"),
    [
        (None, {"foreground", "reconstruction"}),
        (["foreground"], {"foreground"}),
        (["reconstruction"], {"reconstruction"}),
    ],
)
def test_asked_tasks_alone_are_answered(tasks, keys):
    result = network().eval()([image(0)], tasks)[0]
    assert {key for key in result if not key.startswith("patch_")} == keys
    if tasks:
        result = network("TEST.TASKS", tasks).eval()([image(0)])[0]
        assert {key for key in result if not key.startswith("patch_")} == keys


def test_without_reconstruction_any_size_will_do():
    model = network("MODEL.TASKS", ["foreground"]).eval()
    entry = {"image": image(0, 37)["image"], "height": 50, "width": 70}
    result = model([entry])[0]
    assert set(result) == {"foreground"} and result["foreground"].shape == (50, 70)
    with pytest.raises(ValueError, match="image_0.png.*37x37.*'stretch'"):
        network().eval()([image(0, 37)])


def test_mistakes():
    with pytest.raises(ValueError, match="build_mae_encoder_backbone"):
        network("MODEL.BACKBONE.NAME", "build_mae_vit_backbone")
    with pytest.raises(ValueError, match="UPSCALE of ForegroundHead: found 16"):
        network("MODEL.FOREGROUND_HEAD.UPSCALE", 16)
    with pytest.raises(ValueError, match="expected some of this network's tasks"):
        network().eval()([image(0)], ["seg"])


def test_tasks_for_prediction():
    cfg = config()
    assert chosen_tasks(cfg, ["reconstruction"]) == ["reconstruction"]
    assert chosen_tasks(cfg, ["foreground"]) == ["foreground"]
    with pytest.raises(ValueError, match="found 'seg'.*foreground, reconstruction"):
        chosen_tasks(cfg, ["seg"])


def test_layer_decay_finds_the_encoders_blocks_only():
    model = network()
    factor = layer_decay_factors(model, 0.5)
    assert factor("backbone.encoder.blocks.1.norm1.weight") == 0.5
    assert factor("backbone.encoder.blocks.0.norm1.weight") == 0.25
    assert factor("backbone.encoder.patch_embed.proj.weight") == 0.125
    assert factor("backbone.decoder.decoder_blocks.0.norm1.weight") == 1
    assert factor("heads.foreground.foreground.0.weight") == 1
