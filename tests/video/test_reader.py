"""Files, broken files, and a stream on this machine that is slow to be read, breaks, comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from d2_multitask.video import StreamLostError, VideoReader, VideoWriter, reader


def grey(level: int) -> np.ndarray:
    return np.full((48, 64, 3), level % 256, np.uint8)


def write_video(path, count: int) -> None:
    with VideoWriter(path, 25) as writer:
        for index in range(count):
            writer.write(grey(10 * index))


def test_a_slow_network_drops_no_frame_of_a_file(tmp_path):
    write_video(tmp_path / "v.mp4", 20)
    video = VideoReader(tmp_path / "v.mp4")
    numbers = []
    for frame in video:
        time.sleep(0.005)
        numbers.append(frame.number)
    assert numbers == list(range(20)) and not video.is_live
    assert (video.read, video.dropped, video.reconnections) == (20, 0, 0)


def test_a_video_of_one_frame(tmp_path):
    write_video(tmp_path / "v.mp4", 1)
    (frame,) = VideoReader(tmp_path / "v.mp4")
    assert frame.image.shape == (48, 64, 3)


def test_numbered_images_are_a_video(tmp_path):
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index:06d}.png"), grey(40 * index))
    read = list(VideoReader(str(tmp_path / "%06d.png")))
    assert [int(frame.image.mean()) for frame in read] == [0, 40, 80]


@pytest.mark.parametrize(
    ("content", "source", "message"),
    [
        pytest.param(b"no video", "v.mp4", r"v\.mp4: .* expected a video", id="text"),
        pytest.param(b"", "v.mp4", r"v\.mp4: cannot be opened", id="empty"),
        pytest.param(None, "absent.mp4", r"absent\.mp4: cannot be opened", id="absent"),
        pytest.param(
            None,
            "rtsp://user:secret@127.0.0.1:9/a",
            r"^rtsp://127\.0\.0\.1:9/a: cannot be opened; expected a stream that can be reached",
            id="address-without-its-password",
        ),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, content, source, message):
    if content is not None:
        (tmp_path / source).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        VideoReader(source if "://" in source else tmp_path / source)


def test_a_file_that_is_cut_off_ends_where_it_can_be_read(tmp_path):
    with VideoWriter(tmp_path / "v.mkv", 25) as writer:
        for index in range(20):
            writer.write(grey(10 * index))
    content = (tmp_path / "v.mkv").read_bytes()
    (tmp_path / "v.mkv").write_bytes(content[: len(content) // 2])
    video = VideoReader(tmp_path / "v.mkv")
    assert 0 < len(list(video)) < 20


def test_leaving_early_ends_the_thread(tmp_path):
    write_video(tmp_path / "v.mp4", 30)
    threads = threading.active_count()
    frames = iter(VideoReader(tmp_path / "v.mp4"))
    next(frames)
    assert threading.active_count() == threads + 1
    frames.close()
    assert threading.active_count() == threads


class Stream(ThreadingHTTPServer):
    """Serves MJPEG: connection ``i`` sends ``lengths[i]`` frames; later ones are refused."""

    daemon_threads = True

    def __init__(self, lengths: list[int], pause: float) -> None:
        self.lengths, self.pause = list(lengths), pause
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/video.mjpg"


class Handler(BaseHTTPRequestHandler):
    server: Stream

    def do_GET(self) -> None:  # noqa: N802
        if not self.server.lengths:
            self.send_error(503)
            return
        count = self.server.lengths.pop(0)
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for index in range(count):
            jpeg = cv2.imencode(".jpg", grey(index))[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + jpeg + b"\r\n")
            except OSError:
                return
            time.sleep(self.server.pause)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def serve(monkeypatch) -> Iterator:
    """``serve(lengths, pause)`` -> a running stream; streams are opened again after 10 ms."""
    monkeypatch.setattr(reader, "PAUSES", (0.01, 0.02, 0.04))
    servers = []

    def start(lengths: list[int], pause: float) -> Stream:
        servers.append(Stream(lengths, pause))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_stream_that_breaks_is_opened_again_until_it_is_gone(serve):
    video = VideoReader(serve([40, 30, 20], 0.002).address)
    assert video.is_live and video.num_frames is None
    numbers = []
    with pytest.raises(StreamLostError) as error:
        for frame in video:
            numbers.append(frame.number)
    assert video.reconnections == 2
    # A decoder needs some frames to find out what the stream is, and may keep the last.
    assert 60 <= video.read <= 90
    assert len(numbers) == video.read - video.dropped and numbers == sorted(set(numbers))
    assert str(error.value) == (
        f"{video.name}: the stream broke after {video.read} frames and could not be opened again "
        "in 3 tries (0 s); expected a stream that can be reached and that this OpenCV can decode"
    )


def test_a_slow_network_drops_frames_of_a_stream_and_does_not_lag(serve):
    video = VideoReader(serve([10_000], 0.001).address)
    frames = iter(video)
    assert next(frames).number == 0
    end = time.monotonic() + 60
    while video.read < 50 and time.monotonic() < end:
        time.sleep(0.001)  # the network works on the first frame
    assert next(frames).number >= 50 - reader.LIVE_QUEUE
    assert video.dropped >= 50 - reader.LIVE_QUEUE - 2
    frames.close()
