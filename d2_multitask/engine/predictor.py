"""Results for single images: a config with weights in, Detectron2's result dicts out."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import Metadata
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from torch import nn

from d2_multitask.checkpoint import MultitaskCheckpointer
from d2_multitask.data.datasets.catalog import LABEL_FREE_TASKS
from d2_multitask.data.transforms.build import build_test_resize, image_window
from d2_multitask.engine.hooks import unwrap
from d2_multitask.engine.instance_masks import with_instance_masks
from d2_multitask.heads.build import head_class, with_required
from d2_multitask.modeling import MultitaskCenterNet
from d2_multitask.modeling.inference import fuse_for_inference
from d2_multitask.modeling.inference.scales import MultiScaleNetwork
from d2_multitask.modeling.inference.tiles import TiledNetwork

logger = logging.getLogger(__name__)

FINAL_WEIGHTS = "model_final.pth"
# What building a network raises for names that are not registered and for numbers that do not fit.
_BUILD_ERRORS = (
    *(LookupError, TypeError, AttributeError, AssertionError, ArithmeticError, RuntimeError),
)


class MultitaskPredictor:
    """Runs a trained network on images, one or several at a time.

    As Detectron2's ``DefaultPredictor`` (BGR in, ``INPUT.RESIZE_TEST`` resizing, results at the
    image's own size), and besides: batches, a choice of tasks, and no silent start from random
    weights.

    Args:
        cfg: a config, ``MultitaskPredictor(cfg)``, maybe with ``names`` (of classes and keypoints,
            from a weight file) for instance masks; or the three arguments below by name.
        model: the network, with its weights; put into evaluation mode.
        resize: brings an image to the size of the network input.
        input_format: channel order that the network wants, ``"BGR"`` or ``"RGB"``.

    Raises:
        ValueError: no weights, see :func:`find_weights`; unknown channel order.
    """

    @configurable
    def __init__(
        self, *, model: nn.Module, resize: T.Augmentation, input_format: str = "BGR"
    ) -> None:
        if input_format not in ("BGR", "RGB"):
            raise ValueError(f"INPUT.FORMAT: found {input_format!r}, expected 'BGR' or 'RGB'")
        self.model = model.eval()
        self.resize = resize
        self.input_format = input_format

    @classmethod
    def from_config(cls, cfg: CfgNode, names: Metadata | None = None) -> dict[str, Any]:
        """Build the network and load ``MODEL.WEIGHTS``, or what ``OUTPUT_DIR`` holds."""
        cfg = cfg.clone()
        cfg.defrost()
        # Set before building: a backbone with weights of its own need not load them first.
        cfg.MODEL.WEIGHTS = find_weights(cfg)
        return {
            "model": inference_model(cfg, load_trained_model(cfg), names),
            "resize": build_test_resize(cfg),
            "input_format": cfg.INPUT.FORMAT,
        }

    def __call__(self, image: np.ndarray, tasks: Sequence[str] | None = None) -> dict[str, Any]:
        """The result of one image, see :meth:`predict_batch`."""
        return self.predict_batch([image], tasks)[0]

    def predict_batch(
        self, images: Sequence[np.ndarray], tasks: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Run the network on a batch.

        Args:
            images: (H, W, 3) uint8 **BGR** each, of any sizes.
            tasks: the heads to run; ``None`` = ``TEST.TASKS`` of the config.

        Returns:
            One dict an image, in pixels of the image: ``instances``, ``sem_seg`` (num_classes,
            H, W), ``foreground`` (H, W) and so on, as far as the tasks give them.

        Raises:
            ValueError: an image of another shape or type; a task that the network does not have.
        """
        inputs = [self._network_input(image) for image in images]
        with torch.inference_mode():
            return self.model(inputs, tasks=tasks) if tasks else self.model(inputs)

    def _network_input(self, image: np.ndarray) -> dict[str, Any]:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"image: found an array of shape {image.shape} and type {image.dtype}, expected "
                "(H, W, 3) and uint8, BGR"
            )
        height, width = image.shape[:2]
        if self.input_format == "RGB":
            image = image[:, :, ::-1]
        transform = self.resize.get_transform(image)
        resized = transform.apply_image(image)
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        result = {"image": tensor, "height": height, "width": width}
        window = image_window(transform, (height, width))
        return result if window is None else {**result, "window": window}


def load_trained_model(cfg: CfgNode, advice: str = "") -> nn.Module:
    """Build the network of ``cfg`` and give every tensor its value from ``MODEL.WEIGHTS``.

    Args:
        cfg: the network's config.
        advice: where other weights are named; ``""`` = at the end of the command.

    Raises:
        ValueError: the checkpoint lacks some tensors, so that results would come from random
            numbers: it is another network's, or holds weights to start a training from. Or no
            network can be built from the config, which may have come with the weights.
    """
    try:
        model = build_model(cfg)
    except _BUILD_ERRORS as error:
        raise ValueError(
            f"MODEL: no network can be built from the config of {cfg.MODEL.WEIGHTS} "
            f"({type(error).__name__}: {' '.join(str(error).split())}); expected registered names "
            "(import the modules that register your own first) and values that fit"
        ) from error
    checkpointer = MultitaskCheckpointer(model, use_ema=cfg.SOLVER.EMA.ENABLED)
    checkpointer.load(cfg.MODEL.WEIGHTS)
    if missing := checkpointer.report.missing:
        final = os.path.join(cfg.OUTPUT_DIR, FINAL_WEIGHTS)
        at_the_end = "or the path of another checkpoint at the end of the command"
        raise ValueError(
            f"{cfg.MODEL.WEIGHTS} has no values for {len(missing)} tensors of this network, e.g. "
            f"{', '.join(missing[:3])}; expected the weights of a trained network of this config "
            f"(with MODEL.TASKS {list(cfg.MODEL.TASKS)}): "
            f"{advice or f'add `MODEL.WEIGHTS {final}` {at_the_end}'}"
        )
    return model


def inference_model(cfg: CfgNode, model: nn.Module, names: Metadata | None = None) -> nn.Module:
    """What evaluation and prediction run: a faster copy of the network, as ``cfg.TEST`` says.

    Args:
        cfg: ``TEST.FUSED``, ``TEST.COMPILED``, ``TEST.SCALES`` and ``TEST.TILES`` are read, and
            what :func:`~d2_multitask.engine.instance_masks.with_instance_masks` reads.
        model: with its weights; not changed, and may be trained further.
        names: of classes and keypoints; ``None`` = those of the config's datasets.

    Returns:
        A copy that answers the same, or ``model`` itself with neither key set (see
        `d2_multitask.modeling.inference`); in several scales or in tiles, with instance masks, if
        the config asks for them.

    Raises:
        ValueError: for both, or masks that the network cannot have.
    """
    return with_instance_masks(cfg, unwrap(model), _in_scales_or_tiles(cfg, model), names)


def _in_scales_or_tiles(cfg: CfgNode, model: nn.Module) -> nn.Module:
    if cfg.TEST.FUSED or cfg.TEST.COMPILED:
        model = fuse_for_inference(unwrap(model), fused=cfg.TEST.FUSED, compiled=cfg.TEST.COMPILED)
    tiles, scales = cfg.TEST.TILES, cfg.TEST.SCALES
    if scales and tiles.ENABLED:
        raise ValueError(f"TEST.SCALES: found {scales} with TEST.TILES, expected one of the two")
    if scales:
        if not isinstance(unwrap(model), MultitaskCenterNet):
            raise ValueError(
                f"TEST.SCALES: found {scales} with MODEL.META_ARCHITECTURE "
                f"{cfg.MODEL.META_ARCHITECTURE}, expected MultitaskCenterNet"
            )
        has_objects = "center" in unwrap(model).heads
        threshold = cfg.MODEL.CENTER_HEAD.NMS_THRESH_TEST if has_objects else None
        return MultiScaleNetwork(model, scales, threshold)
    if not tiles.ENABLED:
        return model
    return TiledNetwork(model, tiles.SIZE, tiles.OVERLAP, tiles.BATCH_SIZE)


def find_weights(cfg: CfgNode) -> str:
    """The checkpoint that a trained network is read from.

    Returns:
        ``MODEL.WEIGHTS``; if that is empty, ``OUTPUT_DIR/model_final.pth``.

    Raises:
        ValueError: neither is there; the message says what to type.
    """
    if cfg.MODEL.WEIGHTS:
        weights = cfg.MODEL.WEIGHTS
        if "://" not in weights and not os.path.isfile(weights):
            raise ValueError(
                f"MODEL.WEIGHTS: found {weights!r}, which is not a file; expected the path of a "
                "checkpoint, e.g. MODEL.WEIGHTS output/demo/model_final.pth"
            )
        return weights
    weights = os.path.join(cfg.OUTPUT_DIR, FINAL_WEIGHTS)
    if not os.path.isfile(weights):
        raise ValueError(
            f"MODEL.WEIGHTS: found nothing, and there is no {weights}; expected the weights of a "
            "trained network: add `MODEL.WEIGHTS path/to/model_final.pth` at the end of the "
            "command, or train first: python tools/train_net.py --config-file FILE"
        )
    logger.info("MODEL.WEIGHTS is empty: taking the trained weights %s", weights)
    return weights


def chosen_tasks(cfg: CfgNode, tasks: Sequence[str] | None = None) -> list[str]:
    """The tasks that will run: ``tasks``, else ``TEST.TASKS``, else ``MODEL.TASKS``.

    Raises:
        ValueError: a task that does not exist, or that this network does not have.
    """
    if not tasks:
        return list(cfg.TEST.TASKS) or list(cfg.MODEL.TASKS)
    there = with_required([task for task in cfg.MODEL.TASKS if task not in LABEL_FREE_TASKS])
    there += LABEL_FREE_TASKS.intersection(cfg.MODEL.TASKS)
    for task in tasks:
        if task not in LABEL_FREE_TASKS:
            head_class(task, "tasks")
        if task not in there:
            raise ValueError(
                f"tasks: found {task!r}, expected some of this network's MODEL.TASKS: "
                f"{', '.join(there)}"
            )
    return list(tasks)
