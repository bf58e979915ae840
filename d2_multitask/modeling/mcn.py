"""MultiTask-CenterNet (MCN, arXiv 2108.05060): one anchor-free network, any set of task heads.

The network is backbone -> one feature map of stride 4 -> heads. It knows no task by name: heads are
built from ``MODEL.TASKS`` through their registry and speak the contract of ``TaskHead``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from d2_multitask.heads.base import TaskHead
from d2_multitask.heads.build import TaskHeads, Teachers, build_heads
from d2_multitask.losses import LabelWatch
from d2_multitask.modeling.inference.tiles import crop_result


@META_ARCH_REGISTRY.register()
class MultitaskCenterNet(nn.Module):
    """Backbone and task heads; see :meth:`forward`.

    Attributes:
        other_tasks: those of ``MODEL.TASKS`` that the network does itself, without a head.
        teachers: trained networks that it learns from, no part of it; the trainer gives them.
    """

    other_tasks: ClassVar[tuple[str, ...]] = ()
    teachers: Teachers | None = None

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        heads: TaskHeads | Sequence[TaskHead],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        test_tasks: Sequence[str] = (),
        flip_test: bool = False,
        channels_last: bool = True,
        frozen: Sequence[str] = (),
    ) -> None:
        """
        Args:
            backbone: gives the feature maps that the heads read.
            heads: the task heads; a plain list will do, as in a LazyConfig.
            pixel_mean: (3,), in ``INPUT.FORMAT`` order, 0-255.
            pixel_std: (3,), likewise.
            test_tasks: the heads that run at inference; empty = all.
            flip_test: average predictions with those of the flipped image.
            channels_last: keep weights and activations in the memory order (N, H, W, C).
            frozen: names of modules, such as ``"backbone"`` or ``"heads.det"``, that are not
                trained: neither their weights nor the statistics of their norms change.

        Raises:
            ValueError: there is no such module.
        """
        super().__init__()
        self.backbone = backbone
        self.heads = heads if isinstance(heads, TaskHeads) else TaskHeads(heads)
        # Buffers, so that they move with the model; not in checkpoints, as in Detectron2.
        self.register_buffer("pixel_mean", torch.tensor(list(pixel_mean)).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(list(pixel_std)).view(-1, 1, 1), False)
        self.test_tasks = self.heads.chosen(test_tasks, self.other_tasks)
        self.flip_test = flip_test
        self.label_watch = LabelWatch()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)
        self.frozen = list(frozen)
        known = dict(self.named_modules())
        for name in self.frozen:
            if not name or name not in known:
                raise ValueError(
                    f"MODEL.FREEZE: found {name!r}, expected names of modules, such as 'backbone' "
                    f"or {[f'heads.{task}' for task in self.heads]}"
                )
            known[name].requires_grad_(False)

    def train(self, mode: bool = True) -> MultitaskCenterNet:
        """As of every module; frozen ones stay in evaluation mode."""
        super().train(mode)
        for name in self.frozen if mode else ():
            self.get_submodule(name).eval()
        return self

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Config -> arguments of ``__init__``, the backbone and heads built."""
        backbone = build_backbone(cfg)
        tasks = [task for task in cfg.MODEL.TASKS if task not in cls.other_tasks]
        return {
            "backbone": backbone,
            "heads": build_heads(cfg, backbone.output_shape(), tasks),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "test_tasks": cfg.TEST.TASKS,
            "flip_test": cfg.TEST.AUG.ENABLED and cfg.TEST.AUG.FLIP,
            "channels_last": cfg.MODEL.CHANNELS_LAST,
            "frozen": cfg.MODEL.FREEZE,
        }

    @property
    def device(self) -> torch.device:
        """Where the network lives; images are moved there."""
        return self.pixel_mean.device

    def forward(
        self, batched_inputs: list[dict[str, Any]], tasks: Sequence[str] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Losses in training mode, results in evaluation mode.

        Args:
            batched_inputs: per image a dict: ``image`` (3, H, W) in ``INPUT.FORMAT`` order, 0-255;
                for results ``height`` and ``width`` of the wanted output (default: the image's),
                and ``window`` (x0, y0, x1, y1) if the image is but this part of ``image``;
                for losses whatever labels there are: ``instances``, ``ignore_mask`` (H, W) bool,
                ``sem_seg`` (H, W) int64.
            tasks: evaluation mode only: run these heads alone. ``None`` = ``TEST.TASKS``.

        Returns:
            Training: ``{"loss_<task>_<term>": ()}``. Evaluation: one dict per image, with
            ``instances`` (``pred_boxes``, ``scores``, ``pred_classes``, ``pred_keypoints`` (n, K,
            3) as far as the tasks give them) and ``sem_seg`` (num_classes, height, width) logits.
        """
        if not self.training:
            return self.inference(batched_inputs, tasks)
        losses = self.losses(batched_inputs, self.preprocess_image(batched_inputs))
        self.label_watch.update(losses)
        return losses

    def losses(self, batched_inputs: list[dict[str, Any]], images: ImageList) -> dict[str, Tensor]:
        """``{"loss_<task>_<term>": ()}`` of a preprocessed batch."""
        features = self.backbone(images.tensor)
        return self.heads.losses(features, batched_inputs, images, self.teachers)

    @torch.no_grad()
    def inference(
        self, batched_inputs: list[dict[str, Any]], tasks: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Results of the requested tasks; other heads do not run. See :meth:`forward`."""
        names = self.running(tasks)
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        flipped = self.backbone(images.tensor.flip(-1)) if self.flip_test else None
        wanted = output_sizes(batched_inputs, images)
        windows = [entry.get("window") for entry in batched_inputs]
        # Of an image in a frame the whole network input is decoded, then the window is cut out.
        sizes = [
            size if window is None else input_size
            for window, size, input_size in zip(windows, wanted, images.image_sizes, strict=True)
        ]
        heads = [name for name in names if name in self.heads]
        results = self.heads.inference(features, images, sizes, heads, flipped)
        return [
            result if window is None else crop_result(result, window, *place)
            for result, window, *place in zip(results, windows, sizes, wanted, strict=True)
        ]

    def running(self, tasks: Sequence[str] | None) -> list[str]:
        """The tasks that run at inference; see :meth:`TaskHeads.chosen`."""
        return self.test_tasks if tasks is None else self.heads.chosen(tasks, self.other_tasks)

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalise and pad a batch: ``tensor`` (N, 3, H, W), H and W fit for the backbone."""
        images = [
            (x["image"].to(self.device, non_blocking=True) - self.pixel_mean).div_(self.pixel_std)
            for x in batched_inputs
        ]
        batch = ImageList.from_tensors(
            images,
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )
        batch.tensor = batch.tensor.contiguous(memory_format=self.memory_format)
        return batch


def output_sizes(batched_inputs: list[dict[str, Any]], images: ImageList) -> list[tuple[int, int]]:
    """(height, width) requested for each image; by default that of the network input."""
    return [
        (int(entry.get("height", height)), int(entry.get("width", width)))
        for entry, (height, width) in zip(batched_inputs, images.image_sizes, strict=True)
    ]
