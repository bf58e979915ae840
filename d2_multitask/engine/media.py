"""Reading and writing videos with OpenCV."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from d2_multitask.data.whole_files import UNFINISHED
from d2_multitask.runtime.files import VIDEO_SUFFIXES as VIDEO_SUFFIXES
from d2_multitask.runtime.files import find_media as find_media

DEFAULT_FPS = 25.0  # for streams that do not tell


class VideoReader:
    """The frames of a video file or a camera, (H, W, 3) uint8 BGR each.

    Args:
        source: path of a file, or the number of a camera.

    Attributes:
        fps: frames a second.
        num_frames: as the file says, ``None`` for cameras and files that do not say.

    Raises:
        ValueError: it cannot be opened.
    """

    def __init__(self, source: Path | int) -> None:
        is_camera = isinstance(source, int)
        self._capture = cv2.VideoCapture(source if is_camera else str(source))
        if not self._capture.isOpened():
            what = f"camera {source}" if is_camera else str(source)
            raise ValueError(
                f"{what}: cannot be opened; expected "
                + ("a connected camera" if is_camera else "a video that this OpenCV can decode")
            )
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        # Cameras and broken headers report 0, NaN or absurd rates.
        self.fps = fps if 0.1 <= fps <= 1000 else DEFAULT_FPS
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.num_frames = count if count > 0 and not is_camera else None

    def __iter__(self) -> Iterator[np.ndarray]:
        try:
            while True:
                there, frame = self._capture.read()
                if not there:
                    return
                yield frame
        finally:
            self._capture.release()


class VideoWriter:
    """Writes frames to an mp4 file; the first frame decides the size.

    The file is written beside its place, which it takes when it is closed: a link of its name is
    replaced, not followed.

    Args:
        path: of the file.
        fps: frames a second.
        codec: four letters; ``mp4v`` comes with every OpenCV wheel.
    """

    def __init__(self, path: Path, fps: float, codec: str = "mp4v") -> None:
        self.path, self.fps, self.codec = path, fps, codec
        self._writer: cv2.VideoWriter | None = None
        self._size_wh = (0, 0)
        # The ending stays: it tells OpenCV the format.
        self._unfinished = path.with_name(f".{path.stem}{UNFINISHED}{path.suffix}")

    def write(self, frame: np.ndarray) -> None:
        """Append a frame (H, W, 3) uint8 BGR; later frames are scaled to the size of the first.

        Raises:
            ValueError: OpenCV has no encoder for the codec, or the file cannot be written.
        """
        if self._writer is None:
            # Encoders that halve the colour resolution need even sides.
            self._size_wh = (max(frame.shape[1] // 2 * 2, 2), max(frame.shape[0] // 2 * 2, 2))
            fourcc = cv2.VideoWriter_fourcc(*self.codec)
            self._writer = cv2.VideoWriter(str(self._unfinished), fourcc, self.fps, self._size_wh)
            if not self._writer.isOpened():
                raise ValueError(
                    f"{self.path}: OpenCV cannot write this video (codec {self.codec!r}): expected "
                    "a writable folder and an OpenCV with FFmpeg, as its wheels are"
                )
        if (frame.shape[1], frame.shape[0]) != self._size_wh:
            frame = cv2.resize(frame, self._size_wh, interpolation=cv2.INTER_AREA)
        self._writer.write(np.ascontiguousarray(frame))

    def close(self) -> None:
        """Finish the file; without a frame there is none."""
        if self._writer is not None:
            self._writer.release()
            os.replace(self._unfinished, self.path)
            self._writer = None
