"""Videos written with OpenCV: whole, or not there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from d2_multitask.data.whole_files import UNFINISHED

CODEC = "mp4v"  # comes with every OpenCV wheel
LEAST_FREE = 2**20  # bytes; OpenCV does not tell when a disk is full


class VideoWriter:
    """Writes frames to an mp4 file; the first frame decides the size.

    The file is written beside its place, which it takes when it is closed: a link of its name is
    replaced, not followed. As a context, it is closed at the end, and removed after an error.

    Args:
        path: of the file.
        fps: frames a second.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps = path, fps
        self.written = 0
        self._writer: cv2.VideoWriter | None = None
        self._number = -1  # of the last frame, in its source
        self._size_wh = (0, 0)
        # The ending stays: it tells OpenCV the format.
        self._unfinished = path.with_name(f".{path.stem}{UNFINISHED}{path.suffix}")

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._discard()

    def write(self, frame: np.ndarray, number: int | None = None) -> None:
        """Append a frame; later ones are scaled to the size of the first.

        Args:
            frame: (H, W, 3) uint8 BGR.
            number: of the frame in its source. It also takes the place of those that were dropped
                since the one before, so that the video plays as fast as what it shows.

        Raises:
            ValueError: OpenCV has no encoder for the codec, or the file cannot be written.
        """
        if self._writer is None:
            # Encoders that halve the colour resolution need even sides.
            self._size_wh = (max(frame.shape[1] // 2 * 2, 2), max(frame.shape[0] // 2 * 2, 2))
            fourcc = cv2.VideoWriter_fourcc(*CODEC)
            self._writer = cv2.VideoWriter(str(self._unfinished), fourcc, self.fps, self._size_wh)
            if not self._writer.isOpened():
                self._discard()
                raise ValueError(
                    f"{self.path}: OpenCV cannot write this video (codec {CODEC!r}): expected "
                    "a writable folder with space left and an OpenCV with FFmpeg, as its wheels are"
                )
        if self._free() < LEAST_FREE:
            self._fail()
        if (frame.shape[1], frame.shape[0]) != self._size_wh:
            frame = cv2.resize(frame, self._size_wh, interpolation=cv2.INTER_AREA)
        times = 1 if number is None else number - self._number
        for _ in range(times):
            self._writer.write(np.ascontiguousarray(frame))
        self.written += times
        self._number += times

    def close(self) -> None:
        """Finish the file; without a frame there is none.

        Raises:
            ValueError: not all frames are in the file, because the disk is full, for example.
        """
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        readable = cv2.VideoCapture(str(self._unfinished))
        count = int(readable.get(cv2.CAP_PROP_FRAME_COUNT)) if readable.isOpened() else 0
        readable.release()
        if count != self.written:
            self._fail()
        os.replace(self._unfinished, self.path)

    def _free(self) -> int:
        return shutil.disk_usage(self.path.parent).free

    def _fail(self) -> None:
        free = self._free()
        self._discard()
        raise ValueError(
            f"{self.path}: the video could not be written ({free / 2**20:.0f} MB are free there, "
            f"after {self.written} frames); expected space left: make room, or another --output. "
            "Nothing is left under this name"
        )

    def _discard(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._writer = None
        self._unfinished.unlink(missing_ok=True)
