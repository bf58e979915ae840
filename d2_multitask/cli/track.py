"""Follows what a network finds through a video, a camera's or a network's stream.

    d2mt track --model model.onnx --input street.mp4              # without PyTorch
    d2mt track --model output/demo/model_final.pth --input street.mp4 --json output/street.json
    d2mt track --model model.onnx --input rtsp://camera/stream --max-frames 1000 --show-speed
    d2mt track --model model.onnx --input webcam
    d2mt track --model model.onnx --input datasets/synthetic_videos/test \
        --evaluate datasets/synthetic_videos/annotations/videos_test.json

Writes OUTPUT/NAME.mp4 with boxes, skeletons and identities, and with --json COCO's list of results
with "track_id", whose "image_id" is the number of the frame, from 0. A slow network drops frames of
cameras and streams, never of files; a stream that breaks is opened again. A folder of numbered
images is a video: --input "frames/%06d.png". --evaluate prints HOTA, MOTA and IDF1 on labelled
videos, frame by frame and tracked.

Exit code: 0; 1 if no frame could be read or the stream was lost; 2 if something was typed wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

try:
    import cv2
    import scipy  # noqa: F401 (the tracker's)
except ImportError as error:
    raise ImportError(
        f"d2mt track needs OpenCV and SciPy ({error}): "
        "python -m pip install opencv-python-headless scipy"
    ) from error

from d2_multitask.cli.outputs import json_file, refuse_to_overwrite, share
from d2_multitask.data.whole_files import whole_file
from d2_multitask.exits import exit_code
from d2_multitask.loading import load
from d2_multitask.runtime import Result, draw
from d2_multitask.tracking import Tracker, TrackerSettings
from d2_multitask.video import StreamLostError, VideoReader, VideoWriter
from d2_multitask.video.reader import Source, is_address
from d2_multitask.video.timing import StageTimes

REPORT_SECONDS = 5.0
WEAK = 0.5  # a track goes on down to this share of the threshold


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; ``None`` = the program's."""
    high = TrackerSettings().high
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help=".onnx, .pth ...")
    parser.add_argument("--config-file", default="", help="of weights that have no config inside")
    parser.add_argument(
        "--input", required=True, help="a video, an address, a pattern as a/%%06d.png, or: webcam"
    )
    parser.add_argument("--output", type=Path, default=Path("output/tracks"), metavar="FOLDER")
    parser.add_argument("--json", type=json_file, metavar="FILE", help="write COCO-format results")
    parser.add_argument(
        "--confidence-threshold",
        type=share,
        default=high,
        help=f"least score of an object that begins a track (default: {high}); the track goes on "
        "down to half of it",
    )
    parser.add_argument("--keypoint-threshold", type=share, help="default: the network's")
    parser.add_argument("--tasks", nargs="+", help="run these tasks only, e.g. det pose")
    parser.add_argument("--max-frames", type=int)
    parser.add_argument("--show-speed", action="store_true", help="write it into the picture")
    parser.add_argument("--evaluate", type=Path, metavar="FILE", help="labels of videos; see above")
    args = parser.parse_args(arguments)
    if args.max_frames is not None and args.max_frames < 1:
        parser.error(f"--max-frames: found {args.max_frames}, expected >= 1")
    if args.evaluate and (args.json or args.max_frames or args.show_speed):
        parser.error("--evaluate only prints scores: leave out --json, --max-frames, --show-speed")
    return args


def source_of(given: str) -> tuple[Source, str]:
    """What to read, and how its outputs are called.

    Raises:
        ValueError: there is no such file.
    """
    if given == "webcam" or given.isdecimal():
        number = int(given) if given.isdecimal() else 0
        return number, f"webcam_{number}"
    if is_address(given):
        return given, Path(given.rstrip("/")).stem.partition("?")[0] or "stream"
    if "%" in given:
        return given, Path(given).parent.name or "frames"
    path = Path(given).expanduser()
    if path.is_dir():
        raise ValueError(
            f"--input {given}: found a folder, expected a video, or the pattern of its frames, "
            f"such as {path / '%06d.png'}"
        )
    if not path.is_file():
        raise ValueError(f"--input {given}: no such file")
    return path, path.stem


def settings_of(args: argparse.Namespace) -> TrackerSettings:
    """The tracker's thresholds."""
    high = args.confidence_threshold
    if not 0 < high < 1:
        raise ValueError(f"--confidence-threshold: found {high}, expected between 0 and 1")
    return TrackerSettings(high=high, low=WEAK * high)


class Tracking:
    """The work on one video: network, tracks, picture, console."""

    def __init__(self, args: argparse.Namespace, reader: VideoReader, network: Callable) -> None:
        self.args, self.reader, self.network = args, reader, network
        self.times = StageTimes()
        self.tracker = Tracker(reader.fps, settings_of(args))
        self.identities: set[int] = set()
        self.best: tuple[float, int] | None = None  # score, frame
        self.last = -1  # number of the last frame
        self._reported = time.monotonic()

    def results(self) -> Iterator[tuple[np.ndarray, int, Result]]:
        """Image, number and tracked result of each frame."""
        frames = iter(itertools.islice(self.reader, self.args.max_frames))
        while True:
            with self.times("read"):
                frame = next(frames, None)
            if frame is None:
                return
            with self.times("network"):
                result = self.network(frame.image, self.args.tasks)
            with self.times("track"):
                tracked = self.tracker.update(result, frame.image, frame.number - self.last)
            self.last = frame.number
            self.identities.update(tracked.track_ids.tolist())
            if len(result):
                self.best = max(self.best or (0.0, 0), (float(result.scores.max()), frame.number))
            yield frame.image, frame.number, tracked
            self.times.frame()
            self._report()

    def picture(self, image: np.ndarray, tracked: Result) -> np.ndarray:
        """The frame with all tracks, (H, W, 3) uint8 BGR."""
        with self.times("draw"):
            picture = draw(
                image,
                tracked,
                confidence_threshold=0.0,  # weak detections of a track, too
                keypoint_threshold=self.args.keypoint_threshold,
            )
            if self.args.show_speed and self.times.frames:
                write_lines(picture, self.times.recent())
        return picture

    def _report(self) -> None:
        """A line on the console, now and then."""
        now = time.monotonic()
        if now - self._reported >= REPORT_SECONDS:
            self._reported = now
            total = f"/{self.reader.num_frames}" if self.reader.num_frames else ""
            print(f"{self.times.frames}{total} frames, {self.times.summary()}", flush=True)

    def summary(self) -> None:
        """What there was."""
        reader, threshold = self.reader, self.args.confidence_threshold
        print(f"{self.times.frames} frames, {len(self.identities)} identities")
        print(self.times.summary())
        if reader.is_live:
            print(f"{reader.dropped} frames dropped, {reader.reconnections} reconnections")
        if self.best is None:
            print("The network found no object at all in any frame.")
        elif self.best[0] < threshold:
            print(
                f"No object reached --confidence-threshold {threshold:g}: the best score was "
                f"{self.best[0]:.3f}, in frame {self.best[1]}."
            )
        if self.args.max_frames is None and reader.num_frames and reader.read < reader.num_frames:
            print(
                f"Warning: {reader.name}: {reader.read} of {reader.num_frames} frames could be "
                "read; the file is broken there, or was cut off"
            )


def write_lines(picture: np.ndarray, lines: Sequence[str]) -> None:
    """Write text into the upper left corner, in place."""
    cv2.rectangle(picture, (0, 0), (170, 20 * len(lines) + 8), (0, 0, 0), cv2.FILLED)
    for row, line in enumerate(lines, start=1):
        place, white = (8, 20 * row), (255, 255, 255)
        cv2.putText(picture, line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, white, 1, cv2.LINE_AA)


@contextlib.contextmanager
def json_list(path: Path | None) -> Iterator[Callable[[list], None]]:
    """A function that appends entries to a list in a JSON file, which is there at the end only."""
    if path is None:
        yield lambda entries: None
        return
    with whole_file(path) as unfinished, open(unfinished, "w", encoding="utf-8") as file:
        separator = "[\n"

        def add(entries: list) -> None:
            nonlocal separator
            for entry in entries:
                file.write(separator + json.dumps(entry, separators=(",", ":")))
                separator = ",\n"

        yield add
        file.write("[]\n" if separator == "[\n" else "\n]\n")


def track(args: argparse.Namespace) -> int:
    """Track one source; returns the exit code."""
    source, name = source_of(args.input)
    target = args.output / f"{name}.mp4"
    if isinstance(source, Path):
        refuse_to_overwrite(target, [source])
    network = load(args.model, args.config_file)
    work = Tracking(args, VideoReader(source), network)
    args.output.mkdir(parents=True, exist_ok=True)
    lost = ""
    with VideoWriter(target, work.reader.fps) as writer, json_list(args.json) as add:
        try:
            for image, number, tracked in work.results():
                picture = work.picture(image, tracked)
                with work.times("write"):
                    writer.write(picture, number)
                    add(tracked.to_coco(number))
        except KeyboardInterrupt:
            print("\nStopped.")  # the ordinary end of a camera
        except StreamLostError as error:
            lost = str(error)
    if not work.times.frames:
        raise ValueError(lost or f"{work.reader.name}: no frame could be read; expected a video")
    work.summary()
    print(f"Video: {target}", *([f"JSON: {args.json}"] if args.json else []), sep="\n")
    if lost:
        print(f"Error: {lost}", file=sys.stderr)
    return int(bool(lost))


def evaluate(args: argparse.Namespace) -> int:
    """Print the scores on labelled videos."""
    from d2_multitask.tracking.evaluation import compare, read_videos

    videos = read_videos(args.evaluate, Path(args.input))
    network = load(args.model, args.config_file)
    scores: dict[str, dict[str, float]] = {}
    start = time.monotonic()
    for done, scores in compare(  # noqa: B007 (the last ones are kept)
        lambda image: network(image, args.tasks), videos, settings_of(args)
    ):
        print(f"{done}/{len(videos)} videos, {time.monotonic() - start:.0f} s", flush=True)
    print_table(scores)
    return 0


def print_table(rows: dict[str, dict[str, float]]) -> None:
    """Scores by row and column."""
    columns = next(iter(rows.values()), {})
    print(" " * 16 + "".join(f"{column:>7}" for column in columns))
    for name, scores in rows.items():
        cells = (f"{v:7d}" if isinstance(v, int) else f"{v:7.1f}" for v in scores.values())
        print(f"{name:<16}" + "".join(cells))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; ``None`` = the command line."""
    args = parse_args(arguments)
    return exit_code(lambda: evaluate(args) if args.evaluate else track(args))
