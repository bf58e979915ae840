"""Runs an exported network on images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from d2_multitask.runtime.images import Size, network_input
from d2_multitask.runtime.maps import resize_maps
from d2_multitask.runtime.model_info import ModelInfo, parse_model_info
from d2_multitask.runtime.result import Result
from d2_multitask.runtime.sessions import open_session

Arrays = dict[str, np.ndarray]

# What objects need; keypoints are chosen by the task "pose".
OBJECT_OUTPUTS = ("scores", "classes", "boxes")


class Predictor:
    """An exported network, ready to run: ``Predictor("model.onnx")(image)``.

    Args:
        path: ``.onnx``, or ``.xml`` of OpenVINO, written by ``tools/export.py``.
        tasks: the tasks to run, ``None`` = all; a call may choose others.
        threads: of the processor, ``None`` = as many as the library likes.
        backend: ``"onnxruntime"`` or ``"openvino"``; ``None`` = by the name of the file.

    Attributes:
        info: what the file says about the network.

    Raises:
        ModelFileError: the file cannot be used; says why.
        FileNotFoundError: there is no such file.
        ImportError: ONNX Runtime or OpenVINO is not installed.
        ValueError: a task that the network does not have.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        tasks: Sequence[str] | None = None,
        threads: int | None = None,
        backend: str | None = None,
    ) -> None:
        self._session = open_session(Path(path), backend, threads)
        self.info: ModelInfo = parse_model_info(self._session.metadata, str(path))
        self.tasks = list(tasks) if tasks else self.info.tasks
        self._output_names(self.tasks)

    def __call__(self, image: np.ndarray, tasks: Sequence[str] | None = None) -> Result:
        """The result of one image, see :meth:`predict_batch`."""
        return self.predict_batch([image], tasks)[0]

    def predict_batch(
        self, images: Sequence[np.ndarray], tasks: Sequence[str] | None = None
    ) -> list[Result]:
        """Run the network on a batch.

        Args:
            images: (H, W, 3) uint8 **BGR** each, of any sizes; they are padded to the largest.
            tasks: the tasks to run, ``None`` = those of the constructor. Each task of objects
                brings boxes, scores and classes.

        Raises:
            ValueError: an image of another shape or type; a task that the network does not have.
        """
        names = self._output_names(tasks or self.tasks)
        if not images:
            return []
        batch, sizes = network_input(images, self.info.input)
        outputs = self._session.run(batch, sizes, names)
        return [
            self._result(
                {name: value[index] for name, value in outputs.items()},
                tuple(sizes[index].tolist()),
                image.shape[:2],
            )
            for index, image in enumerate(images)
        ]

    def _output_names(self, tasks: Sequence[str]) -> list[str]:
        """The outputs of some tasks."""
        unknown = [task for task in tasks if task not in self.info.tasks]
        if unknown:
            raise ValueError(
                f"tasks: found {unknown[0]!r}, expected some of this network's: "
                f"{', '.join(self.info.tasks)}"
            )
        names = [name for name, output in self.info.outputs.items() if output.task in tasks]
        if {"keypoints", *OBJECT_OUTPUTS}.intersection(names):
            names += [name for name in OBJECT_OUTPUTS if name not in names]
        return names

    def _result(
        self, outputs: Arrays, input_size: tuple[int, int], size: tuple[int, int]
    ) -> Result:
        """One image's outputs, without the batch's axis, in pixels of the image."""
        result = Result(size, self.info, image_labels=outputs.get("image_labels"))
        if "scores" in outputs:
            self._add_objects(result, outputs, input_size)
        for name, value in outputs.items():
            output = self.info.outputs[name]
            if output.kind:
                maps = resize_maps(value, output.stride, input_size, size)
                one = output.kind == "values" and len(maps) == 1
                result.maps[name] = maps[0] if one else maps
        return result

    def _add_objects(self, result: Result, outputs: Arrays, input_size: Size) -> None:
        """Objects above the threshold, after NMS; as CenterHead.postprocess."""
        info = self.info.objects
        names = [*OBJECT_OUTPUTS, *(["keypoints"] if "keypoints" in outputs else [])]
        kept = outputs["scores"] > info.score_threshold
        fields = {name: outputs[name][kept] for name in names}
        if info.nms_threshold > 0:
            kept = nms(fields["boxes"], fields["scores"], fields["classes"], info.nms_threshold)
            fields = {name: value[kept] for name, value in fields.items()}
        height, width = result.image_size
        scale = np.array([width / input_size[1], height / input_size[0]], np.float32)
        boxes = (fields["boxes"].reshape(-1, 2, 2) * scale).clip(0, [[width, height]])
        kept = (boxes[:, 1] > boxes[:, 0]).all(1)
        result.boxes = boxes.reshape(-1, 4)[kept].astype(np.float32)
        result.scores = fields["scores"][kept]
        result.classes = fields["classes"][kept].astype(np.int64)
        if "keypoints" in fields:
            keypoints = fields["keypoints"][kept]
            keypoints[..., :2] *= scale
            result.keypoints = keypoints


def nms(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, threshold: float) -> np.ndarray:
    """Non-maximum suppression per class.

    Args:
        boxes: (n, 4) xyxy.
        scores: (n,).
        classes: (n,).
        threshold: IoU above which the weaker of two boxes goes.

    Returns:
        (m,) indices of the boxes that are left, best first.
    """
    order = np.argsort(-scores, kind="stable")
    boxes, classes = boxes[order].astype(np.float64), classes[order]
    corners = (
        np.maximum(boxes[:, None, :2], boxes[:, :2]),
        np.minimum(boxes[:, None, 2:], boxes[:, 2:]),
    )
    shared = (corners[1] - corners[0]).clip(0).prod(-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    overlaps = shared > threshold * (areas[:, None] + areas - shared)
    # [i, j]: i, the better one, removes j if it is left itself.
    removes = np.triu(overlaps & (classes[:, None] == classes), 1)
    left = np.ones(len(boxes), bool)
    while True:  # each pass settles at least one more box
        settled = ~(removes & left[:, None]).any(0)
        if (settled == left).all():
            return order[left]
        left = settled
