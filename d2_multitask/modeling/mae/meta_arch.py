"""Masked autoencoder (arXiv 2111.06377) as a Detectron2 meta-architecture.

The network is in `network.py`; here are its inputs, losses and results. Letters as there.
"""

from __future__ import annotations

import zlib
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from d2_multitask.modeling.mae.config import (
    decoder_arguments,
    encoder_arguments,
    network_arguments,
)
from d2_multitask.modeling.mae.masking import VARIANCE_EPS, num_visible, patch_grid
from d2_multitask.modeling.mae.network import MAEDecoder, MAEEncoder, MAENetwork
from d2_multitask.modeling.mae.smooth_surface import smooth_surface
from d2_multitask.modeling.mae.weights import AdaptedWeights, adapt_mae_weights

LOSS_KEY = "loss_reconstruction"


@META_ARCH_REGISTRY.register()
class MaskedAutoencoder(MAENetwork):
    """`MAENetwork` with Detectron2's inputs and outputs; see `forward`.

    On tensors, with given visible sets, use `MAENetwork.reconstruct`.

    Args:
        test_mask_ratio: share of removed patches in evaluation.
        test_seed: of the masks in evaluation; an image always gets the same one.
        require_decoder_weights: refuse weight files without a decoder.
        **kwargs: of `MAENetwork`.

    Raises:
        ValueError: a ratio is out of range.
    """

    @configurable
    def __init__(
        self,
        *,
        test_mask_ratio: float = 0.75,
        test_seed: int = 0,
        require_decoder_weights: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        h, w = self.encoder.grid_hw
        num_visible(h * w, test_mask_ratio)
        self.test_mask_ratio = test_mask_ratio
        self.test_seed = test_seed
        self.require_decoder_weights = require_decoder_weights

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Config -> arguments of ``__init__``, encoder and decoder built."""
        node = cfg.MODEL.MAE
        encoder = MAEEncoder(**encoder_arguments(node))
        return {
            "encoder": encoder,
            "decoder": MAEDecoder(**decoder_arguments(node, encoder)),
            **network_arguments(cfg),
            "test_mask_ratio": cfg.TEST.RECONSTRUCTION.MASK_RATIO,
            "test_seed": cfg.TEST.RECONSTRUCTION.SEED,
            "require_decoder_weights": node.REQUIRE_DECODER_WEIGHTS,
        }

    def forward(
        self, batched_inputs: list[dict[str, Any]]
    ) -> dict[str, Tensor] | list[dict[str, Any]]:
        """The loss in training mode, reconstructions in evaluation mode.

        Args:
            batched_inputs: one dict per image: ``image`` (3, H, W) in ``INPUT.FORMAT`` order,
                0-255. In training all images must have one size. In evaluation the mask depends
                on ``file_name``, see `image_noise`.

        Returns:
            Training: ``{"loss_reconstruction": ()}``. Evaluation: one dict per image, see
            `reconstruction_result`.

        Raises:
            ValueError: an image's size is no multiple of the patch; the message names the file.
        """
        if not self.training:
            return [self.inference(x) for x in batched_inputs]
        return {LOSS_KEY: self.reconstruct(self.preprocess_image(batched_inputs)).loss}

    @torch.no_grad()
    def inference(self, batched_input: dict[str, Any]) -> dict[str, Any]:
        """Reconstruct one image of `forward`'s batch; see `reconstruction_result`."""
        images = self.preprocess_image([batched_input])
        return reconstruction_result(
            self, images, batched_input, self.test_mask_ratio, self.test_seed
        )

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> Tensor:
        """Normalise and stack a batch: (N, 3, H, W).

        Raises:
            ValueError: sizes differ, or one is no multiple of the patch; the message names the
                file.
        """
        first_hw = tuple(batched_inputs[0]["image"].shape[-2:])
        for x in batched_inputs:
            height, width = x["image"].shape[-2:]
            name = x.get("file_name", "image")
            try:
                patch_grid((height, width), self.patch_size)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            if (height, width) != first_hw:
                raise ValueError(
                    f"{name}: found {width}x{height} pixels (width x height), expected "
                    f"{first_hw[1]}x{first_hw[0]} as the first image of the batch; set "
                    "INPUT.RANDOM_RESIZED_CROP"
                )
        images = torch.stack(
            [x["image"].to(self.pixel_mean.device, non_blocking=True) for x in batched_inputs]
        )
        return (images - self.pixel_mean) / self.pixel_std

    def adapt_weights(self, weights: dict[str, Tensor], file: str) -> AdaptedWeights | None:
        """Called when weights are loaded; see `d2_multitask.modeling.mae.weights`."""
        return adapt_mae_weights(
            self,
            weights,
            file,
            encoder_prefix="encoder.",
            decoder_prefix="decoder.",
            require_decoder=self.require_decoder_weights,
        )


@torch.no_grad()
def reconstruction_result(
    network: MAENetwork,
    images: Tensor,
    batched_input: dict[str, Any],
    mask_ratio: float,
    seed: int,
) -> dict[str, Any]:
    """Reconstruct one image.

    Args:
        network: the autoencoder.
        images: (1, 3, H, W), normalised; H and W are multiples of the patch.
        batched_input: the image's entry, which names it; see `image_noise`.
        mask_ratio: share of removed patches.
        seed: of the mask.

    Returns:
        ``reconstruction`` (3, H, W) float32, 0-255, channels as in the image, of all patches;
        ``patch_mask`` (h, w) bool, True = removed; ``patch_error`` (h, w), mean squared error of
        each patch in the loss's units; ``patch_variance`` (h, w), the same error of a prediction
        of each patch's mean colour; ``patch_smooth_error`` (h, w), the same of `smooth_surface`.
    """
    h, w = patch_grid((images.shape[-2], images.shape[-1]), network.patch_size)
    noise = image_noise(batched_input, h * w, seed).to(images.device, non_blocking=True)
    output = network.reconstruct(images, mask_ratio=mask_ratio, noise=noise)
    mask, patch = output.mask.bool().view(h, w), network.patch_size
    mean_colors = F.interpolate(F.avg_pool2d(images, patch), scale_factor=patch)
    smooth = smooth_surface(images, mask, patch)
    return {
        "reconstruction": network.to_pixels(images, output.pred)[0],
        "patch_mask": mask,
        "patch_error": output.error.view(h, w),
        "patch_variance": _error_of(network, images, mean_colors).view(h, w),
        "patch_smooth_error": _error_of(network, images, smooth).view(h, w),
    }


def _error_of(network: MAENetwork, images: Tensor, prediction: Tensor) -> Tensor:
    """(N, 3, H, W) and the same of another prediction, normalised -> (N, L), loss's units."""
    error = network.patchify((prediction - images).float()).square().mean(-1)
    if network.norm_pix_loss:
        error = error / (network.patchify(images.float()).var(-1) + VARIANCE_EPS)
    return error


def image_noise(batched_input: dict[str, Any], num_patches: int, seed: int) -> Tensor:
    """(1, L): always the same for an image, on every device and in any order of images.

    It depends on the seed, the last part of ``file_name`` and the number of patches only.
    """
    name = str(batched_input.get("file_name", batched_input.get("image_id", "")))
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
    return torch.rand(1, num_patches, generator=generator)
