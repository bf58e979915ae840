"""What is written to mend a set; that it mends is tested where the faults are planted."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from detectron2.data import MetadataCatalog

from d2_multitask.config import get_multitask_cfg
from d2_multitask.doctor import mend


def write(folder: Path) -> Path:
    path = folder / "a $HOME \"quoted\" 'file'.json"
    content = {"images": [{"id": i, "height": 4, "width": 4} for i in (1, "2")]}
    content["annotations"] = [{"image_id": 1, "segmentation": [[1, 1, 3, 1, 3, 2, 1, 2]]}]
    content["categories"] = [{"name": "a", "keypoints": ["l", "r", "top"]}, {"name": "b"}]
    path.write_text(json.dumps(content))
    return path


def test_several_changes_in_turn(tmp_path: Path) -> None:
    path = write(tmp_path)
    before = path.read_text()
    copy = mend.rewrite(str(path), exchanged=[("l", "r")], without_categories=["b"])
    assert copy.name == "a $HOME \"quoted\" 'file'_mended.json"
    assert mend.rewrite(str(path), boxes_of_masks=True) == copy
    assert mend.rewrite(str(copy), without_images=["2"]) == copy
    content = json.loads(copy.read_text())
    assert content["categories"] == [{"name": "a", "keypoints": ["r", "l", "top"]}]
    assert [image["id"] for image in content["images"]] == [1]
    assert content["annotations"][0]["bbox"] == [1, 1, 2, 1]
    assert path.read_text() == before


def test_the_line_means_the_same_to_a_shell(tmp_path: Path) -> None:
    """Quotes, spaces and dollars in names."""
    path = write(tmp_path)
    MetadataCatalog.get("mend_line").set(json_file=str(path), evaluator_type="multitask_coco")
    try:
        line = mend.rewriting("mend_line", without_images=["it's $1"])
    finally:
        MetadataCatalog.remove("mend_line")
    words = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert words[:2] == ["python", "-c"] and len(words) == 3
    compile(words[2], "line", "exec")
    assert repr(str(path)) in words[2] and repr("it's $1") in words[2]


def test_sets_without_a_file_or_entry() -> None:
    assert mend.rewriting("nobody_registered_this", without_images=[1]) == ""
    assert mend.entry(get_multitask_cfg(), "nobody_registered_this", SEM_SEG_IDS={0: 0}) == ""
