"""The network as a graph: from pixels to decoded objects and maps, for batches of any size.

Letters: N images, H x W pixels of the padded batch, P peaks per image, K keypoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.structures import ImageList
from torch import Tensor, nn

from d2_multitask.heads.build import TaskHeads
from d2_multitask.modeling.inference import fuse_for_inference
from d2_multitask.modeling.mae import MaskedAutoencoder

TOKENS = "tokens"
# Why a part of a network cannot be in the file.
NOT_EXPORTED = {
    "det": (
        "the R-CNN's box branch (with its masks and keypoints) runs once per box and suppresses "
        "boxes between its stages, which is no graph for batches of any size"
    ),
    "reconstruction": "reconstruction removes random patches",
}


class ExportedNetwork(nn.Module):
    """Normalisation, network and decoding as one function of tensors; see :meth:`forward`."""

    def __init__(self, model: nn.Module, tasks: Sequence[str] = ()) -> None:
        """
        Args:
            model: a network of this package, with its weights; fused in a copy.
            tasks: the tasks that answer; empty = those that run at inference.

        Raises:
            ValueError: a task that cannot be exported; the message says why and what can.
        """
        super().__init__()
        self.is_encoder = isinstance(model, MaskedAutoencoder)
        if self.is_encoder:
            self.names: list[str] = []
        else:
            self.names = exported_tasks(model, tasks)
        self.model = fuse_for_inference(model)

    @property
    def heads(self) -> TaskHeads:
        """The heads of the network; none of an autoencoder."""
        return TaskHeads() if self.is_encoder else self.model.heads

    @property
    def divisor(self) -> int:
        """What divides H and W."""
        if self.is_encoder:
            return self.model.patch_size
        return max(self.model.backbone.size_divisibility, 1)

    @property
    def fixed_sides(self) -> tuple[int, int] | None:
        """H and W in divisors, of networks that take one size only; ``None`` = any."""
        return self.model.encoder.grid_hw if self.is_encoder else None

    def forward(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """Answers for a batch, in pixels of the padded batch.

        Args:
            images: (N, H, W, 3) uint8, channels in ``INPUT.FORMAT`` order.
            sizes: (N, 2) int32, (h, w) of each image; what lies beyond is ignored.

        Returns:
            ``scores`` (N, P), ``classes`` (N, P) int32, ``boxes`` (N, P, 4) xyxy, ``keypoints``
            (N, P, K, 3), and each map under the name of its result.
        """
        pixels = images.permute(0, 3, 1, 2).float()
        # Products: a quarter of the time of a division and a choice.
        rows, columns = inside(sizes, pixels)
        batch = (pixels - self.model.pixel_mean) * (rows / self.model.pixel_std) * columns
        if self.is_encoder:
            grid_hw = [side // self.divisor for side in batch.shape[-2:]]
            tokens = self.model.encoder(batch)[:, 1:]
            return {TOKENS: tokens.transpose(1, 2).unflatten(2, grid_hw)}
        features = self.model.backbone(batch)
        flipped = self.model.backbone(batch.flip(-1)) if self.model.flip_test else None
        images = ImageList(batch, sizes)
        decoded = self.heads.decode(features, images, self.names, flipped)
        objects = {}
        if decoded.peaks is not None:
            objects = self.heads["center"].with_boxes(decoded)
            objects["pred_classes"] = objects["pred_classes"].int()
        return {
            **{name.removeprefix("pred_"): value for name, value in objects.items()},
            **decoded.maps,
        }


def exported_tasks(model: nn.Module, tasks: Sequence[str]) -> list[str]:
    """The heads that answer, in running order.

    Raises:
        ValueError: one of the tasks has no head that can be exported, or none is left.
    """
    names = model.heads.chosen(tasks, model.other_tasks) if tasks else model.test_tasks
    dense = [name for name in names if name in model.heads]
    for name in names:
        if name not in model.heads:
            other = f"add --tasks {' '.join(dense)}" if dense else "it has no other task"
            raise ValueError(
                f"--tasks: found {name!r}, which cannot be exported, because "
                f"{NOT_EXPORTED.get(name, 'it has no head')}; {other}"
            )
    return dense


def inside(sizes: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 2) (h, w) and (N, C, H, W) -> (N, 1, H, 1) and (N, 1, 1, W), 1 inside of the image."""
    height, width = batch.shape[-2:]
    rows = torch.arange(height, device=batch.device) < sizes[:, :1]  # (N, H)
    columns = torch.arange(width, device=batch.device) < sizes[:, 1:]
    return rows[:, None, :, None].float(), columns[:, None, None].float()


def check_config(cfg: CfgNode) -> None:
    """Refuse what an exported file would silently leave out.

    Raises:
        ValueError: the config asks for it; the message says what to type.
    """
    if cfg.TEST.TILES.ENABLED:
        raise ValueError(
            "TEST.TILES: found ENABLED True, expected False: a file runs on whole images; add "
            "TEST.TILES.ENABLED False"
        )
    if len(cfg.TEST.SCALES) > 1 or (cfg.TEST.SCALES and cfg.TEST.SCALES[0] != 1):
        raise ValueError(
            f"TEST.SCALES: found {list(cfg.TEST.SCALES)}, expected []: a file runs on one size of "
            "an image; add TEST.SCALES '[]' (and INPUT.MIN_SIZE_TEST, INPUT.MAX_SIZE_TEST for "
            "another size)"
        )
    if not cfg.INPUT.CENTER_CROP_TEST and cfg.INPUT.RESIZE_TEST == "centernet_fixed":
        raise ValueError(
            "INPUT.RESIZE_TEST: found 'centernet_fixed', whose interpolation is OpenCV's; expected "
            "'centernet_keep' or 'shortest_edge' for an exported file"
        )
