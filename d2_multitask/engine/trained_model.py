"""A weight file as a function of images: `d2_multitask.load` for networks in PyTorch."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import Metadata

from d2_multitask.engine.model_file import prediction_config
from d2_multitask.engine.predictor import MultitaskPredictor, chosen_tasks
from d2_multitask.engine.results import to_result
from d2_multitask.heads.build import TASK_HEAD_REGISTRY, head_class
from d2_multitask.heads.dense import DenseHead, LabelMapHead
from d2_multitask.runtime import Result
from d2_multitask.runtime.images import check_image
from d2_multitask.runtime.model_info import (
    DrawInfo,
    InputInfo,
    MapInfo,
    ModelInfo,
    ObjectsInfo,
    OutputInfo,
)
from d2_multitask.version import __version__
from d2_multitask.visualization.metadata import cfg_metadata, is_rcnn, limbs
from d2_multitask.visualization.predictions import RCNN_KEYPOINT_THRESHOLD


class TrainedModel:
    """A trained network, ready to run: ``TrainedModel("model_final.pth")(image)``.

    Answers as `d2_multitask.runtime.Predictor` does for exported networks.

    Args:
        path: weights with their config inside; other weights need ``config_file``.
        config_file: path, or name of a config that comes with the package.
        opts: ``["KEY", "VALUE", ...]``.

    Attributes:
        cfg: the network's config.
        predictor: gives Detectron2's result dicts.
        info: names and thresholds.

    Raises:
        ValueError: the file is no weight file, has no config, or does not fit it.
        FileNotFoundError: there is no such file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        config_file: str | os.PathLike[str] = "",
        opts: Sequence[str] = (),
    ) -> None:
        self.cfg, names = prediction_config(path, config_file, opts)
        self.predictor = MultitaskPredictor(self.cfg, names=names)
        self.info = model_info(self.cfg, cfg_metadata(self.cfg, names))

    def __call__(self, image: np.ndarray, tasks: Sequence[str] | None = None) -> Result:
        """The result of one image, see :meth:`predict_batch`."""
        return self.predict_batch([image], tasks)[0]

    def predict_batch(
        self, images: Sequence[np.ndarray], tasks: Sequence[str] | None = None
    ) -> list[Result]:
        """Run the network on a batch.

        Args:
            images: (H, W, 3) uint8 **BGR** each, of any sizes.
            tasks: the heads to run; ``None`` = ``TEST.TASKS`` of the config.

        Raises:
            ValueError: an image of another shape or type, or without pixels.
        """
        for image in images:
            check_image(image)
        results = self.predictor.predict_batch(images, tasks)
        return [
            to_result(result, image.shape[:2], self.info)
            for result, image in zip(results, images, strict=True)
        ]


def model_info(cfg: CfgNode, metadata: Metadata) -> ModelInfo:
    """What an exported file would say about the network of a config.

    Args:
        cfg: the config.
        metadata: of `cfg_metadata`.
    """
    node, outputs = cfg.INPUT, _outputs(cfg)
    stretch = node.RESIZE_TEST == "stretch"
    draw = DrawInfo(keypoint_threshold=RCNN_KEYPOINT_THRESHOLD) if is_rcnn(cfg) else DrawInfo()
    return ModelInfo(
        package_version=__version__,
        config=cfg.MODEL.META_ARCHITECTURE,
        input=InputInfo(
            format=node.FORMAT,
            divisor=1,  # the network pads by itself
            resize=node.RESIZE_TEST,
            min_size=node.MIN_SIZE_TEST,
            max_size=node.MAX_SIZE_TEST,
            size=tuple(node.RANDOM_RESIZED_CROP.SIZE) if stretch else None,
            square=0,
        ),
        outputs=outputs,
        objects=_objects(cfg, metadata, outputs) if "scores" in outputs else None,
        maps=_maps(cfg, metadata, outputs),
        draw=draw,
    )


def _outputs(cfg: CfgNode) -> dict[str, OutputInfo]:
    tasks, rcnn = chosen_tasks(cfg), is_rcnn(cfg)
    outputs: dict[str, OutputInfo] = {}
    if {"center", "det", "pose"}.intersection(tasks):
        center = "det" if rcnn else "center"
        outputs = {"scores": OutputInfo(center), "classes": OutputInfo(center)}
        outputs["boxes"] = OutputInfo("det" if "det" in tasks else center)
        if "pose" in tasks or (rcnn and cfg.MODEL.KEYPOINT_ON):
            outputs["keypoints"] = OutputInfo("det" if rcnn else "pose")
    for task in tasks:
        head = head_class(task) if task in TASK_HEAD_REGISTRY else None
        if head is not None and issubclass(head, DenseHead):
            kind = "logits" if issubclass(head, LabelMapHead) else "values"
            outputs[head.label] = OutputInfo(task, kind=kind)
    if "classification" in tasks:
        outputs["image_labels"] = OutputInfo("classification")
    return outputs


def category_ids(metadata: Metadata) -> tuple[int, ...]:
    """Of the classes, as a dataset's files number them; of a dataset without ids from 1."""
    ids = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    to_dataset = {contiguous: original for original, contiguous in ids.items()}
    return tuple(to_dataset.get(i, i + 1) for i in range(len(metadata.thing_classes)))


def _objects(cfg: CfgNode, metadata: Metadata, outputs: dict[str, OutputInfo]) -> ObjectsInfo:
    rcnn, pose = is_rcnn(cfg), "keypoints" in outputs
    node = cfg.MODEL.ROI_HEADS if rcnn else cfg.MODEL.CENTER_HEAD
    sigmas, names = tuple(cfg.TEST.KEYPOINT_OKS_SIGMAS), tuple(metadata.keypoint_names)
    return ObjectsInfo(
        score_threshold=node.SCORE_THRESH_TEST,
        nms_threshold=node.NMS_THRESH_TEST,
        class_names=tuple(metadata.thing_classes),
        category_ids=category_ids(metadata),
        keypoint_names=names if pose else (),
        keypoint_sigmas=sigmas if pose and len(sigmas) == len(names) else (),
        skeleton=tuple(limbs(metadata)) if pose else (),
        draw_boxes=outputs["boxes"].task == "det" or not pose,
    )


def _maps(cfg: CfgNode, metadata: Metadata, outputs: dict[str, OutputInfo]) -> dict[str, MapInfo]:
    maps = {}
    if "sem_seg" in outputs:
        maps["sem_seg"] = MapInfo(
            tuple(metadata.stuff_classes), tuple(range(len(metadata.stuff_classes)))
        )
    return maps
