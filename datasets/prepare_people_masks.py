#!/usr/bin/env python
"""Turns folders of photographs and person masks into COCO-format JSON, to train `seg` with.

    python datasets/prepare_people_masks.py --images clothing-co-parsing/photos \
        --masks clothing-co-parsing/annotations/pixel-level --first 1 --last 700 \
        --output datasets/people/ccp_train.json
    python datasets/prepare_people_masks.py --images photos --masks masks --ignore 128 \
        --output datasets/people/my_people_train.json
    python datasets/prepare_people_masks.py \
        --coco datasets/tud_pedestrians/person_keypoints_train.json \
        --output datasets/people/tud_train.json

A mask has its image's name, as .png (0 = no person) or as .mat of Clothing Co-Parsing
("groundtruth", 0 = no person). Pixels of the values --ignore are ignored in training: what is
labelled but no part of a body, such as Clothing Co-Parsing's bags (see its label_list.mat).
All people of an image become one annotation, whose box is around all of them: such a file is for
MODEL.TASKS ["seg"], not for boxes. --coco takes a COCO file as it is, but for its keypoints: sets
with other keypoints cannot be trained on together.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.io import loadmat
from tqdm import tqdm

from d2_multitask.data.whole_files import whole_file

SUFFIXES = (".jpg", ".jpeg", ".png")
PERSON = {"id": 1, "name": "person", "supercategory": "person"}


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    try:
        content = coco_part(args) if args.coco else convert(args)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(args.output) as unfinished:
            unfinished.write_text(json.dumps(content), encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print(f"{len(content['images'])} images, {len(content['annotations'])} masks: {args.output}")
    return 0


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="folder of photographs")
    parser.add_argument("--masks", type=Path, help="folder of .png or .mat masks")
    parser.add_argument(
        "--coco", type=Path, nargs="+", help="COCO files instead of the two folders"
    )
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--ignore", type=int, nargs="*", default=[], help="ignored mask values")
    parser.add_argument("--first", type=int, help="first image by number")
    parser.add_argument("--last", type=int, help="last image by number")
    parser.add_argument("--names", type=Path, help="text file: names of the images to take")
    parser.add_argument("--keep-keypoints", action="store_true", help="of the COCO file")
    args = parser.parse_args(arguments)
    if bool(args.coco) == bool(args.images or args.masks) or bool(args.images) != bool(args.masks):
        parser.error("expected either --images and --masks, or --coco")
    if args.coco and (args.ignore or args.first is not None or args.last is not None):
        parser.error("--ignore, --first and --last are for --images and --masks")
    if args.masks and not args.masks.is_dir():
        parser.error(f"--masks {args.masks}: no such folder")
    return args


def coco_part(args: argparse.Namespace) -> dict[str, list]:
    """The chosen images of a COCO file, people without keypoints unless they are to be kept.

    Raises:
        ValueError: it is not such a file.
    """
    keys = ("images", "annotations", "categories")
    content: dict[str, list] = {key: [] for key in keys}
    for file in args.coco:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file} is not JSON: {error}") from error
        if not isinstance(found, dict) or not all(isinstance(found.get(k), list) for k in keys):
            raise ValueError(f"{file}: expected a COCO file with the lists {', '.join(keys)}")
        for key in ("images", "annotations"):
            content[key] += found[key]
        content["categories"] = found["categories"]
    dropped = () if args.keep_keypoints else ("keypoints", "num_keypoints", "skeleton")
    part = {
        key: [{k: v for k, v in row.items() if k not in dropped} for row in content[key]]
        for key in keys
    }
    if args.names:
        names = read_names(args)
        part["images"] = [x for x in part["images"] if Path(x["file_name"]).stem in names]
        wanted = len(args.names.read_text(encoding="utf-8").split())
        print(f"{args.names}: {len(part['images'])} of {wanted} names are in the COCO files")
        if not part["images"]:
            raise ValueError(f"{args.names}: none of its names is an image of {args.coco}")
        chosen = {image["id"] for image in part["images"]}
        part["annotations"] = [x for x in part["annotations"] if x["image_id"] in chosen]
    return part


def read_names(args: argparse.Namespace) -> set[str]:
    """Names without their endings; the numbers of COCO's images may be short."""
    words = args.names.read_text(encoding="utf-8").split()
    return {Path(word).stem for word in words} | {word.zfill(12) for word in words}


def convert(args: argparse.Namespace) -> dict[str, list]:
    """The content of the JSON file.

    Raises:
        ValueError: no image has a mask, or a mask has another size than its image.
    """
    images, annotations = [], []
    for path in tqdm(chosen_images(args), disable=None):
        mask = read_mask(args.masks, path.stem)
        if mask is None:
            continue
        image = cv2.imread(str(path))
        if image is None or image.shape[:2] != mask.shape:
            found = "no readable image" if image is None else f"{image.shape[:2]}"
            raise ValueError(f"{path}: found {found}, expected the size of its mask, {mask.shape}")
        height, width = mask.shape
        image_id = len(images) + 1
        images.append({"id": image_id, "file_name": path.name, "height": height, "width": width})
        ignored = np.isin(mask, args.ignore)
        for pixels, is_crowd in (((mask > 0) & ~ignored, 0), (ignored, 1)):
            if pixels.any():
                annotations.append(annotation(pixels, is_crowd, image_id, len(annotations) + 1))
    if not images:
        raise ValueError(f"{args.images}: none of its images has a mask in {args.masks}")
    return {"images": images, "annotations": annotations, "categories": [PERSON]}


def chosen_images(args: argparse.Namespace) -> list[Path]:
    paths = sorted(p for p in args.images.iterdir() if p.suffix.lower() in SUFFIXES)
    if args.names:
        names = read_names(args)
        paths = [path for path in paths if path.stem in names]
    if args.first is None and args.last is None:
        return paths
    unnumbered = [path.name for path in paths if not path.stem.isdigit()]
    if unnumbered:
        raise ValueError(
            f"--first and --last: found the image {unnumbered[0]}, expected numbers as names"
        )
    first, last = args.first or 0, sys.maxsize if args.last is None else args.last
    return [path for path in paths if first <= int(path.stem) <= last]


def read_mask(folder: Path, stem: str) -> np.ndarray | None:
    """(H, W) integers, or ``None`` where there is no mask; of a palette the indices.

    Raises:
        ValueError: it is no mask, or cannot be read.
    """
    png, mat = folder / f"{stem}.png", folder / f"{stem}.mat"
    try:
        if png.is_file():
            mask = np.asarray(Image.open(png))
        elif mat.is_file():
            mask = loadmat(mat)["groundtruth"]
        else:
            return None
    except Exception as error:  # of PIL and scipy, many kinds
        raise ValueError(f"{folder / stem}: the mask cannot be read ({error!r})") from error
    if mask.ndim != 2 or mask.dtype.kind not in "bui":
        raise ValueError(
            f"{folder / stem}: found a mask of shape {mask.shape} and type {mask.dtype}, expected "
            "one whole number per pixel"
        )
    return mask.astype(np.int64)


def annotation(pixels: np.ndarray, is_crowd: int, image_id: int, number: int) -> dict:
    """A COCO annotation of all pixels that are True."""
    rle = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
    return {
        "id": number,
        "image_id": image_id,
        "category_id": PERSON["id"],
        "iscrowd": is_crowd,
        "area": int(pixels.sum()),
        "bbox": [float(x) for x in coco_mask.toBbox(rle)],
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
    }


if __name__ == "__main__":
    sys.exit(main())
