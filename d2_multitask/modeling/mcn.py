"""MultiTask-CenterNet (MCN, arXiv 2108.05060): one anchor-free network, any set of task heads.

The network is backbone -> one feature map of stride 4 -> heads. It knows no task by name: heads are
built from ``MODEL.TASKS`` through their registry and speak the contract of ``TaskHead``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import move_device_like
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from d2_multitask.heads.base import Decoded, Predictions
from d2_multitask.heads.build import build_heads, with_required
from d2_multitask.modeling.inference.window import crop_result
from d2_multitask.modeling.label_watch import LabelWatch


@META_ARCH_REGISTRY.register()
class MultitaskCenterNet(nn.Module):
    """Backbone and task heads; see :meth:`forward`."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        heads: nn.ModuleDict,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        test_tasks: Sequence[str] = (),
        flip_test: bool = False,
        channels_last: bool = True,
    ) -> None:
        """
        Args:
            backbone: gives the feature maps that the heads read.
            heads: name -> :class:`d2_multitask.heads.base.TaskHead`, in running order.
            pixel_mean: (3,), in ``INPUT.FORMAT`` order, 0-255.
            pixel_std: (3,), likewise.
            test_tasks: the heads that run at inference; empty = all.
            flip_test: average predictions with those of the flipped image.
            channels_last: keep weights and activations in the memory order (N, H, W, C).
        """
        super().__init__()
        self.backbone = backbone
        self.heads = heads
        # Buffers, so that they move with the model; not in checkpoints, as in Detectron2.
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        self.test_tasks = self._checked_tasks(test_tasks)
        self.flip_test = flip_test
        self.label_watch = LabelWatch()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Config -> arguments of ``__init__``, the backbone and heads built."""
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "heads": build_heads(cfg, backbone.output_shape(), cls.head_tasks(cfg)),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "test_tasks": cfg.TEST.TASKS,
            "flip_test": cfg.TEST.AUG.ENABLED and cfg.TEST.AUG.FLIP,
            "channels_last": cfg.MODEL.CHANNELS_LAST,
        }

    @staticmethod
    def head_tasks(cfg: CfgNode) -> list[str]:
        """Those of ``MODEL.TASKS`` that are heads of the registry: here all."""
        return list(cfg.MODEL.TASKS)

    @property
    def device(self) -> torch.device:
        """Where the network lives; images are moved there."""
        return self.pixel_mean.device

    def forward(
        self, batched_inputs: list[dict[str, Any]], tasks: Sequence[str] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Losses in training mode, results in evaluation mode.

        Args:
            batched_inputs: one dict an image: ``image`` (3, H, W) in ``INPUT.FORMAT`` order, 0-255;
                for results ``height`` and ``width`` of the wanted output (default: the image's),
                and ``window`` (x0, y0, x1, y1) if the image is but this part of ``image``;
                for losses whatever labels there are: ``instances``, ``ignore_mask`` (H, W) bool,
                ``sem_seg`` (H, W) int64.
            tasks: evaluation mode only: run these heads alone. ``None`` = ``TEST.TASKS``.

        Returns:
            Training: ``{"loss_<task>_<term>": ()}``. Evaluation: one dict an image, with
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
        losses: dict[str, Tensor] = {}
        for head in self.heads.values():
            targets = head.targets(batched_inputs, images)
            losses.update(head.losses(head.layers(features), targets))
        return losses

    @torch.no_grad()
    def inference(
        self, batched_inputs: list[dict[str, Any]], tasks: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Results of the asked tasks; other heads are not run. See :meth:`forward`."""
        names = self.test_tasks if tasks is None else self._checked_tasks(tasks)
        images = self.preprocess_image(batched_inputs)
        predictions = self._predict(images.tensor, names)
        if self.flip_test:
            flipped = self._predict(images.tensor.flip(-1), names)
            predictions = {
                name: self.heads[name].merge_flipped(predictions[name], flipped[name])
                for name in names
            }
        decoded = Decoded()
        for name in names:
            self.heads[name].inference(predictions[name], images, decoded)
        return [
            self._result(names, decoded, index, images.image_sizes[index], per_image)
            for index, per_image in enumerate(batched_inputs)
        ]

    def _predict(self, images: Tensor, names: Sequence[str]) -> dict[str, Predictions]:
        features = self.backbone(images)
        return {name: self.heads[name].layers(features) for name in names}

    def _result(
        self,
        names: Sequence[str],
        decoded: Decoded,
        index: int,
        image_size: tuple[int, int],
        per_image: dict[str, Any],
    ) -> dict[str, Any]:
        output_size = (
            int(per_image.get("height", image_size[0])),
            int(per_image.get("width", image_size[1])),
        )
        window = per_image.get("window")
        size = output_size if window is None else image_size
        result: dict[str, Any] = {}
        for name in names:
            result.update(self.heads[name].postprocess(decoded, index, image_size, size))
        return result if window is None else crop_result(result, window, image_size, output_size)

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalise and pad a batch: ``tensor`` (N, 3, H, W), H and W fit for the backbone."""
        images = [
            (move_device_like(x["image"], self.pixel_mean) - self.pixel_mean).div_(self.pixel_std)
            for x in batched_inputs
        ]
        batch = ImageList.from_tensors(
            images,
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )
        batch.tensor = batch.tensor.contiguous(memory_format=self.memory_format)
        return batch

    def _checked_tasks(self, tasks: Sequence[str]) -> list[str]:
        """The heads to run for ``tasks``, in order.

        Raises:
            ValueError: a task that this network does not have.
        """
        if not tasks:
            return list(self.heads)
        for task in tasks:
            if task not in self.heads:
                raise ValueError(
                    f"TEST.TASKS: found {task!r}, expected some of this network's tasks: "
                    f"{', '.join(self.heads)}"
                )
        return with_required(tasks, "TEST.TASKS")
