"""Predictions as COCO's results, and the files that Detectron2's COCOEvaluator writes of them."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pickle
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import BoxMode, Instances
from detectron2.utils.file_io import PathManager

Result = dict[str, Any]


def coco_results(instances: Instances, image_id: Any) -> list[Result]:
    """Detectron2's ``instances_to_coco_json``, faster and without changing the instances.

    Args:
        instances: on the CPU: ``pred_boxes`` (n, 4), ``scores`` (n,), ``pred_classes`` (n,), maybe
            ``pred_keypoints`` (n, K, 3) and ``pred_masks`` (n, H, W); continuous pixels.
        image_id: of the image.

    Returns:
        For each, ``image_id``, ``category_id`` (the class number), ``bbox`` (x, y, w, h), ``score``
        and, if predicted, ``segmentation`` (RLE) and ``keypoints`` (x, y, score, ...; pixel
        indices).
    """
    fields = instances.get_fields()
    if instances.has("pred_masks"):  # Detectron2 makes the RLEs; it shifts keypoints in place
        masks = Instances(instances.image_size, **fields)
        if masks.has("pred_keypoints"):
            masks.pred_keypoints = masks.pred_keypoints.clone()
        return instances_to_coco_json(masks, image_id)
    boxes = instances.pred_boxes.tensor
    xywh = BoxMode.convert(boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    rows = zip(instances.pred_classes.tolist(), xywh, instances.scores.tolist(), strict=True)
    results = [
        {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
        for category, box, score in rows
    ]
    if instances.has("pred_keypoints"):
        points = instances.pred_keypoints  # (n, K, 3)
        points = points - points.new_tensor([0.5, 0.5, 0.0])  # continuous -> pixel indices
        for result, keypoints in zip(results, points.flatten(1).tolist(), strict=True):
            result["keypoints"] = keypoints
    return results


def with_category_ids(
    results: Sequence[Result], contiguous_ids: Mapping[Any, int] | None
) -> list[Result]:
    """Copies of results with the dataset's category ids instead of class numbers.

    ``contiguous_ids`` is category id -> class number; without it they are the same.

    Raises:
        ValueError: the dataset has no such class.
    """
    if contiguous_ids is None:
        return [dict(result) for result in results]
    category_ids = {number: category for category, number in contiguous_ids.items()}
    unknown = {result["category_id"] for result in results} - category_ids.keys()
    if unknown:
        raise ValueError(
            f"pred_classes: found {sorted(unknown)}, expected one of the dataset's class numbers "
            f"{sorted(category_ids)}"
        )
    return [{**result, "category_id": category_ids[result["category_id"]]} for result in results]


def write_instances(folder: str, predictions: Sequence[Mapping[str, Any]]) -> str:
    """Write ``instances_predictions.pth`` for ``torch.load``, as Detectron2's COCOEvaluator does.

    Args:
        folder: is created if needed.
        predictions: ``image_id`` and ``instances`` (from `coco_results`) of each image.

    Returns:
        The path.
    """
    PathManager.mkdirs(folder)
    path = os.path.join(folder, "instances_predictions.pth")
    with PathManager.open(path, "wb") as file:
        torch.save(list(predictions), file, pickle_module=_PlainPickle)
    return path


def write_results(folder: str, results: Sequence[Result]) -> str:
    """Write ``coco_instances_results.json``, COCO's list of results; returns its path."""
    PathManager.mkdirs(folder)
    path = os.path.join(folder, "coco_instances_results.json")
    with PathManager.open(path, "wb") as file:
        file.write(_json_bytes(list(results)))
    return path


def _json_bytes(content: Any) -> bytes:
    # Most of the text is keypoints, whose digits orjson writes several times faster.
    if importlib.util.find_spec("orjson") is not None:
        import orjson

        # The standard library also writes integers of more than 64 bits.
        with contextlib.suppress(TypeError):
            return orjson.dumps(content)
    return json.dumps(content).encode()


class _PlainPickle:
    """A ``pickle_module`` for content without tensors.

    The pickler of ``torch.save`` calls a Python function for every object to find the storages of
    tensors: millions of times for keypoints, which takes longer than writing them.
    """

    class Pickler:
        """`torch.save` derives from this class and adds ``persistent_id``, which is not used."""

        def __init__(self, file: BinaryIO, protocol: int) -> None:
            self.dump = pickle.Pickler(file, protocol).dump
