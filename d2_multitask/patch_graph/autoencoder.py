"""What this package asks of a masked autoencoder, and how it measures many visible sets at once.

Letters: M visible sets, H x W pixels, p pixels a side of a patch, L = h * w patches.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

# The largest tensor of a batch. On a CPU the C library asks the system for every block above
# 32 MiB anew and has its pages cleared, which costs more than larger batches gain.
ACTIVATION_BYTES = {"cpu": 24 * 2**20, "cuda": 2**30}
# More sets in one batch do not make it faster (`tools/benchmark.py relation`).
MAX_BATCH_SIZE = 64
# Of a network that does not say its width: that of ViT-L.
UNKNOWN_WIDTH = 1024
# Images whose channels all vary by less have one colour: about two grey levels of 255, in units
# of a normalised image. What an autoencoder errs there is its own noise.
FLAT_RANGE = 0.04
MIN_GRID = 2


class ReconstructionOutput(Protocol):
    """What `Autoencoder.reconstruct` returns."""

    error: Tensor
    """(N, M, L), mean squared error of every patch."""


class Autoencoder(Protocol):
    """A masked autoencoder, such as `d2_multitask.modeling.mae.MAENetwork`.

    Optional attributes: ``norm_pix_loss`` (bool), ``decoder`` (``None`` = there is none),
    ``encoder`` (for the relation ``encoder_features``: images (N, 3, H, W) -> (N, 1 + L, D), the
    class token first).
    """

    patch_size: int
    """p, pixels."""

    def reconstruct(self, images: Tensor, visible: Tensor) -> ReconstructionOutput:
        """(N, 3, H, W) normalised, (N, M, L) bool, True = visible -> errors."""


def patch_grid_of(image: Tensor, patch_size: int) -> tuple[int, int]:
    """(h, w) of an image (3, H, W).

    Raises:
        ValueError: the image is no single image, the patch does not divide it, or it has fewer
            than 2 x 2 patches, between which there is nothing to relate.
    """
    if image.dim() != 3:
        raise ValueError(f"Image: found a tensor {tuple(image.shape)}, expected (3, H, W)")
    height, width = image.shape[-2:]
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"Image: found {width}x{height} pixels (width x height), expected multiples of the "
            f"patch's side {patch_size}"
        )
    if min(height, width) < MIN_GRID * patch_size:
        raise ValueError(
            f"Image: found {width}x{height} pixels (width x height), expected at least "
            f"{MIN_GRID}x{MIN_GRID} patches of {patch_size} pixels"
        )
    return height // patch_size, width // patch_size


def is_flat(image: Tensor) -> bool:
    """Whether an image (C, H, W) has a single colour, up to `FLAT_RANGE`."""
    low, high = image.flatten(1).aminmax(dim=1)
    return bool((high - low).max() < FLAT_RANGE)


def check_autoencoder(model: Any) -> None:
    """Refuse what cannot reconstruct; warn of what reconstructs something else than pixels.

    Raises:
        ValueError: the model has no decoder or no method ``reconstruct``.
    """
    if not callable(getattr(model, "reconstruct", None)) or getattr(model, "decoder", 0) is None:
        raise ValueError(
            f"Model: found {type(model).__name__} without a decoder, expected a masked autoencoder "
            "that reconstructs; an encoder alone has no reconstruction error (the relation "
            "'encoder_features' needs none)"
        )
    if getattr(model, "norm_pix_loss", False):
        warnings.warn(
            "The autoencoder predicts pixels normalised by each patch (norm_pix_loss): colour and "
            "contrast of a patch are not in its error, so the relation joins patches of the same "
            "texture and does not see flat areas of different colours apart",
            stacklevel=3,
        )


def default_batch_size(model: Any, num_patches: int, device: torch.device) -> int:
    """Visible sets per batch, such that its largest tensor stays below `ACTIVATION_BYTES`.

    That is the hidden layer of a block's MLP, four times as wide as the block. It follows from the
    network and the grid alone, not from the memory that happens to be free.
    """
    tokens = num_patches + 1
    mask_token = getattr(getattr(model, "decoder", None), "mask_token", None)
    width = UNKNOWN_WIDTH if mask_token is None else mask_token.shape[-1]
    width = max(width, getattr(getattr(model, "encoder", None), "embed_dim", 0) // 4)
    limit = ACTIVATION_BYTES.get(device.type, ACTIVATION_BYTES["cpu"])
    return max(1, min(MAX_BATCH_SIZE, limit // (tokens * 4 * width * 4)))


class ErrorMeter:
    """Measures the error of every patch of one image under many visible sets.

    It counts what it costs. Everything that asks the autoencoder about an image goes through it.

    Attributes:
        passes: visible sets measured so far.
        seconds: wall clock time that they took.
        grid_hw: (h, w).
    """

    def __init__(
        self,
        model: Autoencoder,
        image: Tensor,
        *,
        batch_size: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """
        Args:
            model: in evaluation mode.
            image: (3, H, W), normalised, on the model's device.
            batch_size: visible sets in one forward pass; ``None`` = `default_batch_size`.
            dtype: ``torch.bfloat16``: mixed precision; errors are float32 all the same.

        Raises:
            ValueError: see `check_autoencoder` and `patch_grid_of`; or a batch size below 1.
        """
        check_autoencoder(model)
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"Batch size: found {batch_size}, expected at least 1")
        self.model = model
        self.image = image
        self.grid_hw = patch_grid_of(image, model.patch_size)
        self.num_patches = self.grid_hw[0] * self.grid_hw[1]
        self.batch_size = batch_size or default_batch_size(model, self.num_patches, image.device)
        self.dtype = dtype
        self.passes = 0
        self.seconds = 0.0

    def errors(self, visible: Tensor) -> Tensor:
        """Errors of all patches under each set.

        Args:
            visible: (M, L) bool, True = visible.

        Returns:
            (M, L) float32 on the CPU, mean squared error of every patch, visible ones too.
        """
        start = time.perf_counter()
        errors = torch.zeros(visible.shape)
        counts = visible.sum(1)
        with torch.no_grad(), self._precision():
            # sets of one size together, or each would be a run of its own
            for rows in counts.argsort(stable=True).split(self.batch_size):
                batch = visible[rows].to(self.image.device)
                output = self.model.reconstruct(self.image[None], batch[None])
                errors[rows] = output.error[0].float().cpu()
        self.passes += len(visible)
        self.seconds += time.perf_counter() - start
        return errors

    @contextmanager
    def _precision(self) -> Iterator[None]:
        enabled = self.dtype is not None and self.dtype != torch.float32
        with torch.autocast(self.image.device.type, self.dtype, enabled=enabled):
            yield
