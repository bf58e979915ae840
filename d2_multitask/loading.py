"""`d2_multitask.load`: a network from a file, whatever runs it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from d2_multitask.engine.trained_model import TrainedModel
    from d2_multitask.runtime import Predictor

EXPORTED_SUFFIXES = (".onnx", ".xml")


def load(
    path: str | os.PathLike[str], config_file: str | os.PathLike[str] = ""
) -> TrainedModel | Predictor:
    """Load a network: ``load("model_final.pth")(image)`` is a `d2_multitask.runtime.Result`.

    Args:
        path: ``.onnx`` or ``.xml``, an exported network, which runs without PyTorch; anything else
            is read as weights with their config inside.
        config_file: of weights that have none inside: a path, or the name of a config that comes
            with the package.

    Returns:
        A function of (H, W, 3) uint8 BGR images; with ``predict_batch`` for several, ``info`` with
        the names, and, of weights, ``predictor`` for Detectron2's result dicts.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no network that this package knows; the sentence says why.
        ImportError: what runs it is not installed; the sentence says what to type.
    """
    if Path(path).suffix.lower() in EXPORTED_SUFFIXES:
        from d2_multitask.runtime import Predictor

        if config_file:
            raise ValueError(f"config_file: found {config_file}, expected none: {path} is exported")
        return Predictor(path)
    from d2_multitask.engine.trained_model import TrainedModel

    return TrainedModel(path, config_file)
