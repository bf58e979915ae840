"""A masked autoencoder as a backbone: the tokens of its encoder or its decoder as a feature map.

Unlike `vit.py` it is the whole autoencoder with its class token, so frozen features are the MAE's,
and it can be trained to reconstruct together with the tasks (`MultitaskMAE`).

Letters: N images, H x W pixels, p pixels per side of a patch, h x w patches, L = h * w, D channels.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from d2_multitask.checkpoint.report import AdaptedWeights
from d2_multitask.data.datasets.catalog import RECONSTRUCTION_TASK
from d2_multitask.modeling.mae.config import (
    decoder_arguments,
    encoder_arguments,
    network_arguments,
)
from d2_multitask.modeling.mae.masking import patch_grid
from d2_multitask.modeling.mae.network import MAEDecoder, MAEEncoder, MAENetwork
from d2_multitask.modeling.mae.weights import adapt_mae_weights

OUT_FEATURE = "last_feat"
"""Name of the output, as of `MAEViT`."""


class MAEBackbone(MAENetwork, Backbone):
    """All patches visible, one feature map of stride p; see `forward`.

    Parameters have the names of `MaskedAutoencoder`: ``encoder.*``, ``decoder.*``.

    Args:
        encoder: sees all patches, or the visible ones to reconstruct.
        decoder: ``None`` if its tokens are not read and nothing is reconstructed.
        reads_decoder: the features are the decoder's tokens, not the encoder's.
        freeze_encoder: the encoder is not learned and stays in evaluation mode.
        fresh_decoder: of an MAE's weight file, only the encoder is loaded.
        **kwargs: of `MAENetwork`.

    Raises:
        ValueError: ``reads_decoder`` without a decoder.
    """

    def __init__(
        self,
        *,
        encoder: MAEEncoder,
        decoder: MAEDecoder | None,
        reads_decoder: bool,
        freeze_encoder: bool = False,
        fresh_decoder: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(encoder=encoder, decoder=decoder, **kwargs)
        if reads_decoder and decoder is None:
            raise ValueError("MAEBackbone: reads_decoder without a decoder")
        self.reads_decoder = reads_decoder
        self.freeze_encoder, self.fresh_decoder = freeze_encoder, fresh_decoder
        if freeze_encoder:
            encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> MAEBackbone:
        """See `nn.Module.train`; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.freeze_encoder:
            self.encoder.eval()
        return self

    @property
    def shared_layer(self) -> nn.Module:
        """The last layer that the heads' features and reconstructions have in common."""
        return self.decoder.decoder_norm if self.reads_decoder else self.encoder.norm

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images (N, 3, H, W) -> ``{"last_feat": (N, D, h, w)}``.

        The feature is the output of the encoder's final norm for each patch, or of the decoder's.

        Raises:
            ValueError: p does not divide H and W.
        """
        grid_hw = patch_grid((images.shape[-2], images.shape[-1]), self.patch_size)
        with self._encoder_gradients():
            latent = self.encoder(images)  # (N, 1 + L, D)
        tokens = latent[:, 1:]
        if self.reads_decoder:
            order = torch.arange(tokens.shape[1], device=images.device).expand(images.shape[0], -1)
            tokens = self.decoder.decode(latent, order, grid_hw)
        return {OUT_FEATURE: tokens.transpose(1, 2).unflatten(2, grid_hw)}

    def forward_encoder(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
        """See `MAENetwork.forward_encoder`; no gradients into a frozen encoder."""
        with self._encoder_gradients():
            return super().forward_encoder(*args, **kwargs)

    def _encoder_gradients(self) -> torch.set_grad_enabled:
        return torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_encoder)

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of the feature map."""
        channels = self.encoder.embed_dim
        if self.reads_decoder:
            channels = self.decoder.decoder_embed.out_features
        return {OUT_FEATURE: ShapeSpec(channels=channels, stride=self.patch_size)}

    @property
    def size_divisibility(self) -> int:
        """Height and width of the images must be multiples of the patch."""
        return self.patch_size

    def adapt_weights(self, weights: dict[str, Tensor], file: str) -> AdaptedWeights | None:
        """Called when weights are loaded; see `d2_multitask.modeling.mae.weights`.

        The decoder of a checkpoint of this network, trained with the tasks, is always loaded.
        """
        is_own = any(name.startswith("backbone.decoder.") for name in weights)
        wanted = self.decoder is not None and (is_own or not self.fresh_decoder)
        return adapt_mae_weights(
            self,
            weights,
            file,
            encoder_prefix="encoder.",
            decoder_prefix="decoder." if wanted else None,
            require_decoder=wanted,
            fresh_decoder_key="MODEL.MAE_BACKBONE.FRESH_DECODER to True",
        )


@BACKBONE_REGISTRY.register()
def build_mae_encoder_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> MAEBackbone:
    """The encoder's tokens; with the task "reconstruction" there is a decoder too.

    ``cfg``: ``MODEL.MAE``, ``MODEL.MAE_BACKBONE``, ``MODEL.TASKS``.
    """
    return _build(cfg, input_shape, reads_decoder=False)


@BACKBONE_REGISTRY.register()
def build_mae_decoder_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> MAEBackbone:
    """The decoder's tokens; see `build_mae_encoder_backbone`."""
    return _build(cfg, input_shape, reads_decoder=True)


def _build(cfg: CfgNode, input_shape: ShapeSpec, reads_decoder: bool) -> MAEBackbone:
    node, own = cfg.MODEL.MAE, cfg.MODEL.MAE_BACKBONE
    reconstructs = RECONSTRUCTION_TASK in cfg.MODEL.TASKS
    encoder = MAEEncoder(
        **encoder_arguments(node), drop_path=own.DROP_PATH, in_channels=input_shape.channels
    )
    decoder = None
    if reads_decoder or reconstructs:
        arguments = decoder_arguments(node, encoder)
        if not reconstructs:
            arguments["num_outputs"] = 0
        decoder = MAEDecoder(**arguments)
    return MAEBackbone(
        encoder=encoder,
        decoder=decoder,
        reads_decoder=reads_decoder,
        freeze_encoder=own.FREEZE_ENCODER,
        fresh_decoder=own.FRESH_DECODER,
        **network_arguments(cfg),
    )
