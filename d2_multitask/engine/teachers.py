"""``MODEL.TEACHERS``: entries of a config -> trained networks that fit the one that is trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata
from torch import nn

from d2_multitask.engine.model_file import trained_config
from d2_multitask.engine.predictor import load_trained_model
from d2_multitask.engine.setup import flat
from d2_multitask.heads.base import TaskHead
from d2_multitask.heads.build import with_required
from d2_multitask.modeling import MultitaskCenterNet
from d2_multitask.modeling.inference.fold_norms import fold_norms
from d2_multitask.modeling.teachers import Teacher, Teachers
from d2_multitask.visualization.metadata import dataset_metadata

logger = logging.getLogger(__name__)

_KEYS = {"WEIGHTS": str, "CONFIG": str, "TASKS": (list, tuple), "WEIGHT": (int, float)}
# Which names of a dataset a task's predictions are of.
_NAMES = {"center": "thing_classes", "pose": "keypoint_names"}
_NAMES |= {"seg": "stuff_classes", "parts": "part_classes"}
_PROBE_SIDE = 64


def add_teachers(cfg: CfgNode, model: nn.Module) -> None:
    """Give a network the teachers of ``MODEL.TEACHERS``.

    Args:
        cfg: the network's config.
        model: on its device; has the attribute ``teachers`` afterwards, if there are any.

    Raises:
        ValueError: an entry is malformed, its files cannot be read, or its network does not fit
            (tasks, classes, keypoints, stride, numbers that are not finite). Names the key, what
            was found and what was expected.
    """
    if not cfg.MODEL.TEACHERS:
        return
    if not isinstance(model, MultitaskCenterNet):
        raise ValueError(
            f"MODEL.TEACHERS: found {len(cfg.MODEL.TEACHERS)} with MODEL.META_ARCHITECTURE "
            f"{cfg.MODEL.META_ARCHITECTURE!r}, expected MultitaskCenterNet or MultitaskMAE"
        )
    teachers = []
    for index, entry in enumerate(cfg.MODEL.TEACHERS):
        where = f"MODEL.TEACHERS[{index}]"
        try:
            _check_entry(entry)
            teachers.append(_build(cfg, model, entry, where))
        except (ValueError, OSError) as error:
            raise ValueError(f"{where}: {error}") from None
        logger.info("%s teaches %s: %s", where, list(teachers[-1].tasks), entry["WEIGHTS"])
    model.teachers = Teachers(teachers)


def _check_entry(entry: Any) -> None:
    if not isinstance(entry, Mapping):
        raise ValueError(f"found {entry!r}, expected the keys {list(_KEYS)}")
    for key, value in entry.items():
        if key not in _KEYS:
            raise ValueError(f"found key {key!r}, expected some of {list(_KEYS)}")
        if not isinstance(value, _KEYS[key]) or isinstance(value, bool):
            expected = {"TASKS": "a list of tasks", "WEIGHT": "a number"}.get(key, "a path")
            raise ValueError(f"{key}: found {value!r}, expected {expected}")
    if not entry.get("WEIGHTS"):
        raise ValueError("WEIGHTS: found nothing, expected the file of a trained network")
    if not 0 < entry.get("WEIGHT", 1.0) < float("inf"):
        raise ValueError(f"WEIGHT: found {entry['WEIGHT']}, expected a number above 0")


def _build(
    cfg: CfgNode, model: MultitaskCenterNet, entry: Mapping[str, Any], where: str
) -> Teacher:
    weights, config = entry["WEIGHTS"], entry.get("CONFIG", "")
    own, names = trained_config(weights, config, config_key=f"{where}.CONFIG")
    tasks = _tasks(own, model, entry)
    _check_config(cfg, own, model, tasks)
    if names is not None:
        _compare_names(dataset_metadata(cfg), names, tasks, weights)
    own.MODEL.TASKS, own.MODEL.DEVICE = tasks, str(model.device)
    own.TEST.TASKS, own.MODEL.FREEZE = [], []  # they may name tasks that it does not teach
    advice = f"name them in {where}.WEIGHTS, or their own config in {where}.CONFIG"
    network = load_trained_model(own, advice).eval().requires_grad_(False)
    with torch.no_grad():
        fold_norms(network)
    _check_network(network, model, tasks)
    order = tuple(cfg.INPUT.FORMAT.index(channel) for channel in own.INPUT.FORMAT)
    return Teacher(network, tuple(tasks), float(entry.get("WEIGHT", 1.0)), order)


def _tasks(own: CfgNode, model: MultitaskCenterNet, entry: Mapping[str, Any]) -> list[str]:
    """The tasks of an entry, with those that they need."""
    if own.MODEL.META_ARCHITECTURE not in ("MultitaskCenterNet", "MultitaskMAE"):
        raise ValueError(
            f"MODEL.META_ARCHITECTURE: found {own.MODEL.META_ARCHITECTURE!r}, expected "
            "MultitaskCenterNet or MultitaskMAE"
        )
    able = [t for t, head in model.heads.items() if type(head).distill is not TaskHead.distill]
    both = [task for task in with_required(own.MODEL.TASKS) if task in able]
    if not both:
        raise ValueError(
            f"WEIGHTS: found a network of {own.MODEL.TASKS}, expected one with tasks that can be "
            f"taught to the network that is trained: {' or '.join(able) or 'it has none'}"
        )
    tasks = list(entry.get("TASKS", ())) or both
    if wrong := [task for task in tasks if task not in both]:
        raise ValueError(
            f"TASKS: found {wrong}, expected some of {both}: the tasks of teacher and network "
            "that can be taught"
        )
    return with_required(tasks, "TASKS")


def _check_config(cfg: CfgNode, own: CfgNode, model: MultitaskCenterNet, tasks: list[str]) -> None:
    keys = [key for task in tasks for key in model.heads[task].teacher_keys]
    for key in keys:
        found, expected = flat(own)[key], flat(cfg)[key]
        if found != expected:
            raise ValueError(
                f"{key}: found {found!r}, expected {expected!r} as in the network that is trained"
            )
    if sorted(own.INPUT.FORMAT) != sorted(cfg.INPUT.FORMAT):
        raise ValueError(
            f"INPUT.FORMAT: found {own.INPUT.FORMAT!r}, expected the channels of "
            f"{cfg.INPUT.FORMAT!r}"
        )


def _compare_names(ours: Metadata, names: Metadata, tasks: list[str], weights: str) -> None:
    for key in (_NAMES[task] for task in tasks if task in _NAMES):
        found, expected = (list(x.get(key) or ()) for x in (names, ours))
        if found and expected and found != expected:
            logger.warning(
                "MODEL.TEACHERS: %s: %s: found %s, taken for the %s of the network that is "
                "trained, in this order",
                *(weights, key, found, expected),
            )


def _check_network(
    network: MultitaskCenterNet, model: MultitaskCenterNet, tasks: list[str]
) -> None:
    """Strides, padding, and finite predictions for a grey image."""
    for task in tasks:
        found, expected = network.heads[task].stride, model.heads[task].stride
        if found != expected:
            raise ValueError(
                f"task {task!r}: found predictions of stride {found}, expected {expected} "
                "as in the network that is trained"
            )
    found, expected = network.backbone.size_divisibility, model.backbone.size_divisibility
    if found != expected:
        raise ValueError(
            f"found a backbone whose images are padded to multiples of {found} pixels, "
            f"expected {expected} as in the network that is trained"
        )
    side = -(-_PROBE_SIDE // max(found, 1)) * max(found, 1)
    image = torch.full((3, side, side), 128.0, device=network.device)
    with torch.no_grad():
        features = network.backbone(network.preprocess_image([{"image": image}]).tensor)
        for task in tasks:
            for name, values in network.heads[task].layers(features).items():
                if not torch.isfinite(values).all():
                    raise ValueError(
                        f"task {task!r}: found NaN or infinite numbers in its {name!r} "
                        "for a grey image, expected finite ones"
                    )
