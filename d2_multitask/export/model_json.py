"""What an exported file says about itself: one JSON text under the key ``d2_multitask``.

With it the file alone is enough: names, thresholds, the order of channels, how an image becomes the
network input and how the answers become pixels of the image. `d2_multitask.runtime` reads it.
"""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode

from d2_multitask.export.network import TOKENS, ExportedNetwork
from d2_multitask.heads.dense import DenseHead, LabelMapHead
from d2_multitask.visualization.metadata import cfg_metadata, limbs
from d2_multitask.visualization.predictions import CONFIDENCE_THRESHOLD, KEYPOINT_THRESHOLD

KEY = "d2_multitask"
FORMAT_VERSION = 1
MASK_THRESHOLD = 0.5
# Answer -> the head that gives it, of the heads of objects.
_OBJECT_TASKS = {"scores": "center", "classes": "center", "boxes": "det", "keypoints": "pose"}


def model_json(
    cfg: CfgNode, network: ExportedNetwork, outputs: list[str], name: str, version: str
) -> dict[str, Any]:
    """The content of the file's JSON.

    Args:
        cfg: the config of the network.
        network: what was recorded.
        outputs: names of its answers.
        name: of the config.
        version: of this package.
    """
    return {
        "format_version": FORMAT_VERSION,
        "package_version": version,
        "config": name,
        "input": _input(cfg, network),
        "outputs": {name: _output(network, name) for name in outputs},
        "objects": _objects(cfg, network) if "scores" in outputs else None,
        "maps": _map_names(cfg, outputs),
        "draw": {
            "confidence_threshold": CONFIDENCE_THRESHOLD,
            "keypoint_threshold": KEYPOINT_THRESHOLD,
            "mask_threshold": MASK_THRESHOLD,
        },
    }


def _input(cfg: CfgNode, network: ExportedNetwork) -> dict[str, Any]:
    node, resize, size = cfg.INPUT, cfg.INPUT.RESIZE_TEST, None
    if node.CENTER_CROP_TEST and network.is_encoder:
        resize, size = "center_crop", list(node.CENTER_CROP_TEST)
    elif resize == "stretch":
        size = list(node.RANDOM_RESIZED_CROP.SIZE)
    square = getattr(getattr(network.model, "backbone", None), "padding_constraints", {})
    return {
        "format": node.FORMAT,
        "divisor": network.divisor,
        "resize": resize,
        "min_size": node.MIN_SIZE_TEST,
        "max_size": node.MAX_SIZE_TEST,
        "size": size,
        "square": square.get("square_size", 0),
    }


def _output(network: ExportedNetwork, name: str) -> dict[str, Any]:
    if name == TOKENS:
        return {"task": "encoder", "stride": network.divisor, "kind": "tokens"}
    for task in network.names:
        head = network.heads[task]
        if isinstance(head, DenseHead) and head.label == name:
            kind = "logits" if isinstance(head, LabelMapHead) else "values"
            return {"task": task, "stride": head.stride, "kind": kind}
    # Boxes without a box head are the keypoints' hull or the centres' cells.
    task = _OBJECT_TASKS.get(name, "classification" if name == "image_labels" else name)
    return {"task": task if task in network.names else "center"}


def _objects(cfg: CfgNode, network: ExportedNetwork) -> dict[str, Any]:
    metadata, center = cfg_metadata(cfg), network.heads["center"]
    pose = network.heads["pose"] if "pose" in network.names else None
    ids = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    to_dataset = {contiguous: original for original, contiguous in ids.items()}
    sigmas = list(cfg.TEST.KEYPOINT_OKS_SIGMAS)
    return {
        "score_threshold": center.score_threshold,
        "nms_threshold": center.nms_threshold,
        "class_names": list(metadata.thing_classes),
        "category_ids": [to_dataset.get(i, i + 1) for i in range(center.num_classes)],
        "keypoint_names": list(metadata.keypoint_names) if pose else [],
        "keypoint_sigmas": sigmas if pose and len(sigmas) == pose.num_keypoints else [],
        "skeleton": [list(pair) for pair in limbs(metadata)] if pose else [],
        "draw_boxes": "det" in network.names or pose is None,
    }


def _map_names(cfg: CfgNode, outputs: list[str]) -> dict[str, Any]:
    maps: dict[str, Any] = {}
    if "sem_seg" in outputs:
        names = list(cfg_metadata(cfg).stuff_classes)
        maps["sem_seg"] = {"class_names": names, "category_ids": list(range(len(names)))}
    return maps
