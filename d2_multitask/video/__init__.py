"""Videos, cameras and network streams, read and written with OpenCV; without PyTorch."""

from __future__ import annotations

from d2_multitask.video.reader import Frame, StreamLostError, VideoReader
from d2_multitask.video.writer import VideoWriter

__all__ = ["Frame", "StreamLostError", "VideoReader", "VideoWriter"]
