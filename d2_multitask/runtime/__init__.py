"""Prediction with exported networks: NumPy, Pillow and ONNX Runtime or OpenVINO, nothing else."""

from __future__ import annotations

from d2_multitask.runtime.drawing import draw
from d2_multitask.runtime.model_info import ModelFileError, ModelInfo, parse_model_info
from d2_multitask.runtime.predictor import Predictor
from d2_multitask.runtime.result import Result

__all__ = ["ModelFileError", "ModelInfo", "Predictor", "Result", "draw", "parse_model_info"]
