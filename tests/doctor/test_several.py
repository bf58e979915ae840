"""Several faults in one set: each is found beside the others."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from doctor_support import Content, found, mended, set_config


def plant(content: Content) -> None:
    for annotation in content["annotations"]:
        joints = annotation["keypoints"]
        joints[39:42], joints[42:45] = joints[42:45], joints[39:42]  # the knees
    content["annotations"][3]["bbox"] = [1, 1, 20, 30]
    content["categories"].append({"id": 9, "name": "dog"})


def test_several_faults(tmp_path: Path) -> None:
    maps = tmp_path / "train" / "maps"
    classes = {"STUFF_CLASSES": ["background", "person"]}
    cfg = set_config(tmp_path, plant, SEM_SEG_ROOT=str(maps), **classes)
    for file in maps.iterdir():
        Image.fromarray(np.array(Image.open(file)) * 255).save(file)
    shutil.copy(tmp_path / "train/images/5.png", tmp_path / "test/images/7.png")
    (tmp_path / "train/images/9.png").unlink()
    expected = {"joints/sides", "joints/outside", "boxes/masks", "balance/empty-classes"}
    expected |= {"maps/ids", "images/leak", "images/unreadable"}
    findings = found(cfg)
    assert {finding.check for finding in findings} == expected and len(findings) == len(expected)
    for finding in findings:  # as a person pastes the lines, in turn
        if finding.mend:
            cfg = mended(cfg, finding)
    assert found(cfg) == []
