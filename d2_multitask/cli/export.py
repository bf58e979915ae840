"""Writes a trained network as one file for ONNX Runtime, OpenVINO, ``torch.export`` or TorchScript.

    d2mt export --model output/demo/model_final.pth --output model.onnx --images photos/
    d2mt export --config-file quick/mcn_seg_det_pose.yaml --output model.onnx \
        MODEL.WEIGHTS output/demo/model_final.pth
    d2mt export ... --output model.xml                        # OpenVINO
    d2mt export ... --output model_int8.onnx --int8 --calibrate photos/

Normalisation, network and decoding are in the file, and names, thresholds and the size policy in
its metadata; `d2_multitask.runtime` runs it without PyTorch. At the end the file is run and
compared with the network, whole results on --images: more than 1e-3 pixels or 1e-4 of a score apart
is an error, and the file is not written; of an int8 file the differences are only printed. The
suffix of --output decides the format: .onnx, .xml, .pt2, .ts; the last two are compared on noise.

Exit code: 0; 1 if the file does not answer as the network does; 2 if something cannot be exported.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import Metadata
from detectron2.utils.logger import setup_logger
from tabulate import tabulate
from torch import nn

from d2_multitask.cli.eval import build_evaluators, measure, measured_config
from d2_multitask.cli.predict import split_overrides
from d2_multitask.data.io import ImageReadError, read_image
from d2_multitask.engine.instance_masks import mask_keys
from d2_multitask.engine.model_file import prediction_config
from d2_multitask.engine.predictor import find_weights, load_trained_model
from d2_multitask.exits import exit_code
from d2_multitask.export import compare_file, export_file, quantize_file
from d2_multitask.export.compare import (
    MOST_PIXELS,
    MOST_SCORE,
    compare_program,
    noise_images,
)
from d2_multitask.export.files import check_suffix
from d2_multitask.export.network import check_config
from d2_multitask.runtime import Predictor
from d2_multitask.runtime.files import find_media
from d2_multitask.visualization.metadata import cfg_metadata, is_rcnn

logger = logging.getLogger("d2_multitask.export")

MOST_COMPARED, MOST_CALIBRATED = 8, 300


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; ``KEY VALUE`` pairs are in ``opts``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="", metavar="FILE", help="weights with their config")
    parser.add_argument("--config-file", default="", help="path, or name below configs/")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--tasks", nargs="+", help="only these, e.g. seg det pose")
    parser.add_argument(
        "--images",
        nargs="+",
        help=f"images or folders to compare on, the first {MOST_COMPARED} (default: noise)",
    )
    parser.add_argument("--int8", action="store_true", help="quantise; needs --calibrate")
    parser.add_argument(
        "--calibrate",
        nargs="+",
        metavar="FOLDER",
        help=f"images like those to come, {MOST_CALIBRATED} at most",
    )
    parser.add_argument(
        "--evaluate", action="store_true", help="print the metrics on DATASETS.TEST of the config"
    )
    words, overrides = split_overrides(sys.argv[1:] if arguments is None else arguments)
    args = parser.parse_args(words)
    args.opts = overrides
    if not args.model and not args.config_file:
        parser.error("nothing to export: give --model FILE, or --config-file FILE")
    if args.int8 != bool(args.calibrate):
        parser.error("--int8 and --calibrate FOLDER belong together")
    if (args.evaluate or args.int8) and args.output.suffix not in (".onnx", ".xml"):
        option = "--evaluate" if args.evaluate else "--int8"
        parser.error(f"{option}: found {args.output.name}, expected a file .onnx or .xml")
    return args


def build(args: argparse.Namespace) -> tuple[CfgNode, Metadata, nn.Module]:
    """The config, its names, and the network with its weights, on the processor."""
    options = [*args.opts, "MODEL.DEVICE", "cpu"]
    cfg, names = prediction_config(args.model, args.config_file, options)
    check_config(cfg)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = find_weights(cfg)
    return cfg, cfg_metadata(cfg, names), load_trained_model(cfg).eval()


def metrics(path: Path, cfg: CfgNode, folder: Path) -> dict[str, float]:
    """``"task/metric"`` -> value, the main ones, of a file on ``DATASETS.TEST``."""
    predictor = Predictor(path)
    cfg = measured_config(cfg, predictor.info)
    cfg.OUTPUT_DIR = str(folder)
    results = measure(predictor, cfg, build_evaluators(cfg))
    return {
        f"{task}/{name}": value
        for task, values in results.items()
        for name, value in values.items()
        if name in ("AP", "AP50", "mIoU") or name.startswith("IoU-")
    }


def find_images(inputs: Sequence[str], option: str, most: int) -> list[Path]:
    """The first images of files and folders.

    Raises:
        ValueError: there are none.
    """
    files = find_media(inputs, option)[0][:most]
    if not files:
        raise ValueError(f"{option} {' '.join(inputs)}: found videos only, expected images")
    return files


def read_images(files: Sequence[Path]) -> Iterator[np.ndarray]:
    """One after the other; what cannot be read is left out with a warning."""
    for file in files:
        try:
            yield read_image(str(file), "BGR")
        except ImageReadError as error:
            logger.warning("left out: %s", error)


def run(args: argparse.Namespace) -> int:
    """Export, quantise, compare, measure; the file takes its place when it has passed."""
    check_suffix(args.output)
    if args.output.is_dir():
        raise ValueError(f"--output {args.output}: found a folder, expected a file in it")
    given = find_images(args.images, "--images", MOST_COMPARED) if args.images else []
    images = list(read_images(given) if given else noise_images())
    if not images:
        raise ValueError(f"--images {' '.join(args.images)}: none can be read, expected images")
    calibrated = find_images(args.calibrate, "--calibrate", MOST_CALIBRATED) if args.int8 else []
    cfg, metadata, model = build(args)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.output.parent, prefix=".export-") as name:
        # Beside its place, which it takes only when it has been compared.
        folder = Path(name)
        plain, *quantized = files = write_files(args, cfg, metadata, model, folder, calibrated)
        written = files[-1]
        if plain.suffix in (".onnx", ".xml"):
            differences = compare_file(plain, cfg, model, images, args.tasks)
        else:
            differences = compare_program(plain, model, args.tasks)
        print(f"Compared with the network: {differences}")
        for file in quantized if differences.within_limits else ():
            print(f"int8: {compare_file(file, cfg, model, images, args.tasks)}")
        if not differences.within_limits:
            sys.stderr.write(
                f"Error: {args.output}: not written, because its answers are more than "
                f"{MOST_PIXELS} pixels or {MOST_SCORE} of a score away from the network's\n"
            )
            return 1
        if args.evaluate:
            columns = [metrics(file, cfg, folder / "evaluation") for file in files]
            rows = [[key, *(column[key] for column in columns)] for key in columns[0]]
            headers = ["metric", "float32", "int8"]
            print(tabulate(rows, headers[: len(rows[0])] if rows else headers, floatfmt=".2f"))
        for suffix in (".bin", written.suffix):  # last the file that is complete with the other
            if (file := written.with_suffix(suffix)).exists():
                file.replace(args.output.with_suffix(suffix))
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB")
    if mask_keys(cfg) and not is_rcnn(cfg):
        print("Instance masks are made outside of the file: d2mt predict --masks, with_masks()")
    return 0


def write_files(
    args: argparse.Namespace,
    cfg: CfgNode,
    metadata: Metadata,
    model: nn.Module,
    folder: Path,
    calibrated: Sequence[Path],
) -> list[Path]:
    """Write the file into a folder, the last one; for int8 also the one that it is made of."""
    path, name = folder / args.output.name, Path(args.config_file or args.model).name
    plain = folder / f"float32_{path.stem}.onnx" if args.int8 else path
    export_file(cfg, model, plain, args.tasks, name=name, metadata=metadata)
    if not args.int8:
        return [path]
    quantize_file(plain, path, read_images(calibrated))
    return [plain, path]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; ``None`` = the command line."""
    args = parse_args(arguments)
    setup_logger(name="d2_multitask", abbrev_name="d2_multitask")
    return exit_code(lambda: run(args))
