#!/usr/bin/env python
"""Turns joints in a .mat file, an array like LSP's or MPII's structs, into a COCO file.

    python datasets/convert/mat.py lsp/joints.mat --third occluded --images lsp/images \
        --keypoints right_ankle right_knee ... --output datasets/lsp/people.json
    python datasets/convert/mat.py mpii_human_pose_v1_u12_1.mat --images mpii/images \
        --keypoints right_ankle right_knee ... --output datasets/mpii/people.json

An array holds x, y and a third number of each joint in each image, axes in any order, images by
name. What 1 is as third number: occluded (LSP), visible, labelled (LSP extended). MATLAB counts
pixels from 1, COCO from 0. Boxes are those of the joints, wider on each side by a tenth of the
longer side. Images in which nobody has joints are left out.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from coco_file import BOX_SHARE, as_rows, images_of, parser_of, write_coco
from d2_multitask.exits import exit_code

VISIBILITY = {"occluded": (2, 1), "visible": (1, 2), "labelled": (0, 2)}  # of a third 0, and 1
MARGIN = 0.1


def array_joints(content: dict[str, Any], args: Namespace, count: int) -> np.ndarray:
    """(images, K, 3) joints of the array that has this shape, with COCO's visibility."""
    shape = (count, len(args.keypoints), 3)
    for value in map(np.atleast_3d, content.values()):  # of one image, an axis is gone
        if sorted(value.shape) == sorted(shape) and len(set(shape)) == 3 and args.third:
            joints = value.transpose([value.shape.index(n) for n in shape]).astype(float)
            joints[..., 2] = np.take(VISIBILITY[args.third], joints[..., 2] > 0)
            return joints
    found = {name: np.shape(value) for name, value in content.items() if name[:2] != "__"}
    expected = f"expected --third and an array of {shape} (images, --keypoints, 3)"
    raise ValueError(f"{args.mat}: found --third {args.third}, {found}, {expected}")


def mpii_joints(release: Any, names: dict[str, int], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Index of each person's image, and (n, K, 3) joints; visible where the file does not say."""
    owner, joints = [], []
    for item in np.atleast_1d(release.annolist):
        for person in np.atleast_1d(item.annorect) if item.image.name in names else ():
            owner.append(names[item.image.name])
            joints.append(np.zeros((count, 3)))
            for point in np.atleast_1d(getattr(getattr(person, "annopoints", 0), "point", ())):
                if point.id >= count:
                    raise ValueError(f"--keypoints: found {count} names, and a joint {point.id}")
                is_hidden = str(getattr(point, "is_visible", 1)) == "0"
                joints[-1][int(point.id)] = (point.x, point.y, 1 if is_hidden else 2)
    return np.array(owner, int), np.array(joints).reshape(-1, count, 3)


def run(args: Namespace) -> None:
    """Convert one file."""
    images = images_of(args.images)
    if not args.mat.is_file():
        raise ValueError(f"{args.mat}: there is no such file, expected a .mat file")
    try:
        content = loadmat(args.mat, struct_as_record=False, squeeze_me=True)
    except Exception as error:  # of scipy, many kinds
        raise ValueError(f"{args.mat}: cannot be read as a .mat file: {error!r}") from error
    if "RELEASE" in content:
        names = {image["file_name"]: index for index, image in enumerate(images)}
        try:
            owner, joints = mpii_joints(content["RELEASE"], names, len(args.keypoints))
        except AttributeError as error:
            raise ValueError(f"{args.mat}: expected MPII's structs: {error}") from error
    else:
        owner, joints = np.arange(len(images)), array_joints(content, args, len(images))
    is_person = (joints[..., 2] > 0).any(1)
    owner, joints = owner[is_person], joints[is_person]
    if not len(joints):
        raise ValueError(f"{args.mat}: found nobody with joints in an image of {args.images}")
    is_labelled = joints[..., 2:] > 0
    xy = joints[..., :2] = (joints[..., :2] - 1) * is_labelled
    low, high = np.where(is_labelled, xy, np.inf).min(1), np.where(is_labelled, xy + 1, 0).max(1)
    margin = MARGIN * (high - low).max(1, keepdims=True)
    size = np.array([(image["width"], image["height"]) for image in images])[owner]
    low, high = np.maximum(low - margin, 0), np.minimum(high + margin, size)
    columns = {
        "image_id": owner + 1,
        "category_id": np.ones(len(owner), int),
        "bbox": np.hstack([low, high - low]),
        "area": BOX_SHARE * (high - low).prod(1),
        "keypoints": joints.reshape(len(owner), -1),
    }
    used = [images[index] for index in np.unique(owner)]
    write_coco(args.output, used, as_rows(columns), ["person"], args.keypoints)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("mat", type=Path, help=".mat file")
    parser.add_argument("--third", choices=VISIBILITY, help="what 1 in an array says of a joint")
    args = parser.parse_args(arguments)
    return exit_code(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
