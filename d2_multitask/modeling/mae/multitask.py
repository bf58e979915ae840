"""Task heads on a masked autoencoder.

With "reconstruction" among the tasks, the same network also learns to reconstruct removed patches,
from images without labels too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor

from d2_multitask.data.datasets.catalog import RECONSTRUCTION_TASK
from d2_multitask.losses import average_over_workers
from d2_multitask.modeling.backbones.mae import MAEBackbone
from d2_multitask.modeling.mae.masking import num_visible, patch_grid
from d2_multitask.modeling.mae.meta_arch import LOSS_KEY, reconstruction_result
from d2_multitask.modeling.mcn import MultitaskCenterNet
from d2_multitask.targets.encode import image_cells


@META_ARCH_REGISTRY.register()
class MultitaskMAE(MultitaskCenterNet):
    """`MultitaskCenterNet` on an `MAEBackbone`, with the task "reconstruction" beside its heads."""

    other_tasks = (RECONSTRUCTION_TASK,)

    @configurable
    def __init__(
        self,
        *,
        reconstructs: bool = False,
        reconstruction_weight: float = 1.0,
        test_mask_ratio: float = 0.75,
        test_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            reconstructs: also learn and return reconstructions.
            reconstruction_weight: of their loss.
            test_mask_ratio: share of removed patches in evaluation.
            test_seed: of the masks in evaluation.
            **kwargs: of `MultitaskCenterNet`; the backbone is an `MAEBackbone`, which has a decoder
                if anything is reconstructed.

        Raises:
            ValueError: another backbone, or a ratio that is out of range.
        """
        self.reconstructs = reconstructs
        self.other_tasks = (RECONSTRUCTION_TASK,) if reconstructs else ()
        super().__init__(**kwargs)
        if not isinstance(self.backbone, MAEBackbone):
            raise ValueError(
                f"MODEL.BACKBONE.NAME: found one that makes {type(self.backbone).__name__}, "
                "expected build_mae_encoder_backbone or build_mae_decoder_backbone for "
                "MultitaskMAE; other backbones go with MultitaskCenterNet"
            )
        h, w = self.backbone.encoder.grid_hw
        num_visible(h * w, test_mask_ratio)
        self.reconstruction_weight = reconstruction_weight
        self.test_mask_ratio, self.test_seed = test_mask_ratio, test_seed

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Config -> arguments of ``__init__``, the backbone and heads built."""
        return {
            **super().from_config(cfg),
            "reconstructs": RECONSTRUCTION_TASK in cfg.MODEL.TASKS,
            "reconstruction_weight": cfg.MODEL.MAE_BACKBONE.RECONSTRUCTION_WEIGHT,
            "test_mask_ratio": cfg.TEST.RECONSTRUCTION.MASK_RATIO,
            "test_seed": cfg.TEST.RECONSTRUCTION.SEED,
        }

    def losses(self, batched_inputs: list[dict[str, Any]], images: ImageList) -> dict[str, Tensor]:
        """The heads' losses and ``loss_reconstruction``."""
        losses = super().losses(batched_inputs, images)
        if self.reconstructs:
            losses[LOSS_KEY] = self.reconstruction_weight * self._reconstruction_loss(images)
        return losses

    def _reconstruction_loss(self, images: ImageList) -> Tensor:
        output = self.backbone.reconstruct(images.tensor)
        inside = image_cells(images, self.backbone.patch_size).flatten(1)  # (N, L): no padding
        mask = output.mask * inside
        return (output.error * mask).sum() / average_over_workers(mask.sum())

    @torch.no_grad()
    def inference(
        self, batched_inputs: list[dict[str, Any]], tasks: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Results of the heads and, if asked for, those of `reconstruction_result`.

        Reconstructions have the size of the network input, which the patch must divide.
        """
        results = super().inference(batched_inputs, tasks)
        if RECONSTRUCTION_TASK in self.running(tasks):
            for batched_input, result in zip(batched_inputs, results, strict=True):
                result.update(self._reconstruction(batched_input))
        return results

    def _reconstruction(self, batched_input: dict[str, Any]) -> dict[str, Any]:
        image_hw = tuple(batched_input["image"].shape[-2:])
        try:
            patch_grid(image_hw, self.backbone.patch_size)
        except ValueError as error:
            raise ValueError(
                f"{batched_input.get('file_name', 'image')}: {error}. Set INPUT.RESIZE_TEST to "
                "'stretch', or leave 'reconstruction' out of TEST.TASKS"
            ) from None
        images = self.preprocess_image([batched_input])
        return reconstruction_result(
            self.backbone, images.tensor, batched_input, self.test_mask_ratio, self.test_seed
        )
