"""Writes labels in the formats that docs/your_data.md converts, so that the truth is known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from scipy.io import savemat

from synthetic.people.writer import write_synthetic_people


def synthetic_people(folder: Path, split: str = "train") -> tuple[Path, dict[str, Any]]:
    """The folder of four images, and their COCO file."""
    file = write_synthetic_people(folder, split, 4, seed=0)
    return folder / "synthetic_people" / split / "images", json.loads(Path(file).read_text())


def of_images(coco: dict[str, Any]) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    return [
        (image, [x for x in coco["annotations"] if x["image_id"] == image["id"]])
        for image in coco["images"]
    ]


def write_yolo(folder: Path, images: Path, coco: dict[str, Any], *, pose: bool) -> None:
    """As Ultralytics' convert_coco: data.yaml, images/, labels/; images without people no file."""
    shutil.copytree(images, folder / "images")
    (folder / "labels").mkdir()
    for image, objects in of_images(coco):
        size = np.array([image["width"], image["height"]])
        lines = []
        for row in objects:
            corner, side = np.array(row["bbox"], float).reshape(2, 2)
            values = [(corner + side / 2) / size, side / size]
            if pose:
                points = np.array(row["keypoints"], float).reshape(-1, 3)
                points[:, :2] /= size
                values.append(points.ravel())
            lines.append(" ".join(["0", *(f"{x:.6f}" for x in np.concatenate(values))]))
        if lines:
            name = Path(image["file_name"]).with_suffix(".txt").name
            (folder / "labels" / name).write_text("\n".join(lines) + "\n")
    names = coco["categories"][0]["keypoints"]
    text = "names:\n  0: person\n"
    if pose:
        text += f"kpt_shape: [{len(names)}, 3]\nkpt_names:\n  0: {json.dumps(names)}\n"
    (folder / "data.yaml").write_text(text)


def write_labelme(folder: Path, image: dict[str, Any], shapes: list[dict[str, Any]]) -> None:
    """One file of labelme."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imageData": None}
    content |= {"imagePath": image["file_name"]}
    content |= {"imageHeight": image["height"], "imageWidth": image["width"]}
    (folder / f"{Path(image['file_name']).stem}.json").write_text(json.dumps(content))


def write_cvat(file: Path, images: list[tuple[dict[str, Any], list[dict[str, str]]]]) -> None:
    """CVAT for images 1.1: of each image elements as {"tag": "box", "label": ..., ...}."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    label = ElementTree.SubElement(ElementTree.SubElement(task, "labels"), "label")
    ElementTree.SubElement(label, "name").text = "person"
    ElementTree.SubElement(label, "attributes")
    for number, (image, elements) in enumerate(images):
        values = {"id": str(number), "name": image["file_name"]}
        values |= {key: str(image[key]) for key in ("width", "height")}
        parent = ElementTree.SubElement(root, "image", values)
        for element in elements:
            rest = {key: value for key, value in element.items() if key != "tag"}
            ElementTree.SubElement(parent, element["tag"], {"label": "person", **rest})
    ElementTree.ElementTree(root).write(file, encoding="utf-8")


def write_mpii(file: Path, images: list[tuple[str, list[list[tuple]]]]) -> None:
    """MPII's structs: of each image its people, of each person (id, x, y, is_visible or None)."""
    annolist = np.zeros(len(images), dtype=[("image", object), ("annorect", object)])
    for row, (name, people) in zip(annolist, images, strict=True):
        row["image"] = {"name": name}
        rects = np.zeros(len(people), dtype=[("annopoints", object)])
        for rect, person in zip(rects, people, strict=True):
            kinds = [(key, object) for key in ("id", "x", "y", "is_visible")]
            points = np.zeros(len(person), dtype=kinds)
            for point, (number, x, y, visible) in zip(points, person, strict=True):
                note = np.zeros((0, 0)) if visible is None else visible
                point["id"], point["x"], point["y"], point["is_visible"] = number, x, y, note
            rect["annopoints"] = {"point": points} if person else np.zeros((0, 0))
        row["annorect"] = rects
    savemat(file, {"RELEASE": {"annolist": annolist}})
