"""Loads an exported file in ONNX Runtime or OpenVINO and runs it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from d2_multitask.runtime.model_info import METADATA_KEY, ModelFileError

BACKENDS = ("onnxruntime", "openvino")
# For batches of one shape OpenVINO's code takes a tenth less time; compiling takes as much as that
# saves in thirty images.
SAME_SHAPES = 8


class Session(Protocol):
    """A loaded network.

    Attributes:
        metadata: the JSON that the exporter wrote, ``None`` if there is none.
        outputs: names.
    """

    metadata: str | None
    outputs: set[str]

    def run(
        self, images: np.ndarray, sizes: np.ndarray, names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Some outputs; neither library leaves out what only the others need.

        Args:
            images: (N, H, W, 3) uint8.
            sizes: (N, 2) int32, (h, w) of each without padding.
            names: of the outputs.
        """


def open_session(path: Path, backend: str | None, threads: int | None) -> Session:
    """Load a file.

    Args:
        path: ``.onnx``, or ``.xml`` of OpenVINO.
        backend: one of `BACKENDS`; ``None`` = OpenVINO for ``.xml``, else ONNX Runtime.
        threads: ``None`` = the library's default.

    Raises:
        ModelFileError: the file is no network, or this version of the library cannot run it.
        FileNotFoundError: there is no such file.
        ImportError: the library is not installed.
        ValueError: an unknown backend, or no number of threads.
    """
    backend = backend or ("openvino" if path.suffix == ".xml" else "onnxruntime")
    if backend not in BACKENDS:
        raise ValueError(f"backend: found {backend!r}, expected one of {BACKENDS}")
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise ValueError(f"threads: found {threads!r}, expected a number above 0, or None")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: found no such file, expected a network (.onnx or .xml)")
    return (OnnxSession if backend == "onnxruntime" else OpenVinoSession)(path, threads)


class OnnxSession:
    """A file in ONNX Runtime, on the processor."""

    def __init__(self, path: Path, threads: int | None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise _not_installed(path, "ONNX Runtime", "onnxruntime", "runtime") from error
        self._path = path
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its classes of errors have no common base of their own
            version = onnxruntime.__version__
            raise _cannot_read(path, "ONNX Runtime", "onnxruntime", version, error) from error
        self.metadata = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        self.outputs = {output.name for output in self._session.get_outputs()}

    def run(
        self, images: np.ndarray, sizes: np.ndarray, names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """See :class:`Session`."""
        try:
            values = self._session.run(names, {"images": images, "sizes": sizes})
        except Exception as error:  # see above
            raise _cannot_run(self._path, "ONNX Runtime", images, error) from error
        return dict(zip(names, values, strict=True))


class OpenVinoSession:
    """A file in OpenVINO, on the processor."""

    def __init__(self, path: Path, threads: int | None) -> None:
        try:
            import openvino
        except ImportError as error:
            raise _not_installed(path, "OpenVINO", "openvino", "openvino") from error
        self._path = path
        core = openvino.Core()
        # On processors that multiply bfloat16 OpenVINO would use it: three digits.
        hints: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            hints["INFERENCE_NUM_THREADS"] = threads
        try:
            self._model = core.read_model(path)
            self._compile = partial(core.compile_model, device_name="CPU", config=hints)
            self._compiled = self._of_any_size = self._compile(self._model)
        except RuntimeError as error:
            version = openvino.__version__
            raise _cannot_read(path, "OpenVINO", "openvino", version, error) from error
        self.metadata = _openvino_metadata(self._model)
        self.outputs = {name for output in self._model.outputs for name in output.names}
        self._shape: tuple[int, ...] = ()
        self._repeats = 0
        # Calls share one request: another thread would read this one's results.
        self._lock = threading.Lock()

    def run(
        self, images: np.ndarray, sizes: np.ndarray, names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """See :class:`Session`."""
        try:
            with self._lock:
                self._choose(images.shape)
                found = self._compiled({"images": images, "sizes": sizes})
                return {name: found[name] for name in names}
        except RuntimeError as error:
            raise _cannot_run(self._path, "OpenVINO", images, error) from error

    def _choose(self, shape: tuple[int, ...]) -> None:
        """Compile the network for this shape alone once it has been seen a few times in a row."""
        if shape != self._shape:
            self._shape, self._repeats, self._compiled = shape, 0, self._of_any_size
        self._repeats += 1
        if self._repeats == SAME_SHAPES:
            model = self._model.clone()
            model.reshape({"images": list(shape), "sizes": [shape[0], 2]})
            self._compiled = self._compile(model)


def _openvino_metadata(model: Any) -> str | None:
    """From an ``.xml``, or from an ``.onnx``, whose metadata OpenVINO puts elsewhere."""
    for place in ([METADATA_KEY], ["framework", METADATA_KEY]):
        if model.has_rt_info(place):
            return model.get_rt_info(place).astype(str)
    return None


def _not_installed(path: Path, title: str, package: str, extra: str) -> ImportError:
    return ImportError(
        f"{path}: needs {title}, which is not installed: python -m pip install {package} (or "
        f"'d2_multitask[{extra}]')"
    )


def _cannot_read(
    path: Path, title: str, package: str, version: str, error: Exception
) -> ModelFileError:
    reason = _reason(error)
    if METADATA_KEY.encode() not in path.read_bytes():
        return ModelFileError(
            f"{path}: found no network, expected a file written by d2mt export ({title} says: "
            f"...{reason})"
        )
    whole = "it whole, with its .bin" if path.suffix == ".xml" else "it whole"
    return ModelFileError(
        f"{path}: {title} {version} cannot read this file (...{reason}), expected {whole}: copy or "
        f"export it again; or a newer {title}: python -m pip install --upgrade {package}"
    )


def _cannot_run(path: Path, title: str, images: np.ndarray, error: Exception) -> ModelFileError:
    count, height, width, _ = images.shape
    return ModelFileError(
        f"{path}: {title} cannot run it on {count} images of {height}x{width} pixels "
        f"(...{_reason(error)}), expected fewer or smaller ones, or a file that fits its metadata"
    )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[-160:]  # the end says what, the beginning where
