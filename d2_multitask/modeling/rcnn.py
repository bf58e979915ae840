"""One Mask R-CNN for every task: Detectron2's R-CNN, and our dense heads on its feature pyramid.

``"det"`` in ``MODEL.TASKS`` is Detectron2's proposal network and box head, with masks and keypoints
as ``MODEL.MASK_ON`` and ``MODEL.KEYPOINT_ON`` say; every other task is a head of the registry. Each
can be left out. Parameter names are Detectron2's, so its model zoo initialises what has its shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    GeneralizedRCNN,
    build_backbone,
    build_proposal_generator,
    build_roi_heads,
)
from detectron2.structures import ImageList, Instances
from torch import Tensor

from d2_multitask.heads.base import TaskHead
from d2_multitask.heads.build import TaskHeads, build_heads, head_class
from d2_multitask.losses import LabelWatch, worker_weight
from d2_multitask.modeling.mcn import output_sizes
from d2_multitask.modeling.roi_heads import ImageLabels

DETECTION = "det"
# Detectron2's names of losses -> ours, `loss_<task>_<term>`, from which totals of tasks are made.
LOSS_NAMES = {
    "loss_rpn_cls": "loss_det_rpn_cls",
    "loss_rpn_loc": "loss_det_rpn_loc",
    "loss_cls": "loss_det_cls",
    "loss_box_reg": "loss_det_box_reg",
    "loss_mask": "loss_mask",
    "loss_keypoint": "loss_pose",
}


def add_rcnn_config(cfg: CfgNode) -> None:
    """Add ``MODEL.MULTITASK_RCNN`` in place; all else of the R-CNN has Detectron2's keys."""
    cfg.MODEL.MULTITASK_RCNN = node = CfgNode()
    # Ids of the classes that have keypoints: at inference only their boxes go through the keypoint
    # head, which is slow; the others' keypoints are zeros. [] = all classes.
    node.KEYPOINT_CLASSES = []


@META_ARCH_REGISTRY.register()
class MultitaskRCNN(GeneralizedRCNN):
    """Detectron2's R-CNN with dense heads; see :meth:`forward`."""

    @configurable
    def __init__(
        self,
        *,
        heads: TaskHeads | Sequence[TaskHead],
        test_tasks: Sequence[str] = (),
        flip_test: bool = False,
        channels_last: bool = True,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            heads: the task heads on the backbone's outputs.
            test_tasks: the tasks that run at inference; empty = all.
            flip_test: average the heads' predictions with those of the flipped image; detections
                are those of the image itself.
            channels_last: keep weights and activations in the memory order (N, H, W, C).
            **kwargs: of ``GeneralizedRCNN``; without detection ``proposal_generator`` and
                ``roi_heads`` are ``None``.
        """
        super().__init__(**kwargs)
        self.heads = heads if isinstance(heads, TaskHeads) else TaskHeads(heads)
        self.other_tasks = () if self.roi_heads is None else (DETECTION,)
        self.test_tasks = self.heads.chosen(test_tasks, self.other_tasks)
        self.flip_test = flip_test
        self.label_watch = LabelWatch()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Config -> arguments of ``__init__``, all parts built.

        Raises:
            ValueError: tasks that this network cannot have.
        """
        _check_config(cfg)
        detects = DETECTION in cfg.MODEL.TASKS
        backbone = build_backbone(cfg)
        shape = backbone.output_shape()
        dense_tasks = [task for task in cfg.MODEL.TASKS if task != DETECTION]
        return {
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, shape) if detects else None,
            "roi_heads": build_roi_heads(cfg, shape) if detects else None,
            "heads": build_heads(cfg, shape, dense_tasks),
            "input_format": cfg.INPUT.FORMAT,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "test_tasks": cfg.TEST.TASKS,
            "flip_test": cfg.TEST.AUG.ENABLED and cfg.TEST.AUG.FLIP,
            "channels_last": cfg.MODEL.CHANNELS_LAST,
        }

    @property
    def task_names(self) -> list[str]:
        """The tasks that have losses ``loss_<task>_<term>``."""
        names = [DETECTION, "mask", "pose"] if self.roi_heads is not None else []
        return [*names, *self.heads]

    def forward(
        self, batched_inputs: list[dict[str, Any]], tasks: Sequence[str] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Losses in training mode, results in evaluation mode.

        Args:
            batched_inputs: per image a dict: ``image`` (3, H, W) in ``INPUT.FORMAT`` order, 0-255;
                for results ``height`` and ``width`` of the wanted output (default: the image's);
                for losses whatever labels there are: ``instances`` (``gt_boxes``, ``gt_classes``,
                and ``gt_masks`` and ``gt_keypoints`` if any object has them), ``ignore_mask`` (H,
                W) bool, and those of the heads. An image without ``instances`` adds nothing to the
                losses of detection.
            tasks: evaluation mode only: run these alone. ``None`` = ``TEST.TASKS``.

        Returns:
            Training: ``{"loss_<task>_<term>": ()}``. Evaluation: one dict per image with
            ``instances`` (``pred_boxes``, ``scores``, ``pred_classes``, ``pred_masks`` (n, height,
            width) bool, ``pred_keypoints`` (n, K, 3)) and the results of the heads.
        """
        if not self.training:
            return self.inference(batched_inputs, tasks=tasks)
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        losses: dict[str, Tensor] = {}
        if self.roi_heads is not None:
            losses.update(self._detection_losses(batched_inputs, images, features))
        losses.update(self.heads.losses(features, batched_inputs, images))
        self.label_watch.update(losses)
        return losses

    def _detection_losses(
        self, batched_inputs: list[dict[str, Any]], images: ImageList, features: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Losses of boxes, masks and keypoints, over the images that have object labels.

        Detectron2 takes means over this process's images and sampled boxes; they are weighted here
        so that the mean over processes is that of one large batch. Those of masks and
        keypoints come weighted.
        """
        labelled = [i for i, entry in enumerate(batched_inputs) if "instances" in entry]
        # Without any, one image still goes through all layers: each parameter gets a gradient of
        # zero, which training on several GPUs relies on.
        rows = labelled or [0]
        if len(rows) < len(batched_inputs):
            sizes = [images.image_sizes[i] for i in rows]
            images = ImageList(images.tensor[rows], sizes)
            features = {name: feature[rows] for name, feature in features.items()}
        targets = [ImageLabels.of(batched_inputs[i], self.device) for i in rows]
        proposals, rpn_losses = self.proposal_generator(images, features, targets)
        sampled, roi_losses = self.roi_heads(images, features, proposals, targets)
        num_boxes = sum(map(len, sampled)) if labelled else 0
        losses = {**rpn_losses, **roi_losses}
        weights = self._worker_weights(losses, len(labelled), num_boxes)
        return {LOSS_NAMES.get(x, x): loss.float() * weights[x] for x, loss in losses.items()}

    def _worker_weights(
        self, names: Iterable[str], num_images: int, num_boxes: int
    ) -> dict[str, Tensor | float]:
        per_image, per_box = (
            # Filled on the device, which `torch.tensor` would wait for.
            worker_weight(torch.full((), count, device=self.device))
            for count in (num_images, num_boxes)
        )
        head = getattr(self.roi_heads, "keypoint_head", None)
        visible = getattr(head, "loss_normalizer", None) == "visible"
        weighted = {"loss_mask": 1.0, "loss_keypoint": 1.0 if visible else per_image}
        return {
            name: per_image if name.startswith("loss_rpn") else weighted.get(name, per_box)
            for name in names
        }

    @torch.no_grad()
    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
        tasks: Sequence[str] | None = None,
    ) -> list[Any]:
        """Results of the requested tasks; other tasks do not run. See :meth:`forward`.

        Args:
            batched_inputs: see :meth:`forward`.
            detected_instances: known boxes; only masks and keypoints are predicted for them.
            do_postprocess: ``False`` gives the ``Instances`` alone, in pixels of the network input.
            tasks: see :meth:`forward`.
        """
        names = self.test_tasks
        if tasks is not None:
            names = self.heads.chosen(tasks, self.other_tasks)
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        results: list[dict[str, Any]] = [{} for _ in batched_inputs]
        if DETECTION in names:
            instances = self._detect(images, features, detected_instances)
            if not do_postprocess:
                return instances
            results = self._postprocess(instances, batched_inputs, images.image_sizes)
        names = [name for name in names if name in self.heads]
        flipped = self.backbone(images.tensor.flip(-1)) if self.flip_test and names else None
        sizes = output_sizes(batched_inputs, images)
        of_heads = self.heads.inference(features, images, sizes, names, flipped)
        return [{**result, **others} for result, others in zip(results, of_heads, strict=True)]

    def _detect(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        detected_instances: list[Instances] | None,
    ) -> list[Instances]:
        if detected_instances is not None:
            known = [image.to(self.device) for image in detected_instances]
            return self.roi_heads.forward_with_given_boxes(features, known)
        proposals, _ = self.proposal_generator(images, features, None)
        return self.roi_heads(images, features, proposals, None)[0]

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalise and pad a batch: ``tensor`` (N, 3, H, W), H and W fit for the backbone."""
        images = super().preprocess_image(batched_inputs)
        images.tensor = images.tensor.contiguous(memory_format=self.memory_format)
        return images


def _check_config(cfg: CfgNode) -> None:
    """What an R-CNN cannot have: tasks, framed images, Detectron2's switches without detection."""
    if cfg.INPUT.RESIZE_TEST != "shortest_edge":
        raise ValueError(
            f"INPUT.RESIZE_TEST: found {cfg.INPUT.RESIZE_TEST!r}, expected 'shortest_edge', "
            "because frames around test images are for MultitaskCenterNet"
        )
    if cfg.MODEL.FREEZE:
        raise ValueError(
            f"MODEL.FREEZE: found {cfg.MODEL.FREEZE}, expected [], because it is for "
            "MultitaskCenterNet; here it is MODEL.BACKBONE.FREEZE_AT"
        )
    if not cfg.MODEL.TASKS:
        raise ValueError("MODEL.TASKS: found an empty list, expected at least one task")
    for task in cfg.MODEL.TASKS:
        if task != DETECTION and head_class(task).requires:
            raise ValueError(
                f"MODEL.TASKS: found {task!r}, which requires {head_class(task).requires} and "
                "works in MultitaskCenterNet; for keypoints in MultitaskRCNN set MODEL.KEYPOINT_ON"
            )
    for key in ("MASK_ON", "KEYPOINT_ON"):
        if cfg.MODEL[key] and DETECTION not in cfg.MODEL.TASKS:
            raise ValueError(
                f"MODEL.{key}: found True, expected False, or {DETECTION!r} in MODEL.TASKS "
                f"(found {list(cfg.MODEL.TASKS)}): masks and keypoints are predicted in boxes"
            )
