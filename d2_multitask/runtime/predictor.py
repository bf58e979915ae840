"""Runs an exported network on images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from d2_multitask.runtime.images import Size, image_window, network_input
from d2_multitask.runtime.maps import window_maps
from d2_multitask.runtime.model_info import ModelFileError, ModelInfo, parse_model_info
from d2_multitask.runtime.objects import image_objects
from d2_multitask.runtime.result import Result
from d2_multitask.runtime.sessions import open_session

Arrays = dict[str, np.ndarray]

OBJECT_FIELDS = ("scores", "classes", "boxes", "keypoints")


class Predictor:
    """An exported network, ready to run: ``Predictor("model.onnx")(image)``.

    Args:
        path: ``.onnx``, or ``.xml`` of OpenVINO, written by ``d2mt export``.
        tasks: whose results are wanted, ``None`` = all; a call may choose others.
        threads: of the processor, ``None`` = the library's default.
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
        missing = [name for name in self.info.outputs if name not in self._session.outputs]
        if missing:
            raise ModelFileError(
                f"{path}: found no output {missing[0]!r}, expected those of its metadata: "
                f"{', '.join(self.info.outputs)}"
            )
        self._output_names(tasks or self.info.tasks)
        self.tasks = list(tasks) if tasks else self.info.tasks

    def __call__(self, image: np.ndarray, tasks: Sequence[str] | None = None) -> Result:
        """The result of one image, see :meth:`predict_batch`."""
        return self.predict_batch([image], tasks)[0]

    def predict_batch(
        self, images: Sequence[np.ndarray], tasks: Sequence[str] | None = None
    ) -> list[Result]:
        """Run the network on a batch.

        Args:
            images: (H, W, 3) uint8 **BGR** each, of any sizes; they are padded to the largest.
            tasks: whose results are wanted, ``None`` = those of the constructor. Each task of
                objects brings boxes, scores and classes. The whole network runs in any case; a
                file exported with ``--tasks`` is what saves time.

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
        if isinstance(tasks, str):
            raise ValueError(f"tasks: found {tasks!r}, expected a list such as [{tasks!r}]")
        unknown = [task for task in tasks if task not in self.info.tasks]
        if unknown:
            raise ValueError(
                f"tasks: found {unknown[0]!r}, expected some of this network's: "
                f"{', '.join(self.info.tasks)}"
            )
        names = [name for name, output in self.info.outputs.items() if output.task in tasks]
        if set(OBJECT_FIELDS).intersection(names):  # keypoints are no objects without a box
            names += [name for name in OBJECT_FIELDS[:3] if name not in names]
        return names

    def _result(self, outputs: Arrays, input_size: Size, size: Size) -> Result:
        """One image's outputs, without the batch's axis, in pixels of the image."""
        window = image_window(size, self.info.input)
        result = Result(size, self.info, image_labels=outputs.get("image_labels"))
        if "scores" in outputs:
            objects = {name: outputs[name] for name in OBJECT_FIELDS if name in outputs}
            vars(result).update(image_objects(objects, self.info.objects, window, size))
        for name, value in outputs.items():
            output = self.info.outputs[name]
            if output.kind in ("logits", "values"):
                maps = window_maps(value, output.stride, input_size, window, size)
                one = output.kind == "values" and len(maps) == 1
                result.maps[name] = maps[0] if one else maps
            elif output.kind:
                result.maps[name] = value
        return result
