"""Frames of files, cameras and network streams, read by a thread of its own.

Files wait for whoever takes the frames; live sources do not: of them the oldest waiting frame is
dropped, so that what is shown is never older than the queue is long. A live source that breaks is
opened again, each time after a longer pause.
"""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

DEFAULT_FPS = 25.0  # for streams that do not tell
FILE_QUEUE, LIVE_QUEUE = 8, 2  # frames
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0)  # seconds before each try to open a stream again
TIMEOUT_MS = 10_000  # for the network

Source = Path | str | int


class Frame(NamedTuple):
    """One frame.

    Attributes:
        image: (H, W, 3) uint8 BGR.
        number: from 0, dropped frames counted.
    """

    image: np.ndarray
    number: int


class StreamLostError(ValueError):
    """A live source broke and could not be opened again; one sentence."""


class VideoReader:
    """The frames of a file, a camera or a stream; iterate once.

    Args:
        source: path of a file, number of a camera, an address such as ``rtsp://...`` or
            ``http://...``, or the pattern of numbered images (``frames/%06d.png``).

    Attributes:
        name: of the source, without a password that its address may have.
        is_live: a camera, or a stream without a known end.
        fps: frames a second.
        num_frames: as the file says, ``None`` for live sources and files that do not say.
        read: frames read so far.
        dropped: frames of a live source that were not taken in time.
        reconnections: how often a live source was opened again.

    Raises:
        ValueError: it cannot be opened.
    """

    def __init__(self, source: Source) -> None:
        self.source, self.name = source, source_name(source)
        self._capture = self._open()
        if not self._capture.isOpened():
            raise ValueError(f"{self.name}: cannot be opened; expected {_expected(source)}")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        # Cameras and broken headers report 0, NaN or absurd rates.
        self.fps = fps if 0.1 <= fps <= 1000 else DEFAULT_FPS
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.is_live = isinstance(source, int) or (is_address(source) and count <= 0)
        self.num_frames = count if count > 0 and not self.is_live else None
        self.read = self.dropped = self.reconnections = 0
        self._stop = threading.Event()
        self._frames: queue.Queue[Frame | None] = queue.Queue(
            LIVE_QUEUE if self.is_live else FILE_QUEUE
        )
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames.

        Raises:
            StreamLostError: a live source broke and could not be opened again.
            ValueError: OpenCV gave up.
        """
        thread = threading.Thread(target=self._read_all, daemon=True)
        thread.start()
        try:
            while (frame := self._frames.get()) is not None:
                yield frame
        finally:
            self._stop.set()
            # A stream may wait for the network; then the thread ends by itself later.
            thread.join(1.0)
        if self._error is not None:
            raise self._error

    def _open(self) -> cv2.VideoCapture:
        if is_address(self.source):
            timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, cv2.CAP_PROP_READ_TIMEOUT_MSEC]
            options = [value for key in timeouts for value in (key, TIMEOUT_MS)]
            return cv2.VideoCapture(str(self.source), cv2.CAP_FFMPEG, options)
        return cv2.VideoCapture(self.source if isinstance(self.source, int) else str(self.source))

    def _read_all(self) -> None:
        """The thread: read until the end, and then put ``None``."""
        try:
            while not self._stop.is_set():
                there, image = self._capture.read()
                if there:
                    self._put(Frame(image, self.read))
                    self.read += 1
                elif not self.is_live:
                    break
                else:
                    self._reconnect()
        except StreamLostError as error:
            self._error = error
        except cv2.error as error:
            self._error = ValueError(f"{self.name}: OpenCV cannot read on: {error}")
        finally:
            self._capture.release()  # here, as no other thread may be reading
            self._put(None)

    def _put(self, frame: Frame | None) -> None:
        while not self._stop.is_set():
            try:
                # The end is waited with; only frames are dropped.
                block = frame is None or not self.is_live
                self._frames.put(frame, block, 0.1 if block else None)
                return
            except queue.Full:
                if self.is_live and frame is not None:
                    self._drop_oldest()

    def _drop_oldest(self) -> None:
        try:
            self._frames.get_nowait()
            self.dropped += 1
        except queue.Empty:  # it was just taken
            pass

    def _reconnect(self) -> None:
        for pause in PAUSES:
            self._capture.release()
            if self._stop.wait(pause):
                return
            self._capture = self._open()
            if self._capture.isOpened():
                self.reconnections += 1
                return
        raise StreamLostError(
            f"{self.name}: the stream broke after {self.read} frames and could not be opened again "
            f"in {len(PAUSES)} tries ({sum(PAUSES):.0f} s); expected {_expected(self.source)}"
        )


def is_address(source: Source) -> bool:
    """Whether it is read over the network."""
    return isinstance(source, str) and re.match(r"[a-z]+://", source, re.IGNORECASE) is not None


def source_name(source: Source) -> str:
    """What messages call it: a user name and a password in an address are left out."""
    if isinstance(source, int):
        return f"camera {source}"
    return re.sub(r"//[^/@]*@", "//", str(source)) if is_address(source) else str(source)


def _expected(source: Source) -> str:
    if isinstance(source, int):
        return "a connected camera"
    if is_address(source):
        return "a stream that can be reached and that this OpenCV can decode"
    return "a video that this OpenCV can decode"
