"""How well a masked autoencoder reconstructs the removed patches of new images."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator

from d2_multitask.evaluation.base import gathered

logger = logging.getLogger(__name__)


class ReconstructionEvaluator(DatasetEvaluator):
    """Error on removed patches; each patch counts the same.

    Results are ``{"reconstruction": {...}}``:

    - ``error``: mean squared error in the loss's units;
    - ``error_of_mean_color``: the same if each removed patch were predicted as its mean colour;
    - ``error_of_smooth_surface``: the same of a smooth surface through the visible pixels, which
      has learned nothing, see `smooth_surface`;
    - ``relative_error``: ``error / error_of_mean_color``;
    - ``PSNR``: 10 log10(255^2 / mean squared error of the pixels), in dB; with ``NORM_PIX_LOSS`` it
      uses each original patch's mean and deviation, so compare it among such networks only;
    - ``num_images``.

    The masks are the network's: they depend on the image, the seed and the mask ratio.
    """

    def __init__(self, dataset_name: str, distributed: bool = True) -> None:
        """
        Args:
            dataset_name: for messages.
            distributed: gather the sums of all processes.
        """
        self._dataset_name = dataset_name
        self._distributed = distributed
        self.reset()

    def metric_names(self) -> list[str]:
        """What `evaluate` will give, as ``TEST.BEST_METRIC`` can name it."""
        names = ("error", "error_of_mean_color", "error_of_smooth_surface", "relative_error")
        return [f"reconstruction/{name}" for name in (*names, "PSNR", "num_images")]

    def reset(self) -> None:
        """Forget the sums of an earlier round."""
        # error; of mean colours; smooth; squared error of pixels, pixels; patches, images
        self._sums = np.zeros(7)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Add a few images.

        Args:
            inputs: ``image`` (3, H, W).
            outputs: see `MaskedAutoencoder.inference`.

        Raises:
            ValueError: an output has no reconstruction.
        """
        for input_, output in zip(inputs, outputs, strict=True):
            if "reconstruction" not in output:
                raise ValueError(
                    f"{input_.get('file_name')}: the model's output has {sorted(output)}, expected "
                    "'reconstruction'"
                )
            mask = output["patch_mask"]
            pixels = output["reconstruction"]
            squared = (pixels - input_["image"].to(pixels)).square().mean(0)  # (H, W)
            per_patch = (squared.shape[0] // mask.shape[0], squared.shape[1] // mask.shape[1])
            removed = mask.repeat_interleave(per_patch[0], 0).repeat_interleave(per_patch[1], 1)
            self._sums += [
                output["patch_error"][mask].double().sum().item(),
                output["patch_variance"][mask].double().sum().item(),
                output["patch_smooth_error"][mask].double().sum().item(),
                squared[removed].double().sum().item(),
                removed.sum().item(),
                mask.sum().item(),
                1,
            ]

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Score what was processed; ``None`` in all processes but the first."""
        sums = gathered([self._sums], self._distributed)
        if sums is None:
            return None
        error, mean_color, smooth, squared, num_pixels, num_patches, num_images = np.sum(
            sums, 0
        ).tolist()
        if not num_patches:
            logger.warning(f"{self._dataset_name}: no patch was removed: nothing to measure.")
            return {"reconstruction": {"num_images": num_images}}
        return {
            "reconstruction": {
                "error": error / num_patches,
                "error_of_mean_color": mean_color / num_patches,
                "error_of_smooth_surface": smooth / num_patches,
                "relative_error": error / mean_color if mean_color else math.nan,
                "PSNR": 10 * math.log10(255**2 / max(squared / num_pixels, 1e-12)),
                "num_images": num_images,
            }
        }
