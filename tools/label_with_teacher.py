#!/usr/bin/env python
"""Labels images with what a trained network, a teacher, finds in them, for another's training.

    python tools/label_with_teacher.py --config-file quick/mcn_seg_det_pose.yaml \
        --input synthetic_people_train --output output/teacher \
        MODEL.WEIGHTS output/demo/model_final.pth
    python tools/label_with_teacher.py --model model.onnx --input photos/ --output output/teacher
    python tools/label_with_teacher.py --config-file COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml \
        --classes person --input photos/ --output output/teacher MODEL.WEIGHTS model_final.pkl
    python tools/label_with_teacher.py --config-file torchvision/fasterrcnn_resnet50_fpn ...

--config-file is a network of this package, of Detectron2's model zoo, or of torchvision; --model is
a weight file with its config inside, or an exported network (.onnx, .xml). --input is a registered
dataset, of the teacher's config or of --data-config, a COCO file with --image-root, or images and
folders. OUTPUT gets labels.json (COCO format, with the scores of objects from 0.1), images.json
(the images alone) and, if the teacher has them, maps as PNG files: sem_seg/ and foreground/, and
how sure each pixel is, 0 to 255: sem_seg_confidence/ and foreground_confidence/. TEACHER_ROOT of a
dataset trains with them, see docs/teachers.md.

Exit code: 0; 2 if something was typed wrong or no image could be read; 130 if interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.layers import batched_nms
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

import d2_multitask  # noqa: F401 (registers datasets and networks)
from d2_multitask.cli.predict import split_overrides
from d2_multitask.config import load_config
from d2_multitask.data.datasets.catalog import load_dataset
from d2_multitask.data.datasets.coco import CocoFormatDataset
from d2_multitask.data.datasets.coco_json import check_ids, check_map_names
from d2_multitask.data.datasets.from_config import register_datasets
from d2_multitask.data.datasets.teacher import LABELS_FILE
from d2_multitask.data.io import ImageReadError, read_image
from d2_multitask.data.whole_files import write_json, write_png
from d2_multitask.engine.other_networks import (
    TORCHVISION,
    OtherNetwork,
    is_of_zoo,
    torchvision_network,
    zoo_network,
)
from d2_multitask.engine.setup import progress_bar
from d2_multitask.engine.trained_model import TrainedModel
from d2_multitask.exits import exit_code
from d2_multitask.loading import EXPORTED_SUFFIXES
from d2_multitask.runtime import Predictor, Result
from d2_multitask.runtime.files import find_media, numbers_of
from d2_multitask.runtime.model_info import ModelInfo, OutputInfo

# Objects below it are background; those from it up to the dataset's threshold are ignored.
MIN_SCORE = 0.1
# Of two objects of a class whose boxes have a larger IoU, the weaker one is a duplicate.
SAME_OBJECT = 0.6
IMAGES_FILE = "images.json"
# Outputs that become labels.
LABELLED = ("boxes", "keypoints", "sem_seg", "foreground")


class Image(NamedTuple):
    """One image that is labelled; ``file_name`` is the path below the folder of all."""

    image_id: int | str
    path: str
    file_name: str


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="", help="of the teacher")
    parser.add_argument("--model", default="", help="instead: a file with its config inside")
    parser.add_argument("--input", nargs="+", required=True)
    parser.add_argument("--data-config", help="config whose DATASETS.REGISTER has the dataset")
    parser.add_argument("--image-root", help="folder of the images of a COCO file")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--tasks", nargs="+", help="label for these only, such as seg det pose")
    parser.add_argument("--classes", nargs="+", help="of objects, in this order (default: all)")
    words, opts = split_overrides(sys.argv[1:] if arguments is None else arguments)
    args = parser.parse_args(words)
    args.opts = opts
    return args


def find_teacher(args: argparse.Namespace) -> TrainedModel | Predictor | OtherNetwork:
    """The network, a function of BGR images, whatever runs it."""
    name, opts = args.config_file, args.opts
    if bool(name) == bool(args.model):
        raise ValueError("expected --config-file FILE MODEL.WEIGHTS FILE, or --model FILE")
    if name.startswith(TORCHVISION):
        if len(opts) != 2 or opts[0] != "MODEL.WEIGHTS":
            raise ValueError(f"found {opts} at the end of the command, expected MODEL.WEIGHTS FILE")
        return torchvision_network(name.removeprefix(TORCHVISION), opts[1])
    if is_of_zoo(name):
        return zoo_network(name, opts)
    if Path(args.model).suffix.lower() not in EXPORTED_SUFFIXES:
        return TrainedModel(args.model, name, opts)
    if opts:
        raise ValueError(f"found {opts}, expected no keys: {args.model} is an exported network")
    return Predictor(args.model)


def find_images(args: argparse.Namespace) -> list[Image]:
    """The images of ``--input``, with the ids of their dataset."""
    name = args.input[0]
    dataset = DatasetCatalog.data.get(name)
    if name.endswith(".json"):
        if not args.image_root:
            raise ValueError(f"--input {name}: found a COCO file without --image-root FOLDER")
        dataset = CocoFormatDataset(name, name, args.image_root)
    elif args.image_root:
        raise ValueError(f"--input {name}: found --image-root, which is for a COCO file, a .json")
    if dataset is not None and len(args.input) > 1:
        raise ValueError(
            f"--input: found {args.input}, expected one dataset, or images and folders"
        )
    if isinstance(dataset, CocoFormatDataset):  # its teachers' labels need not be there yet
        dataset = dataclasses.replace(dataset, teachers=())
        return [Image(r["image_id"], r["file_name"], dataset.relative_name(r)) for r in dataset()]
    if dataset is not None:
        records = load_dataset(name)
        return [Image(r["image_id"], r["file_name"], Path(r["file_name"]).name) for r in records]
    if not Path(name).exists() and not any(sign in name for sign in "*?["):
        raise ValueError(
            f"--input {name}: found neither a file, a folder nor a registered dataset; one of a "
            "config: --data-config FILE"
        )
    paths, videos = find_media(args.input)
    if videos:
        raise ValueError(f"--input: found the video {videos[0]}, expected images")
    ids = numbers_of(list(map(str, paths)))
    return [Image(i, str(path), path.name) for i, path in zip(ids, paths, strict=True)]


def check_tasks(info: ModelInfo, args: argparse.Namespace) -> None:
    """``--tasks``; without it all those of a network of ours that give labels.

    The boxes of "center" alone have all one size: they are no labels.
    """
    outputs = [info.outputs[name].task for name in LABELLED if name in info.outputs]
    able = [task for task in info.tasks if task in outputs and task != "center"]
    if info.outputs and not able:
        raise ValueError(
            f"found a network of the tasks {info.tasks}, expected one of det, pose, seg or "
            "foreground, whose predictions can be labels"
        )
    if wrong := [task for task in args.tasks or () if task not in able]:
        expected = f"some of {able}" if able else "no such option with a network of others"
        raise ValueError(f"--tasks: found {wrong}, expected {expected}")
    args.tasks = args.tasks or able
    if args.classes and args.tasks and not {"det", "pose"}.intersection(args.tasks):
        raise ValueError(
            f"found --classes, which are those of objects, with the tasks {args.tasks}, expected "
            "det or pose among them"
        )


@contextlib.contextmanager
def finite_layers(what: str) -> Iterator[None]:
    """In PyTorch's networks NaN is no score above a threshold, so that no object would be left.

    Raises:
        ValueError: in the block a layer's output is not finite, or the weights of one whose output
            is computed later.
    """

    def check(layer: nn.Module, inputs: object, output: object) -> None:
        values = [output] if isinstance(output, Tensor) else layer.parameters()
        if not all(bool(x.isfinite().all()) for x in values):
            raise ValueError(
                f"{what}: found NaN or infinite numbers in a layer {type(layer).__name__}, "
                "expected finite ones: the weights are probably broken"
            )

    hook = register_module_forward_hook(check)
    try:
        yield
    finally:
        hook.remove()


def check_finite(result: Result, what: str) -> None:
    """
    Raises:
        ValueError: a prediction is not finite.
    """
    objects = {name: getattr(result, name) for name in ("scores", "boxes", "keypoints")}
    for name, values in {**objects, **result.maps}.items():
        if values is not None and not np.isfinite(values).all():
            raise ValueError(f"{what}: found NaN or infinite numbers in {name}, expected finite")


def categories_of(info: ModelInfo, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The ``categories`` of the file; with --classes these alone, numbered from 1."""
    objects, chosen = info.objects, args.classes
    ids = dict(zip(objects.class_names, objects.category_ids, strict=True)) if objects else {}
    for name in chosen or ():
        if name not in ids:
            raise ValueError(f"--classes: found {name!r}, expected some of {list(ids)}")
    if chosen:
        ids = {name: number for number, name in enumerate(chosen, 1)}
    fields: dict[str, Any] = {}
    given = not args.tasks or info.outputs.get("keypoints", OutputInfo("")).task in args.tasks
    if ids and objects.keypoint_names and given:
        skeleton = [[a + 1, b + 1] for a, b in objects.skeleton]
        fields = {"keypoints": list(objects.keypoint_names), "skeleton": skeleton}
    return [{"id": number, "name": name, **fields} for name, number in ids.items()]


def annotations_of(
    result: Result, ids: dict[str, int], image_id: int | str
) -> list[dict[str, Any]]:
    """The objects as COCO annotations without ids; ``ids`` are those of the categories."""
    names = result.info.objects.class_names
    table = np.array([ids.get(name, -1) for name in names])
    result = result.confident(MIN_SCORE)
    result = result.select(table[result.classes] >= 0)
    arrays = map(torch.from_numpy, (result.boxes, result.scores, result.classes))
    result = result.select(batched_nms(*arrays, SAME_OBJECT).numpy())
    height, width = result.image_size
    result.boxes = result.boxes.clip(0, np.array([width, height] * 2, np.float32))
    result = result.select((result.boxes[:, 2:] > result.boxes[:, :2]).all(1))
    found = result.to_coco(image_id)
    for annotation, category_id in zip(found, table[result.classes].tolist(), strict=True):
        x, y, w, h = (round(value, 2) for value in annotation["bbox"])
        annotation |= {"category_id": category_id, "bbox": [x, y, w, h], "area": w * h}
        annotation |= {"iscrowd": 0, "score": round(annotation["score"], 4)}
        if "keypoints" in annotation:
            points = np.array(annotation["keypoints"]).reshape(-1, 3)
            inside = ((points[:, :2] >= 0) & (points[:, :2] <= (width - 1, height - 1))).all(1)
            annotation["keypoint_scores"] = points[:, 2].clip(0, 1).round(4).tolist()
            points[:, 2] = 2 * inside
            points[~inside] = 0
            annotation["keypoints"] = points.round(2).reshape(-1).tolist()
            annotation["num_keypoints"] = int(inside.sum())
    return found


def write_maps(result: Result, folder: Path, name: str) -> None:
    """Semantic classes and foreground of an image, and how probable they are."""
    maps = {}
    if "sem_seg" in result.maps:
        probable = torch.from_numpy(result.maps["sem_seg"]).softmax(0).amax(0).numpy()
        maps["sem_seg"] = result.sem_seg, probable
    if "foreground" in result.maps:
        probable = result.maps["foreground"]
        mask = (probable >= 0.5).astype(np.uint8)
        maps["foreground"] = 255 * mask, np.maximum(probable, 1 - probable)
    for key, (labels, confidence) in maps.items():
        write_png(folder / key / f"{name}.png", labels)
        confidence = np.rint(255 * confidence.clip(0, 1)).astype(np.uint8)
        write_png(folder / f"{key}_confidence" / f"{name}.png", confidence)


def label(args: argparse.Namespace, teacher: Any, images: Sequence[Image]) -> dict[str, Any]:
    """Write the maps of all images; returns what goes into the JSON file."""
    info: ModelInfo = teacher.info
    categories = categories_of(info, args)
    ids = {category["name"]: category["id"] for category in categories}
    content: dict[str, Any] = {"images": []}
    for image in progress_bar(images, unit="image"):
        try:
            pixels = read_image(image.path, "BGR")
        except ImageReadError as error:
            print(f"Warning: left out: {error}")
            continue
        what = f"{args.model or args.config_file}: image {image.path}"
        # broken weights show in the first image
        with contextlib.nullcontext() if content["images"] else finite_layers(what):
            result = teacher(pixels, args.tasks) if args.tasks else teacher(pixels)
        check_finite(result, what)
        height, width = result.image_size
        entry = {"id": image.image_id, "file_name": image.file_name}
        content["images"].append({**entry, "height": height, "width": width})
        write_maps(result, args.output, os.path.splitext(image.file_name)[0])
        if result.scores is not None:
            content["categories"] = categories
            found = content.setdefault("annotations", [])
            found += annotations_of(result, ids, image.image_id)
        if "sem_seg" in result.maps:
            content["stuff_classes"] = list(info.maps["sem_seg"].class_names)
    for number, annotation in enumerate(content.get("annotations", ()), 1):
        annotation["id"] = number
    return content


def run(args: argparse.Namespace) -> None:
    if args.output.is_file() or (args.output.is_dir() and any(args.output.iterdir())):
        raise ValueError(f"--output {args.output}: found files, expected a new folder")
    teacher = find_teacher(args)
    check_tasks(teacher.info, args)
    if args.data_config:
        register_datasets(load_config(args.data_config).DATASETS.REGISTER)
    images = find_images(args)
    check_map_names("--input", [image.file_name for image in images])
    check_ids("--input", [{"id": i.image_id, "file_name": i.file_name} for i in images])
    content = label(args, teacher, images)
    if not content["images"]:
        raise ValueError(f"--input: none of the {len(images)} images could be read")
    write_json(args.output / IMAGES_FILE, {"images": content["images"]})
    write_json(args.output / LABELS_FILE, content)  # last: says that all is there
    maps = sorted(path.name for path in args.output.iterdir() if path.is_dir())
    objects = f"{len(content['annotations'])} objects" if "annotations" in content else "no objects"
    print(f"{len(content['images'])} images, {objects}, maps: {', '.join(maps) or 'none'}")
    if content.get("annotations") == []:
        print("Warning: no object was found. To training, these images show none")
    print(f"Labels: {args.output}\nTo train with them, in a dataset: TEACHER_ROOT: {args.output}")


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    return exit_code(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
