"""Datasets without a fault, to plant faults in, and what mends them, as a person would paste it."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_NAMES
from PIL import Image

from d2_multitask.config import get_multitask_cfg
from d2_multitask.data.datasets.from_config import register_datasets
from d2_multitask.data.problems import DATA_REPORT
from d2_multitask.doctor import examine
from d2_multitask.doctor.findings import NOTE, Finding

HEIGHT, WIDTH, PEOPLE = 96, 64, 30
# x to the person's left and y down, of COCO's keypoints in order; the person faces the camera.
_BODY = [(0, -30), (2, -33), (-2, -33), (5, -31), (-5, -31), (9, -20), (-9, -20), (13, -8)]
_BODY += [(-13, -8), (15, 4), (-15, 4), (6, 4), (-6, 4), (7, 20), (-7, 20), (8, 36), (-8, 36)]

Content = dict[str, Any]
Change = Callable[[Content], None]


def write_set(folder: Path, seed: int = 0) -> Path:
    """People who face the camera, one an image, with masks and maps; returns the COCO file."""
    draw = np.random.default_rng(seed)
    for name in ("images", "maps"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(1, PEOPLE + 1):
        blocks = draw.integers(0, 256, size=(6, 4, 3), dtype=np.uint8)
        picture = Image.fromarray(blocks).resize((WIDTH, HEIGHT))
        picture.save(folder / "images" / f"{number}.png")
        body = np.array(_BODY) * draw.uniform(0.8, 1.1) + draw.normal(0, 0.3, size=(17, 2))
        joints = (body + (WIDTH / 2, HEIGHT / 2)).clip(1, (WIDTH - 2, HEIGHT - 2)).round(1)
        (x1, y1), (x2, y2) = joints.min(axis=0) - 1, joints.max(axis=0) + 1
        box = [x1, y1, x2 - x1, y2 - y1]
        ids = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        ids[int(y1) : int(y2), int(x1) : int(x2)] = 1
        Image.fromarray(ids).save(folder / "maps" / f"{number}.png")
        size = {"height": HEIGHT, "width": WIDTH}
        images.append({"id": number, "file_name": f"{number}.png", **size})
        annotation = {"id": number, "image_id": number, "category_id": 1, "iscrowd": 0}
        annotation |= {"bbox": box, "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]]}
        annotation["keypoints"] = np.c_[joints, np.full(17, 2)].ravel().tolist()
        annotations.append(annotation)
    category = {"id": 1, "name": "person", "keypoints": list(COCO_PERSON_KEYPOINT_NAMES)}
    path = folder / "people.json"
    content = {"images": images, "annotations": annotations, "categories": [category]}
    path.write_text(json.dumps(content))
    return path


def entry(name: str, json_file: Path, **keys: Any) -> dict[str, Any]:
    """Of ``DATASETS.REGISTER``."""
    return {
        "NAME": name,
        "JSON": str(json_file),
        "IMAGE_ROOT": str(json_file.parent / "images"),
        **keys,
    }


def set_config(folder: Path, change: Change | None = None, **keys: Any) -> CfgNode:
    """A training set and a test set, "planted_train" with a change, and "planted_test" without."""
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS = ["seg", "det", "pose"]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (HEIGHT,), HEIGHT
    files = [write_set(folder / name, seed) for seed, name in enumerate(("train", "test"))]
    if change is not None:
        content = json.loads(files[0].read_text())
        change(content)
        files[0].write_text(json.dumps(content))
    cfg.DATASETS.REGISTER = [
        entry("planted_train", files[0], **keys),
        entry("planted_test", files[1]),
    ]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("planted_train",), ("planted_test",)
    return cfg


@contextlib.contextmanager
def registered(cfg: CfgNode) -> Iterator[None]:
    """The config's datasets, for as long as it lasts."""
    names = register_datasets(cfg.DATASETS.REGISTER)
    try:
        yield
    finally:
        DATA_REPORT.clear()
        for name in names:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def found(cfg: CfgNode) -> list[Finding]:
    """What the doctor finds, but notes."""
    with registered(cfg):
        return [finding for finding in examine(cfg) if finding.severity != NOTE]


def mended(cfg: CfgNode, finding: Finding) -> CfgNode:
    """The config after the finding's lines were pasted."""
    cfg = copy.deepcopy(cfg)
    for line in finding.mend.splitlines() if finding.mend.startswith(("python", "mv")) else ():
        words = shlex.split(line)
        if words[0] == "mv":
            subprocess.run(words, check=True)
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(words[2], {})
        written = printed.getvalue().strip()
        for known in cfg.DATASETS.REGISTER:
            if written == known["JSON"].replace(".json", "_mended.json"):
                known["JSON"] = written
        return cfg
    if finding.mend.startswith("mv"):
        return cfg
    content = yaml.safe_load(finding.mend)
    for new in content.get("DATASETS", {}).pop("REGISTER", ()):
        known = [e["NAME"] for e in cfg.DATASETS.REGISTER].index(new["NAME"])
        cfg.DATASETS.REGISTER[known] = new
    cfg.merge_from_other_cfg(CfgNode(content))
    return cfg


def check_planted(cfg: CfgNode, check: str, severity: str, *, is_mended: bool = True) -> Finding:
    """One finding, this one, is made; and none is left when its lines were pasted."""
    findings = found(cfg)
    assert [(f.check, f.severity) for f in findings] == [(check, severity)], findings
    assert bool(findings[0].mend) == is_mended
    if is_mended:
        assert found(mended(cfg, findings[0])) == []
    return findings[0]
