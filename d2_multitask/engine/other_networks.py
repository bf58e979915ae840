"""Networks of Detectron2's model zoo and of torchvision as functions of images, for comparison and
as teachers: ``network(image)`` is a `d2_multitask.runtime.Result`, ``network.info`` its names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import detectron2
import numpy as np
import torch
from detectron2.data import MetadataCatalog
from torch import nn

from d2_multitask.checkpoint import read_checkpoint
from d2_multitask.config import get_multitask_cfg, merge_options
from d2_multitask.engine.predictor import MultitaskPredictor
from d2_multitask.engine.results import to_result
from d2_multitask.engine.trained_model import category_ids
from d2_multitask.runtime import Result
from d2_multitask.runtime.model_info import DrawInfo, InputInfo, MapInfo, ModelInfo, ObjectsInfo
from d2_multitask.version import __version__
from d2_multitask.visualization.metadata import limbs

TORCHVISION = "torchvision/"
# What is no class of torchvision's networks.
_NO_CLASS = ("__background__", "N/A", "no person")


@dataclass(frozen=True)
class OtherNetwork:
    """A function of images, and the names that its results need."""

    info: ModelInfo
    run: Callable[[np.ndarray], Result]

    def __call__(self, image: np.ndarray) -> Result:
        """The result of an image (H, W, 3) uint8 BGR."""
        return self.run(image)


def is_of_zoo(name: str) -> bool:
    """Whether Detectron2's model zoo has a config of this name."""
    return bool(name) and not os.path.isfile(name) and os.path.isfile(_zoo_file(name))


def _zoo_file(name: str) -> str:
    # model_zoo.get_config_file also finds folders, and warns of names that are not below its own.
    return os.path.join(os.path.dirname(detectron2.__file__), "model_zoo", "configs", name)


def zoo_network(name: str, opts: Sequence[str]) -> OtherNetwork:
    """A network of Detectron2's model zoo.

    Args:
        name: of its config, such as ``COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml``.
        opts: ``["MODEL.WEIGHTS", "model_final.pkl", ...]``; nothing is downloaded.

    Raises:
        ValueError: there is no such config in YAML, or no file of weights for all of the network.
    """
    if not name.endswith(".yaml") or not is_of_zoo(name):
        raise ValueError(f"--config-file: found {name}, expected a .yaml file of the model zoo")
    cfg = get_multitask_cfg()
    cfg.merge_from_file(_zoo_file(name))
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = "", _device()
    merge_options(cfg, list(opts))
    cfg.TEST.FUSED = False  # is for networks of this package
    _check_weights(cfg.MODEL.WEIGHTS)
    predictor = MultitaskPredictor(cfg)
    metadata = MetadataCatalog.get((*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)[0])
    # LVIS's own are from 1, and so is COCO's of the person; those of VOC and Cityscapes are names.
    names = dict(zip(category_ids(metadata), metadata.thing_classes, strict=True))
    keypoints = metadata.keypoint_names if cfg.MODEL.KEYPOINT_ON else ()
    edges = limbs(metadata) if keypoints else ()
    info = _info(names, keypoints, edges, metadata.get("stuff_classes") or ())

    def run(image: np.ndarray) -> Result:
        found = predictor(image)
        wanted = {key: found[key] for key in ("instances", "sem_seg") if key in found}
        return to_result(wanted, image.shape[:2], info)

    return OtherNetwork(info, run)


def torchvision_network(name: str, weights: str) -> OtherNetwork:
    """A network of ``torchvision.models.detection``.

    Args:
        name: of its function, such as ``fasterrcnn_resnet50_fpn``.
        weights: its state dict, for the classes that torchvision's weights have.

    Raises:
        ValueError: there is no such network, the file holds no weights, or another network's.
    """
    from torchvision import models

    known = models.list_models(module=models.detection)
    if name not in known:
        raise ValueError(f"--config-file: found {TORCHVISION}{name}, expected one of {known}")
    meta = models.get_model_weights(name).DEFAULT.meta
    labels = meta["categories"]
    model = models.get_model(name, weights=None, weights_backbone=None, num_classes=len(labels))
    state = read_checkpoint(_check_weights(weights))["model"]
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        found = " ".join(str(error).split())[:300]
        raise ValueError(f"{weights}: no weights of torchvision's {name}: {found} ...") from error
    names = {number: label for number, label in enumerate(labels) if label not in _NO_CLASS}
    info = _info(names, meta.get("keypoint_names", ()))
    places = {number: place for place, number in enumerate(names)}
    classes = np.array([places.get(number, -1) for number in range(len(labels))])
    model = model.eval().to(_device())
    return OtherNetwork(info, lambda image: _run_torchvision(model, image, info, classes))


@torch.inference_mode()
def _run_torchvision(
    model: nn.Module, image: np.ndarray, info: ModelInfo, classes: np.ndarray
) -> Result:
    """``classes``: of each label that the model gives, -1 for none."""
    rgb = torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)))
    found = {key: x.cpu() for key, x in model([rgb.to(_device()).float() / 255])[0].items()}
    result = Result(image.shape[:2], info, found["boxes"].numpy(), found["scores"].numpy())
    result.classes = classes[found["labels"].numpy()]
    if "masks" in found:
        result.masks = (found["masks"][:, 0] >= 0.5).numpy()
    if "keypoints" in found:  # whose scores are logits
        scores = found["keypoints_scores"].sigmoid()
        result.keypoints = torch.cat([found["keypoints"][..., :2], scores[..., None]], -1).numpy()
    return result.select(result.classes >= 0)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _check_weights(weights: str) -> str:
    if not os.path.isfile(weights):
        raise ValueError(
            f"MODEL.WEIGHTS: found {weights!r}, expected a file of the network's weights: "
            "MODEL.WEIGHTS FILE at the end of the command"
        )
    return weights


def _info(
    names: Mapping[int, str],
    keypoints: Sequence[str],
    edges: Sequence[tuple[int, int]] = (),
    stuff: Sequence[str] = (),
) -> ModelInfo:
    """``names``: category id -> name of the class, in the order of the network's classes."""
    objects = tuple(names.values()), tuple(names), tuple(keypoints), (), tuple(edges), True
    maps = {"sem_seg": MapInfo(tuple(stuff), tuple(range(len(stuff))))} if stuff else {}
    size = InputInfo("BGR", 1, "shortest_edge", 0, 0, None, 0)
    return ModelInfo(__version__, "", size, {}, ObjectsInfo(0.0, 0.0, *objects), maps, DrawInfo())
