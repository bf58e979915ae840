#!/usr/bin/env python
"""Draws training data, to be checked before training: labels, augmentation, targets.

    python tools/visualize_data.py --config-file configs/quick/mcn_seg_det_pose.yaml \
        --source targets --num-images 8 --output output/data

--source annotation   what the dataset has: boxes, masks, keypoints of the image as it is
         mapper       what the network gets: the augmented image with its labels
         targets      what each head learns from that: heatmaps and label maps over the image

Solid keypoints are visible, rings are labelled but occluded; grey stripes are pixels that the
losses ignore. Datasets with human parts, boundaries, occlusion, image labels or foreground masks
get a strip: parts in colours, boundaries in white, arrows towards the object in front, names of
classes, the background dimmed. --output gets one picture per image, and a contact sheet of all.

Exit code: 0; 2 if something was typed wrong; 130 if interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import Metadata
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

import d2_multitask  # noqa: F401 (registers datasets and networks)
from d2_multitask.config import load_config
from d2_multitask.data.datasets.catalog import load_dataset, loaded_metadata
from d2_multitask.data.datasets.from_config import register_datasets
from d2_multitask.data.io import read_image
from d2_multitask.data.labels.edges import BoundaryLabel, OcclusionLabel
from d2_multitask.data.labels.foreground import ForegroundLabel
from d2_multitask.data.labels.sem_seg import ImageLabels, PartSegLabel, SemSegLabel
from d2_multitask.data.mapper import MultitaskDatasetMapper
from d2_multitask.data.problems import DATA_REPORT
from d2_multitask.exits import exit_code
from d2_multitask.visualization.contact_sheet import contact_sheet, side_by_side
from d2_multitask.visualization.dense import draw_dense
from d2_multitask.visualization.metadata import picture_metadata
from d2_multitask.visualization.targets import (
    draw_dataset_dict,
    draw_labels,
    draw_map,
    rgb_image,
)
from d2_multitask.visualization.training import target_maps

SOURCES = ("annotation", "mapper", "targets")
CELL = 360  # pixels, in strips and on the sheet


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="path, or name below configs/")
    parser.add_argument("--source", choices=SOURCES, default="targets")
    parser.add_argument("--dataset", help="a registered name (default: the first of TRAIN)")
    parser.add_argument("--num-images", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("output/data"))
    parser.add_argument("--seed", type=int, default=0, help="of the choice and the augmentation")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides: KEY VALUE ...")
    args = parser.parse_args(arguments)
    if args.num_images < 1:
        parser.error(f"--num-images: found {args.num_images}, expected >= 1")
    args.opts = args.opts[1:] if args.opts[:1] == ["--opts"] else args.opts
    return args


def build_cfg(args: argparse.Namespace) -> CfgNode:
    cfg = load_config(args.config_file, args.opts)
    # Only labels are drawn: no GPU and no weights are needed.
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.FEATURE_EXTRACTOR.WEIGHTS = ""
    cfg.MODEL.FEATURE_EXTRACTOR.PRETRAINED = False
    register_datasets(cfg.DATASETS.REGISTER)
    if args.dataset:
        cfg.DATASETS.TRAIN = (args.dataset,)
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN: found nothing, expected a dataset (or use --dataset)")
    cfg.freeze()
    return cfg


def chosen_dicts(name: str, num_images: int, seed: int) -> list[dict[str, Any]]:
    """A random choice of the dataset's images, in the dataset's order."""
    dataset_dicts = load_dataset(name)
    count = min(num_images, len(dataset_dicts))
    chosen = np.random.default_rng(seed).choice(len(dataset_dicts), count, replace=False)
    return [dataset_dicts[index] for index in sorted(chosen.tolist())]


def annotation_pictures(cfg: CfgNode, dicts: list[dict[str, Any]]) -> Iterator[np.ndarray]:
    metadata = picture_metadata(loaded_metadata(cfg.DATASETS.TRAIN[0]))
    for dataset_dict in dicts:
        height, width = dataset_dict.get("height"), dataset_dict.get("width")
        expected = (height, width) if height and width else None
        image = read_image(dataset_dict["file_name"], "RGB", expected)
        sem_seg = None
        if "sem_seg_file_name" in dataset_dict or "sem_seg_segments" in dataset_dict:
            height, width = image.shape[:2]
            sized = {**dataset_dict, "height": height, "width": width}
            sem_seg = SemSegLabel.from_config(cfg).read(sized)
        picture = draw_dataset_dict(image, dataset_dict, metadata, sem_seg=sem_seg)
        labels = whole_image_labels(dataset_dict, "foreground" in cfg.MODEL.TASKS, image.shape[:2])
        yield with_dense(picture, image, labels, metadata)


def whole_image_labels(
    dataset_dict: dict[str, Any], foreground: bool, size: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Parts, boundaries, occlusion and classes of one image, as far as it is labelled.

    The foreground too, if it is asked for: other datasets have objects, whose union is one.
    """
    dataset_dict = {"height": size[0], "width": size[1], **dataset_dict}
    kinds = [PartSegLabel, BoundaryLabel, OcclusionLabel, ImageLabels]
    kinds += [ForegroundLabel] if foreground else []
    maps = {kind.key: kind().read(dataset_dict) for kind in kinds}
    return {name: values for name, values in maps.items() if values is not None}


def with_dense(
    picture: np.ndarray, image: np.ndarray, entry: dict[str, Any], metadata: Metadata
) -> np.ndarray:
    """The picture alone, or next to those of the labels that cover the whole image."""
    dense = draw_dense(image, entry, metadata)
    if not dense:
        return picture
    return side_by_side([picture, *dense.values()], ["objects", *dense], cell_width=CELL)


def mapped_inputs(cfg: CfgNode, dicts: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    mapper = MultitaskDatasetMapper(cfg, True)
    for dataset_dict in dicts:
        mapped = mapper(dataset_dict)
        if mapped is not None:  # else the mapper has logged what is wrong with the image
            yield mapped


def objects_picture(cfg: CfgNode, mapped: dict[str, Any]) -> np.ndarray:
    return draw_labels(
        mapped,
        picture_metadata(loaded_metadata(cfg.DATASETS.TRAIN[0])),
        input_format=cfg.INPUT.FORMAT,
        ignore_value=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
    )


def mapper_picture(cfg: CfgNode, mapped: dict[str, Any]) -> np.ndarray:
    metadata = picture_metadata(loaded_metadata(cfg.DATASETS.TRAIN[0]))
    image = rgb_image(mapped, cfg.INPUT.FORMAT)
    return with_dense(objects_picture(cfg, mapped), image, mapped, metadata)


def target_pictures(cfg: CfgNode, dicts: list[dict[str, Any]]) -> Iterator[np.ndarray]:
    model = build_model(cfg)
    for mapped in mapped_inputs(cfg, dicts):
        maps, padded_hw = target_maps(model, [mapped])
        image = rgb_image(mapped, cfg.INPUT.FORMAT)
        pictures = {"labels": objects_picture(cfg, mapped)}
        for name, values in maps.items():
            pictures[name] = draw_map(image, values[0], padded_hw)
        yield side_by_side(list(pictures.values()), list(pictures), cell_width=CELL)


def pictures_of(cfg: CfgNode, source: str, dicts: list[dict[str, Any]]) -> Iterator[np.ndarray]:
    if source == "annotation":
        yield from annotation_pictures(cfg, dicts)
    elif source == "mapper":
        for mapped in mapped_inputs(cfg, dicts):
            yield mapper_picture(cfg, mapped)
    else:
        yield from target_pictures(cfg, dicts)


def run(args: argparse.Namespace) -> None:
    cfg = build_cfg(args)
    dicts = chosen_dicts(cfg.DATASETS.TRAIN[0], args.num_images, args.seed)
    seed_all_rng(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    pictures = []
    for picture in pictures_of(cfg, args.source, dicts):
        pictures.append(picture)
        write(args.output / f"{args.source}_{len(pictures):03d}.png", picture)
        print(f"{len(pictures)}/{len(dicts)}", flush=True)
    DATA_REPORT.log_totals()
    if not pictures:
        raise ValueError("none of the chosen images can be drawn; see the warnings above")
    is_strip = any(picture.shape[1] > 3 * picture.shape[0] for picture in pictures)
    is_strip |= args.source == "targets"
    sheet = contact_sheet(
        pictures,
        columns=1 if is_strip else None,
        cell_width=max(p.shape[1] for p in pictures) if is_strip else CELL,
    )
    path = args.output / f"{args.source}_sheet.png"
    write(path, sheet)
    print(f"{len(pictures)} pictures of {cfg.DATASETS.TRAIN[0]}: {args.output}\nAll in one: {path}")


def write(path: Path, rgb: np.ndarray) -> None:
    if not cv2.imwrite(str(path), rgb[..., ::-1]):
        raise ValueError(f"{path}: cannot be written; expected a writable folder with space left")


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    setup_logger(name="d2_multitask", abbrev_name="d2_multitask")
    return exit_code(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
