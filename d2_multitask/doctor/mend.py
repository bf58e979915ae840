"""What mends a finding: YAML lines to paste, and a rewritten copy of a COCO file."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from d2_multitask.data.datasets.coco import EVALUATOR_TYPE
from d2_multitask.data.datasets.label_maps import LABEL_SPACE
from d2_multitask.data.labels.masks import mask_box
from d2_multitask.data.whole_files import write_json


def as_yaml(content: Mapping[str, Any]) -> str:
    """Lines for a config file."""
    return yaml.safe_dump(_plain(content), sort_keys=False, default_flow_style=None, width=1000)


def entry(cfg: CfgNode, name: str, **keys: Any) -> str:
    """The dataset's entry of ``DATASETS.REGISTER`` with further keys; "" if it has none."""
    known = [{**known, **keys} for known in cfg.DATASETS.REGISTER if known["NAME"] == name]
    return as_yaml({"DATASETS": {"REGISTER": known}}) if known else ""


def rewriting(name: str, **changes: Any) -> str:
    """A line for the shell that rewrites the dataset's COCO file; "" if it has none."""
    metadata = MetadataCatalog.get(name)
    if not metadata.get("json_file") or metadata.get("evaluator_type") != EVALUATOR_TYPE:
        return ""
    if metadata.get(LABEL_SPACE) and not changes.keys() <= {"without_images", "boxes_of_masks"}:
        return ""  # the file has other names
    words = [repr(metadata.json_file), *(f"{key}={value!r}" for key, value in changes.items())]
    line = f"from {__name__} import rewrite; print(rewrite({', '.join(words)}))"
    return 'python -c "' + re.sub(r'([\\"$`])', r"\\\1", line) + '"'


def rewrite(
    json_file: str,
    *,
    without_images: Collection[Any] = (),
    without_categories: Collection[str] = (),
    exchanged: Sequence[Sequence[str]] = (),
    boxes_of_masks: bool = False,
) -> Path:
    """Write a changed copy of a COCO file beside it, ``<name>_mended.json``.

    If the copy is there already it is changed, so that several lines can be typed in turn.

    Args:
        json_file: stays as it is.
        without_images: ids of images to leave out, with their annotations.
        without_categories: names of categories to leave out, which have no annotations.
        exchanged: pairs of keypoints that get each other's name.
        boxes_of_masks: every object with a mask gets its mask's box.

    Returns:
        The path of the copy.
    """
    path = Path(json_file)
    path = path.with_name(f"{path.stem.removesuffix('_mended')}_mended.json")
    content = json.loads((path if path.exists() else Path(json_file)).read_text("utf-8-sig"))
    other = {a: b for pair in exchanged for a, b in (pair, pair[::-1])}
    for key, field, left_out in (
        ("images", "id", without_images),
        ("annotations", "image_id", without_images),
        ("categories", "name", without_categories),
    ):
        content[key] = [x for x in content.get(key, ()) if x[field] not in left_out]
    for category in content["categories"]:
        if category.get("keypoints"):
            category["keypoints"] = [other.get(name, name) for name in category["keypoints"]]
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for one in content["annotations"] if boxes_of_masks else ():
        if one.get("segmentation"):
            one["bbox"] = mask_box(one["segmentation"], *sizes[one["image_id"]])
    write_json(path, content)
    return path


def _plain(value: Any) -> Any:
    """Without tuples and nodes of a config, which safe YAML does not write."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
