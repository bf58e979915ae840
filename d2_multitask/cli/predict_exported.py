"""Shows what an exported network finds in images, and writes it as JSON; without PyTorch.

    d2mt predict --model model.onnx --input photos/ --output output/photos
    d2mt predict --model model.xml --input a.jpg "more/*.jpg" --masks --json output/more.json

Overlays are written to --output under the inputs' names. --json FILE.json writes three files for
the objects that reach --confidence-threshold (use 0 to evaluate them): FILE.json is COCO's list of
results, FILE_sem_seg.json holds each semantic class but the background as RLE, FILE_images.json the
image ids: the numbers that the names are, as in 007.jpg, or 1, 2, 3, ... A network with the task
"foreground" also writes masks, black and white, to OUTPUT/masks; --mask-threshold 0 writes the
probabilities in 256 greys. Results of other tasks are not drawn. Videos: d2mt track.

Exit code: 0; 1 if no input could be read; 2 if something was typed wrong; 130 if interrupted.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

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
from d2_multitask.data.whole_files import whole_file
from d2_multitask.exits import exit_code
from d2_multitask.launchers import place_of
from d2_multitask.runtime import Predictor, Result, draw
from d2_multitask.runtime.files import find_media, numbers_of, read_image

MOST_SHEET_PICTURES, SHEET_CELL = 100, 360
JPEG_QUALITY = 95  # OpenCV's, with which pictures of weights are written
DRAWN = ("scores", "classes", "boxes", "keypoints", "sem_seg", "foreground")


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; ``None`` = the program's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help=".onnx or .xml")
    parser.add_argument("--input", nargs="+", required=True, help="images, folders, patterns")
    add_options(parser)
    parser.add_argument("--confidence-threshold", type=share, help="default: the file's")
    parser.add_argument("--keypoint-threshold", type=share, help="default: the file's")
    parser.add_argument("--mask-threshold", type=share, help="default: the file's")
    parser.add_argument("--masks", action="store_true", help="instance masks, drawn and in --json")
    args = parser.parse_args(arguments)
    if args.max_images is not None and args.max_images < 1:
        parser.error(f"--max-images: found {args.max_images}, expected >= 1")
    return args


class Outputs:
    """What is written for the images of one call."""

    def __init__(self, args: argparse.Namespace, paths: Sequence[Path]) -> None:
        self.args = args
        self.overlays = dict(zip(paths, output_paths(paths, args.output), strict=True))
        given = {str(path): target for path, target in self.overlays.items()}
        self.masks = mask_paths(given, args.output / MASK_FOLDER)
        sheets = [args.output / SHEET_NAME] if args.contact_sheet else []
        for target in [*self.overlays.values(), *self.masks.values(), *sheets]:
            refuse_to_overwrite(target, paths)
        self.ids = dict(zip(paths, numbers_of(list(map(str, paths))), strict=True))
        self.sheet: list[np.ndarray] = []
        self.sheet_names: list[str] = []
        self.json = JsonFiles()
        self.num_objects = 0
        self.best_score = -1.0  # of all objects, drawn or not

    def add(self, path: Path, image: np.ndarray, result: Result) -> None:
        """Write the pictures of one image, and keep what is written at the end."""
        args = self.args
        thresholds = (args.confidence_threshold, args.keypoint_threshold)
        picture = draw(
            image,
            result,
            confidence_threshold=thresholds[0],
            keypoint_threshold=thresholds[1],
        )
        write_picture(self.overlays[path], picture[:, :, ::-1])
        if "foreground" in result.maps:
            threshold = args.mask_threshold
            threshold = result.info.draw.mask_threshold if threshold is None else threshold
            values = result.maps["foreground"]
            values = (values >= threshold).astype(np.float32) if threshold else values.clip(0, 1)
            write_picture(self.masks[str(path)], np.rint(255 * values).astype(np.uint8))
        if len(result):
            self.best_score = max(self.best_score, float(result.scores.max()))
        result = result.confident(thresholds[0])
        self.num_objects += len(result)
        if args.contact_sheet and len(self.sheet) < MOST_SHEET_PICTURES:
            picture = Image.fromarray(np.ascontiguousarray(picture[:, :, ::-1]))
            picture.thumbnail((SHEET_CELL, SHEET_CELL))
            self.sheet.append(np.asarray(picture))
            self.sheet_names.append(path.name)
        if args.json:
            self.json.add(self.ids[path], str(path), result)

    def finish(self, sheet_of: Callable[..., np.ndarray] | None) -> list[Path]:
        """Write the JSON files, and with ``sheet_of`` the contact sheet; returns their paths."""
        written = self.json.write(self.args.json) if self.args.json else []
        if sheet_of is not None and self.sheet:
            sheet = sheet_of(self.sheet, self.sheet_names, cell_width=SHEET_CELL)
            written.append(self.args.output / SHEET_NAME)
            write_picture(written[-1], sheet)
        return written


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W, 3) RGB or (H, W) uint8; the suffix decides the format."""
    kind = Image.registered_extensions()[path.suffix.lower()]
    options = {"quality": JPEG_QUALITY} if kind == "JPEG" else {}
    with whole_file(path) as unfinished:  # a link is replaced, not followed
        Image.fromarray(np.ascontiguousarray(pixels)).save(unfinished, format=kind, **options)


def import_contact_sheet() -> Callable[..., np.ndarray]:
    """The function, whose libraries `d2_multitask[runtime]` does not bring."""
    try:
        from d2_multitask.visualization.contact_sheet import contact_sheet
    except ImportError as error:
        raise ImportError(
            f"--contact-sheet needs OpenCV and matplotlib ({error}): python -m pip install "
            "opencv-python-headless matplotlib"
        ) from error
    return contact_sheet


def run(args: argparse.Namespace) -> int:
    """Predict on all images, one after the other."""
    if place_of() is not None:
        raise ValueError(
            f"{args.model}: found several processes, expected one: an exported network takes all "
            "processors. Give each machine a folder of its own"
        )
    paths, videos = find_media(args.input)
    if videos:
        raise ValueError(f"--input {videos[0]}: found a video, expected images; type d2mt track")
    outputs = Outputs(args, paths[: args.max_images])
    sheet_of = import_contact_sheet() if args.contact_sheet else None
    predictor = Predictor(args.model, args.tasks)
    found = {n for n, out in predictor.info.outputs.items() if out.task in predictor.tasks}
    done, start = 0, time.monotonic()
    for path in outputs.overlays:
        try:
            image = read_image(path)
        except ValueError as error:
            print(f"Warning: left out: {error}")
            continue
        result = predictor(image)
        outputs.add(path, image, result.with_masks() if args.masks else result)
        done += 1
    if not done:
        print("Error: nothing could be read", file=sys.stderr)
        return 1
    written = outputs.finish(sheet_of)
    print(f"{done} images, {outputs.num_objects} objects, {time.monotonic() - start:.1f} s")
    if not outputs.num_objects and outputs.best_score >= 0:
        print(f"No object reached the threshold: the best score was {outputs.best_score:.3f}.")
    if hidden := sorted(found.difference(DRAWN)):
        print(f"Not drawn: {', '.join(hidden)}")
    print(f"Overlays: {args.output}", *(f"Also: {path}" for path in written), sep="\n")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; ``None`` = the command line."""
    args = parse_args(arguments)
    return exit_code(lambda: run(args))
