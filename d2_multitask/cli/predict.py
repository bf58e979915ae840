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

Images that an earlier call with the same settings has finished are not done again
(OUTPUT/finished.jsonl; without that file they are). Several processes share the images of folders:
torchrun --nproc-per-node N tools/predict.py ...

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
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from detectron2.config import CfgNode, get_cfg
from detectron2.data import Metadata
from detectron2.utils import comm

import d2_multitask  # noqa: F401 (registers datasets and networks)
from d2_multitask.cli.finished import Finished, stamp
from d2_multitask.cli.outputs import (
    MASK_FOLDER,
    SHEET_NAME,
    JsonFiles,
    add_options,
    json_entries,
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
from d2_multitask.engine.processes import SHARE, Run, in_this_process
from d2_multitask.engine.results import to_result
from d2_multitask.engine.setup import device_of, flat, progress_bar
from d2_multitask.engine.trained_model import model_info
from d2_multitask.exits import exit_code
from d2_multitask.runtime.files import find_media
from d2_multitask.version import __version__
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


class Drawn(NamedTuple):
    """What is made of a picture."""

    picture: Picture
    overlay: np.ndarray  # (h, w, 3) uint8 RGB
    mask: np.ndarray | None  # (H, W) uint8, of the foreground
    facts: dict[str, Any]  # numbers for the end, as JSON can hold them


class Predictions:
    """The work of one call: runs the network, draws, collects JSON and the sheet."""

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

    def overlays(self, pictures: Iterable[Picture]) -> Iterator[Drawn]:
        """Predict on pictures and draw what is found."""
        pictures = iter(pictures)
        while batch := list(itertools.islice(pictures, self.args.batch_size)):
            results = self.predictor.predict_batch([p.image for p in batch], self.args.tasks)
            for picture, result in zip(batch, results, strict=True):
                facts = self._facts(picture, result)
                yield Drawn(picture, self._overlay(picture, result), self._mask(result), facts)

    def _facts(self, picture: Picture, result: dict[str, Any]) -> dict[str, Any]:
        """Numbers of the result, which from here on has its confident objects only."""
        facts: dict[str, Any] = {"objects": 0, "best_score": -1.0, "json": None}
        if "instances" in result:
            facts["best_score"] = max([-1.0, *result["instances"].scores.tolist()])
            result["instances"] = confident(result["instances"], self.args.confidence_threshold)
            facts["objects"] = len(result["instances"])
        if self.json is not None:
            size = picture.image.shape[:2]
            written = {name: result[name] for name in ("instances", "sem_seg") if name in result}
            facts["json"] = json_entries(picture.name, to_result(written, size, self.info))
        return facts

    def _mask(self, result: dict[str, Any]) -> np.ndarray | None:
        """(H, W) uint8, 0 to 255; ``None`` if the network predicts no foreground."""
        if "foreground" not in result:
            return None
        probability, threshold = result["foreground"].cpu().float(), self.args.mask_threshold
        values = (probability >= threshold).float() if threshold else probability
        return (values.clamp(0, 1) * 255).round().byte().numpy()

    def _overlay(self, picture: Picture, result: dict[str, Any]) -> np.ndarray:
        rgb = np.ascontiguousarray(picture.image[..., ::-1])
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
        return overlay

    def take(
        self, name: str, image_id: int | str, facts: Mapping[str, Any], overlay: np.ndarray | Path
    ) -> None:
        """Count a picture, and keep what the JSON files and the sheet need of it."""
        self.num_objects += facts["objects"]
        self.best_score = max(self.best_score, facts["best_score"])
        if self.json is not None:
            self.json.add_entries(image_id, facts["json"])
        if self.args.contact_sheet and len(self.sheet) < MAX_SHEET_PICTURES:
            rgb = read_image(str(overlay), "RGB") if isinstance(overlay, Path) else overlay
            self.is_strip |= rgb.shape[1] > 3 * rgb.shape[0]
            self.sheet.append(fit(rgb, STRIP_CELL, SHEET_CELL))
            self.sheet_names.append(Path(name).name)

    def finish(self) -> list[Path]:
        """Write what was collected; returns the paths."""
        paths = self.json.write(self.args.json) if self.json is not None else []
        if self.sheet:
            columns, cell = (1, STRIP_CELL) if self.is_strip else (None, SHEET_CELL)
            sheet = contact_sheet(self.sheet, self.sheet_names, columns=columns, cell_width=cell)
            paths.append(self.args.output / SHEET_NAME)
            write_image(paths[-1], sheet)
        return paths


def run_images(work: Predictions, finished: Finished, targets: Mapping[str, Path]) -> list[str]:
    """Predict on this process's share of the image files, path -> overlay, that are not finished.

    Returns:
        What is wrong with those that were left out, of all processes.
    """
    folder = work.args.output
    paths = [Path(path) for path in targets]
    masks = mask_paths(targets, folder / MASK_FOLDER)
    for mask in masks.values():
        refuse_to_overwrite(mask, paths)
    missing = [path for path in targets if finished.get(path) is None]
    comm.synchronize()  # every process has seen the same before one begins to write
    share = missing[comm.get_rank() :: comm.get_world_size()]
    unreadable: list[str] = []

    def read() -> Iterator[Picture]:
        for path in share:
            try:
                yield Picture(read_image(path, "BGR"), 0, path)
            except ImageReadError as error:
                unreadable.append(f"left out: {error}")
                logger.warning(unreadable[-1])

    quiet = not comm.is_main_process()
    overlays = progress_bar(work.overlays(read()), total=len(share), unit="image", disable=quiet)
    for drawn in overlays:
        path = drawn.picture.name
        written = {targets[path]: drawn.overlay}
        if drawn.mask is not None:
            (folder / MASK_FOLDER).mkdir(exist_ok=True)
            written[masks[path]] = drawn.mask
        for file, pixels in written.items():
            write_image(file, pixels)
        files = [file.relative_to(folder).as_posix() for file in written]
        finished.add(path, {"files": files, **drawn.facts})
    finished.close()
    comm.synchronize()
    messages = comm.gather(unreadable)
    return list(itertools.chain.from_iterable(messages))


def take_images(
    work: Predictions, finished: Finished, targets: Mapping[str, Path], ids: list[int | str]
) -> int:
    """The results of all processes; returns how many images there are."""
    finished.merge()
    done = 0
    for (path, overlay), image_id in zip(targets.items(), ids, strict=True):
        record = finished.get(path)
        if record is not None:
            work.take(path, image_id, record, overlay)
            work.num_masks += len(record["files"]) - 1
            done += 1
    return done


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
            for picture, overlay, _, facts in overlays:
                writer.write(overlay[..., ::-1], picture.image_id - first_id)
                work.take(picture.name, picture.image_id, facts, overlay)
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


def settings_of(args: argparse.Namespace, cfg: CfgNode) -> dict[str, Any]:
    """Everything that an overlay and its lines in the JSON files depend on."""
    given = ("tasks", "confidence_threshold", "keypoint_threshold", "mask_threshold")
    weights = cfg.MODEL.WEIGHTS
    return {
        **flat(cfg),
        **{f"--{name}": getattr(args, name) for name in (*given, "side_by_side")},
        "--json": bool(args.json),
        "weights": stamp(weights) if Path(weights).is_file() else None,
        "d2_multitask": __version__,
    }


def run(args: argparse.Namespace, processes: Run) -> int:
    """What one process does; each has its share of the images, the first one ends the work."""
    images, videos = find_media(args.input) if args.input else ([], [])
    images = images[: args.max_images]
    cameras = [] if args.webcam is None else [args.webcam]
    if processes.place is not None and (videos or cameras):
        raise ValueError("--input: found a video in several processes, which share images only")
    cfg, names = prediction_config(args.model, args.config_file, args.opts)
    settings = settings_of(args, cfg)
    told = {key: str(value) for key, value in vars(args).items()}
    processes.start(device_of(cfg), {**settings, **told}, SHARE)
    work = Predictions(args, cfg, names)
    args.output.mkdir(parents=True, exist_ok=True)
    ids = image_ids(
        list(map(str, images)), known_image_ids(dataset_metadata(cfg)) if args.json else None
    )
    sources = [*images, *videos, *(Path(f"webcam_{camera}.mp4") for camera in cameras)]
    targets = output_paths(sources, args.output)
    sheets = [args.output / SHEET_NAME] if args.contact_sheet else []
    for target in [*targets, *sheets]:
        refuse_to_overwrite(target, [*images, *videos])
    start, done, unreadable = time.monotonic(), 0, []
    if images:
        image_targets = dict(zip(map(str, images), targets, strict=False))
        finished = Finished(args.output, settings, comm.get_rank())
        unreadable = run_images(work, finished, image_targets)
        if not comm.is_main_process():
            return 0
        done = take_images(work, finished, image_targets, ids)
    next_id = max((i for i in ids if isinstance(i, int)), default=0) + 1
    for source, target in zip([*videos, *cameras], targets[len(images) :], strict=True):
        frames = run_video(work, source, target, next_id)
        done, next_id = done + frames, next_id + frames
        unreadable += [] if frames else [f"left out: {source}: no frame could be read"]
    if not done:
        number = len(unreadable)
        logger.error("Nothing could be read: %d of %d inputs failed.", number, number)
        return 1
    report(work, done, unreadable, time.monotonic() - start)
    return 0


def report(work: Predictions, done: int, unreadable: list[str], seconds: float) -> None:
    """Write what belongs to all images, and say what there is."""
    args, written = work.args, work.finish()
    if work.num_masks:
        written.append(args.output / MASK_FOLDER)
    print(f"{done} images, {work.num_objects} objects, {seconds:.1f} s")
    if not work.num_objects and work.best_score >= 0:
        print(
            f"No object reached --confidence-threshold {args.confidence_threshold:g}: the best "
            f"score was {work.best_score:.3f}."
        )
    if unreadable:
        print(f"{len(unreadable)} inputs could not be read:", *unreadable, sep="\n  ")
    print(f"Overlays: {args.output}", *(f"Also: {path}" for path in written), sep="\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; ``None`` = the command line."""
    args = parse_args(sys.argv[1:] if arguments is None else arguments)
    return exit_code(lambda: in_this_process(partial(run, args)))
