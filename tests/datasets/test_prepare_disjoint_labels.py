"""datasets/prepare_disjoint_labels.py: a third of the images for each task."""

from __future__ import annotations

import json
from pathlib import Path

from detectron2.data import DatasetCatalog

import prepare_disjoint_labels as tool
from d2_multitask.data.datasets.coco import register_coco_format
from engine_support import write_people


def test_each_image_keeps_the_labels_of_one_task(tmp_path: Path) -> None:
    source = write_people(tmp_path / "images", num_images=7)
    assert tool.main(["--json", str(source), "--output", str(tmp_path / "thirds")]) == 0
    fields, ids = {}, {}
    for task in tool.PARTS:
        json_file = tmp_path / "thirds" / f"{task}.json"
        ids[task] = [image["id"] for image in json.loads(json_file.read_text())["images"]]
        name = f"disjoint_{task}"
        register_coco_format(name, json_file, tmp_path / "images")
        record = DatasetCatalog.get(name)[0]
        fields[task] = [sorted(x) for x in record.get("annotations", ["none"])]
        DatasetCatalog.remove(name)
    assert ids == {"seg": [3, 6], "det": [1, 4, 7], "pose": [2, 5]}
    box = ["area", "bbox", "bbox_mode", "category_id", "iscrowd"]
    assert fields["seg"] == [sorted("none")]
    assert fields["det"] == [box]
    assert fields["pose"] == [sorted([*box, "keypoints"])]


def test_a_file_that_is_not_there(tmp_path: Path, capsys) -> None:
    assert tool.main(["--json", str(tmp_path / "no.json"), "--output", str(tmp_path)]) == 2
    assert "no.json: there is no such file" in capsys.readouterr().err
