"""Shows what a trained network finds in images, videos or a camera's stream, and writes it as JSON.

    d2mt predict --model output/demo/model_final.pth --input photos/ --output output/photos
    d2mt predict --model model.onnx --input photos/   # an exported network, without PyTorch
    d2mt predict --input photo.jpg
    d2mt predict ... --input a.jpg b.png "more/*.jpg" --tasks seg pose --contact-sheet
    d2mt predict ... --input street.mp4 --json output/street.json
    d2mt predict ... --webcam --max-images 250
    d2mt predict --config-file configs/quick/foreground_decoder.yaml --input photos/ \
        --output output/photos

Config and names come from the model, unless --config-file is given (for weights that have none
inside). Without both it is the network for photographs of people, which `make people` brings.
Overlays are written to --output under the inputs' names (videos and cameras as .mp4); small images
are enlarged so that the drawing can be read. Without MODEL.WEIGHTS, OUTPUT_DIR/model_final.pth is
taken. --json FILE.json writes three files for the objects that reach --confidence-threshold (use 0
to evaluate them): FILE.json is COCO's list of results, FILE_sem_seg.json holds each semantic class
but the background as RLE, FILE_images.json the image ids.

A network with the task "foreground" also writes masks, black and white, to OUTPUT/masks, one PNG an
image file, at its size; they can be trained with (MASK_ROOT). --mask-threshold 0 writes the
probabilities in 256 greys. Photos much larger than the network's training crops:
INPUT.RESIZE_TEST shortest_edge INPUT.MIN_SIZE_TEST 0 TEST.TILES.ENABLED True

Exit code: 0; 1 if no input could be read; 2 if something was typed wrong; 130 if interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from detectron2.config import CfgNode, get_cfg
from detectron2.data import Metadata
from detectron2.utils.logger import setup_logger

import d2_multitask  # noqa: F401 (registers datasets and networks)
from d2_multitask.cli.outputs import (
    MASK_FOLDER,
    SHEET_NAME,
    JsonFiles,
    add_options,
    mask_paths,
    output_paths,
    refuse_to_overwrite,
    share,
)
from d2_multitask.data.io import ImageReadError, read_image
from d2_multitask.data.whole_files import whole_file
from d2_multitask.engine.image_ids import image_ids, known_image_ids
from d2_multitask.engine.model_file import prediction_config
from d2_multitask.engine.predictor import MultitaskPredictor, chosen_tasks
from d2_multitask.engine.results import to_result
from d2_multitask.engine.setup import progress_bar
from d2_multitask.engine.trained_model import model_info
from d2_multitask.exits import exit_code
from d2_multitask.runtime.files import find_media
from d2_multitask.video import VideoReader, VideoWriter
from d2_multitask.visualization.contact_sheet import contact_sheet, fit, side_by_side
from d2_multitask.visualization.dense import draw_dense
from d2_multitask.visualization.metadata import cfg_metadata, dataset_metadata
from d2_multitask.visualization.predictions import (
    CONFIDENCE_THRESHOLD,
    KEYPOINT_THRESHOLD,
    RCNN_KEYPOINT_THRESHOLD,
    confident,
    draw_result,
)

logger = logging.getLogger("d2_multitask.predict")

# The network for photographs of people, which tools/people.py makes (`make people IMAGES=folder`).
PEOPLE_CONFIG = "movenet/mcn_people.yaml"
PEOPLE_WEIGHTS = "output/movenet/mcn_people.safetensors"
MAX_SHEET_PICTURES = 100
SHEET_CELL, STRIP_CELL = 360, 1800  # pixels


class Picture(NamedTuple):
    """One image or frame on its way through the tool."""

    image: np.ndarray  # (H, W, 3) uint8 BGR
    image_id: int | str
    name: str  # as the user gave it


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="", metavar="FILE", help="weights; config and names are read from them"
    )
    parser.add_argument(
        "--config-file",
        default="",
        help=f"path, or name below configs/ (default: the model's; without one {PEOPLE_CONFIG})",
    )
    parser.add_argument(
        "--input", nargs="+", default=[], help="images, folders, patterns, videos, or: webcam"
    )
    parser.add_argument(
        "--webcam", nargs="?", type=int, const=0, metavar="NUMBER", help="read a camera (default 0)"
    )
    add_options(parser)
    parser.add_argument("--confidence-threshold", type=share, default=CONFIDENCE_THRESHOLD)
    parser.add_argument(
        "--keypoint-threshold",
        type=share,
        help=f"least score of a drawn keypoint (default: {KEYPOINT_THRESHOLD}; "
        f"of an R-CNN {RCNN_KEYPOINT_THRESHOLD}, as in Detectron2's pictures)",
    )
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--side-by-side", action="store_true", help="the input next to the overlay")
    parser.add_argument(
        "--mask-threshold", type=share, default=0.5, help="of foreground; 0 = grey probabilities"
    )
    parser.add_argument("--opts", dest="option_opts", nargs=argparse.REMAINDER, default=[])
    words, overrides = split_overrides(arguments)
    args = parser.parse_args(words)
    args.opts = [*args.option_opts, *overrides]
    complete(args, parser)
    return args


def complete(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Fill in what was left out, and refuse what does not go together."""
    if "webcam" in args.input:
        args.input = [given for given in args.input if given != "webcam"]
        args.webcam = args.webcam or 0
    if not args.input and args.webcam is None:
        parser.error("nothing to read: give --input FILE ..., --input FOLDER, or --webcam")
    if args.model and "MODEL.WEIGHTS" in args.opts[::2]:
        parser.error("found --model and MODEL.WEIGHTS, expected one of the two")
    if not args.model and not args.config_file:
        if not Path(PEOPLE_WEIGHTS).is_file():
            parser.error(
                f"--model FILE is missing; without it the network for photographs of people is "
                f"used, {PEOPLE_WEIGHTS}, which is not there yet: type make people IMAGES=FOLDER"
            )
        args.config_file = PEOPLE_CONFIG
    for name in ("max_images", "batch_size"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: found {getattr(args, name)}, expected >= 1")


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate `KEY VALUE ...` at the end from the options.

    argparse cannot: `--input a.jpg MODEL.WEIGHTS x.pth` would be three inputs.
    """
    keys = set(get_cfg())
    for index, word in enumerate(arguments):
        if word == "--opts":
            break
        is_key = word in keys or ("." in word and word.split(".")[0] in keys)
        if is_key and not Path(word).exists():
            return list(arguments[:index]), list(arguments[index:])
    return list(arguments), []


class Predictions:
    """The work of one call: runs the network, writes overlays, collects JSON and the sheet."""

    def __init__(
        self, args: argparse.Namespace, cfg: CfgNode, names: Metadata | None = None
    ) -> None:
        self.args = args
        self.tasks = chosen_tasks(cfg, args.tasks)
        self.predictor = MultitaskPredictor(cfg, names=names)
        self.metadata = cfg_metadata(cfg, names)
        self.json = JsonFiles() if args.json else None
        cfg = cfg.clone()
        cfg.defrost()
        cfg.TEST.TASKS = self.tasks
        self.info = model_info(cfg, self.metadata)
        self.keypoint_threshold = args.keypoint_threshold
        if args.keypoint_threshold is None:
            self.keypoint_threshold = self.info.draw.keypoint_threshold
        self.sheet: list[np.ndarray] = []
        self.sheet_names: list[str] = []
        self.is_strip = False  # several pictures of an image in a row
        self.num_objects = self.num_masks = 0
        self.best_score = -1.0  # of all objects, drawn or not

    def overlays(
        self, pictures: Iterable[Picture]
    ) -> Iterator[tuple[Picture, np.ndarray, np.ndarray | None]]:
        """Each picture with its overlay (h, w, 3) uint8 RGB and its foreground mask, if any."""
        pictures = iter(pictures)
        while batch := list(itertools.islice(pictures, self.args.batch_size)):
            results = self.predictor.predict_batch([p.image for p in batch], self.args.tasks)
            for picture, result in zip(batch, results, strict=True):
                yield picture, self._overlay(picture, result), self._mask(result)

    def _mask(self, result: dict[str, Any]) -> np.ndarray | None:
        """(H, W) uint8, 0 to 255; ``None`` if the network predicts no foreground."""
        if "foreground" not in result:
            return None
        probability, threshold = result["foreground"].cpu().float(), self.args.mask_threshold
        values = (probability >= threshold).float() if threshold else probability
        return (values.clamp(0, 1) * 255).round().byte().numpy()

    def _overlay(self, picture: Picture, result: dict[str, Any]) -> np.ndarray:
        rgb = np.ascontiguousarray(picture.image[..., ::-1])
        if "instances" in result:
            self.best_score = max([self.best_score, *result["instances"].scores.tolist()])
            result["instances"] = confident(result["instances"], self.args.confidence_threshold)
            self.num_objects += len(result["instances"])
        if self.json is not None:
            self._add_json(picture, result)
        overlay = draw_result(
            rgb,
            result,
            self.metadata,
            confidence_threshold=self.args.confidence_threshold,
            keypoint_threshold=self.keypoint_threshold,
            # Without a box head, boxes are only the hull of the keypoints.
            draw_boxes="det" in self.tasks or "pose" not in self.tasks,
        )
        dense = draw_dense(rgb, result, self.metadata)
        if dense:
            names, width = ["objects", *dense], overlay.shape[1]
            overlay = side_by_side([overlay, *dense.values()], names, cell_width=width)
        if self.args.side_by_side:
            overlay = side_by_side([rgb, overlay], cell_width=overlay.shape[1])
        if self.args.contact_sheet and len(self.sheet) < MAX_SHEET_PICTURES:
            self.is_strip |= overlay.shape[1] > 3 * overlay.shape[0]
            self.sheet.append(fit(overlay, STRIP_CELL, SHEET_CELL))
            self.sheet_names.append(Path(picture.name).name)
        return overlay

    def _add_json(self, picture: Picture, result: dict[str, Any]) -> None:
        size = picture.image.shape[:2]
        written = {name: result[name] for name in ("instances", "sem_seg") if name in result}
        self.json.add(picture.image_id, picture.name, to_result(written, size, self.info))

    def finish(self) -> list[Path]:
        """Write what was collected; returns the paths."""
        paths = self.json.write(self.args.json) if self.json is not None else []
        if self.sheet:
            columns, cell = (1, STRIP_CELL) if self.is_strip else (None, SHEET_CELL)
            sheet = contact_sheet(self.sheet, self.sheet_names, columns=columns, cell_width=cell)
            paths.append(self.args.output / SHEET_NAME)
            write_image(paths[-1], sheet)
        return paths


def run_images(
    work: Predictions, targets: Mapping[str, Path], ids: list[int | str]
) -> tuple[int, int]:
    """Predict on image files, path -> overlay; returns how many were done and were unreadable."""
    paths = [Path(path) for path in targets]
    masks = mask_paths(targets, work.args.output / MASK_FOLDER)
    for mask in masks.values():
        refuse_to_overwrite(mask, paths)
    unreadable: list[str] = []

    def read() -> Iterator[Picture]:
        for path, image_id in zip(paths, ids, strict=True):
            try:
                yield Picture(read_image(str(path), "BGR"), image_id, str(path))
            except ImageReadError as error:
                unreadable.append(str(path))
                logger.warning("left out: %s", error)

    done = 0
    overlays = progress_bar(work.overlays(read()), total=len(paths), unit="image")
    for picture, overlay, mask in overlays:
        write_image(targets[picture.name], overlay)
        if mask is not None:
            (work.args.output / MASK_FOLDER).mkdir(exist_ok=True)
            write_image(masks[picture.name], mask)
            work.num_masks += 1
        done += 1
    return done, len(unreadable)


def run_video(work: Predictions, source: Path | int, target: Path, first_id: int) -> int:
    """Predict on the frames of a video or camera; returns how many there were."""
    reader = VideoReader(source)
    name = target.stem if isinstance(source, int) else source.name
    limit = work.args.max_images
    total = reader.num_frames
    if limit is not None:
        total = min(total, limit) if total else limit
    frames = (
        Picture(frame.image, first_id + frame.number, f"{name}#{frame.number}")
        for frame in itertools.islice(reader, limit)
    )
    done = 0
    overlays = progress_bar(work.overlays(frames), total=total, unit="frame")
    with VideoWriter(target, reader.fps) as writer, contextlib.closing(overlays):
        try:
            for picture, overlay, _ in overlays:
                writer.write(overlay[..., ::-1], picture.image_id - first_id)
                done += 1
        except KeyboardInterrupt:
            # Stopping a camera is the ordinary end of it, and what was seen is worth keeping.
            print(f"\nStopped after {done} frames.")
    if reader.dropped or reader.reconnections:
        print(f"{reader.dropped} frames dropped, {reader.reconnections} reconnections")
    if not done:
        logger.warning("left out: %s: no frame could be read", name)
    return done


def write_image(path: Path, rgb: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB, or (H, W) grey; the suffix decides the format."""
    try:
        content = cv2.imencode(path.suffix, rgb[..., ::-1] if rgb.ndim == 3 else rgb)[1]
        with whole_file(path) as unfinished:  # a link is replaced, not followed
            unfinished.write_bytes(content.tobytes())
    except (OSError, cv2.error) as error:
        raise ValueError(
            f"{path}: cannot be written ({error}); expected a writable folder with space left"
        ) from error


def run(args: argparse.Namespace) -> int:
    images, videos = find_media(args.input) if args.input else ([], [])
    images = images[: args.max_images]
    cfg, names = prediction_config(args.model, args.config_file, args.opts)
    work = Predictions(args, cfg, names)
    args.output.mkdir(parents=True, exist_ok=True)
    ids = image_ids(
        list(map(str, images)), known_image_ids(dataset_metadata(cfg)) if args.json else None
    )
    cameras = [] if args.webcam is None else [args.webcam]
    sources = [*images, *videos, *(Path(f"webcam_{camera}.mp4") for camera in cameras)]
    targets = output_paths(sources, args.output)
    sheets = [args.output / SHEET_NAME] if args.contact_sheet else []
    for target in [*targets, *sheets]:
        refuse_to_overwrite(target, [*images, *videos])
    start = time.monotonic()
    image_targets = dict(zip(map(str, images), targets, strict=False))
    done, unreadable = run_images(work, image_targets, ids) if images else (0, 0)
    next_id = max((i for i in ids if isinstance(i, int)), default=0) + 1
    for source, target in zip([*videos, *cameras], targets[len(images) :], strict=True):
        frames = run_video(work, source, target, next_id)
        done, next_id = done + frames, next_id + frames
        unreadable += not frames
    if not done:
        logger.error("Nothing could be read: %d of %d inputs failed.", unreadable, unreadable)
        return 1
    written = work.finish()
    if work.num_masks:
        written.append(args.output / MASK_FOLDER)
    print(f"{done} images, {work.num_objects} objects, {time.monotonic() - start:.1f} s")
    if not work.num_objects and work.best_score >= 0:
        print(
            f"No object reached --confidence-threshold {args.confidence_threshold:g}: the best "
            f"score was {work.best_score:.3f}."
        )
    if unreadable:
        print(f"{unreadable} inputs could not be read; see the warnings above.")
    print(f"Overlays: {args.output}", *(f"Also: {path}" for path in written), sep="\n")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; ``None`` = the command line."""
    args = parse_args(sys.argv[1:] if arguments is None else arguments)
    setup_logger(name="d2_multitask", abbrev_name="d2_multitask")
    return exit_code(lambda: run(args))
