"""What mends a finding: YAML lines to paste, and rewritten copies of COCO files.

A rewritten file is a new one beside the old one, which is not changed: ``<name>_mended.json``. If
it is there already it is rewritten, so that several lines can be typed after each other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from d2_multitask.data.datasets.coco import EVALUATOR_TYPE
from d2_multitask.data.labels.masks import mask_box

Content = dict[str, Any]


def as_yaml(content: Mapping[str, Any]) -> str:
    """Lines for a config file."""
    return yaml.safe_dump(_plain(content), sort_keys=False, default_flow_style=None, width=1000)


def entry(cfg: CfgNode, name: str, **keys: Any) -> str:
    """The dataset's entry of ``DATASETS.REGISTER`` with further keys; "" if it has none."""
    known = [{**known, **keys} for known in cfg.DATASETS.REGISTER if known["NAME"] == name]
    return as_yaml({"DATASETS": {"REGISTER": known}}) if known else ""


def call(function: Callable[..., Any], name: str, *arguments: Any) -> str:
    """A line for the shell: a function below and the dataset's COCO file; "" if it has none."""
    metadata = MetadataCatalog.get(name)
    if not metadata.get("json_file") or metadata.get("evaluator_type") != EVALUATOR_TYPE:
        return ""
    words = ", ".join(map(repr, (metadata.json_file, *arguments)))
    line = f"from {__name__} import {function.__name__} as mend; print(mend({words}))"
    return 'python -c "' + re.sub(r'([\\"$`])', r"\\\1", line) + '"'


def without_images(json_file: str, image_ids: Collection[Any]) -> Path:
    """A copy without these images and their annotations; its path."""

    def change(content: Content) -> None:
        for key, field in (("images", "id"), ("annotations", "image_id")):
            content[key] = [x for x in content.get(key, ()) if x[field] not in image_ids]

    return _rewritten(json_file, change)


def without_categories(json_file: str, names: Collection[str]) -> Path:
    """A copy without these categories, which have no annotations; its path."""

    def change(content: Content) -> None:
        content["categories"] = [c for c in content["categories"] if c["name"] not in names]

    return _rewritten(json_file, change)


def exchange_names(json_file: str, pairs: Sequence[Sequence[str]]) -> Path:
    """A copy in which the keypoints of each pair have each other's name; its path."""
    other = {a: b for pair in pairs for a, b in (pair, pair[::-1])}

    def change(content: Content) -> None:
        for category in content["categories"]:
            category["keypoints"] = [other.get(n, n) for n in category.get("keypoints", ())]

    return _rewritten(json_file, change)


def boxes_of_masks(json_file: str) -> Path:
    """A copy in which every object with a mask has its mask's box; its path."""

    def change(content: Content) -> None:
        sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
        for one in content["annotations"]:
            if one.get("segmentation"):
                one["bbox"] = mask_box(one["segmentation"], *sizes[one["image_id"]])

    return _rewritten(json_file, change)


def _rewritten(json_file: str, change: Callable[[Content], None]) -> Path:
    source = path = Path(json_file)
    if not path.stem.endswith("_mended"):
        path = path.with_name(f"{path.stem}_mended.json")
    content = json.loads((path if path.exists() else source).read_text(encoding="utf-8-sig"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def _plain(value: Any) -> Any:
    """Without tuples and nodes of a config, which safe YAML does not write."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
