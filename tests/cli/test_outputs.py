"""JSON files of a run: numbers by hand, and read by pycocotools."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from pycocotools.coco import COCO

from d2_multitask.cli.outputs import JsonFiles
from d2_multitask.runtime import Result, parse_model_info
from runtime_support import metadata

INFO = parse_model_info(json.dumps(metadata()), "a.onnx")


def found(**maps: np.ndarray) -> Result:
    """A dog, and the maps."""
    return Result(
        (40, 60),
        INFO,
        boxes=np.array([[10, 20, 30, 35]], np.float32),
        scores=np.array([0.75], np.float32),
        classes=np.array([1]),
        keypoints=np.array([[[12.5, 22.5, 0.5], [20, 30, 0.25]]], np.float32),
        maps=maps,
    )


def test_objects_in_cocos_conventions():
    files = JsonFiles()
    files.add(3, "a.png", found())
    assert files.objects == [
        {
            "image_id": 3,
            "category_id": 18,  # the dataset's id of class 1
            "bbox": [10, 20, 20, 15],  # x, y, w, h
            "score": 0.75,
            "keypoints": [12, 22, 0.5, 19.5, 29.5, 0.25],  # pixel indices
        }
    ]
    assert files.images == [{"id": 3, "file_name": "a.png", "width": 60, "height": 40}]


def test_the_written_files_are_read_by_pycocotools(tmp_path):
    logits = np.zeros((2, 40, 60), np.float32)
    logits[1, 5:15, 20:25] = 1
    files = JsonFiles()
    files.add(3, "a.png", found(sem_seg=logits))
    paths = files.write(tmp_path / "new" / "r.json")
    assert [path.name for path in paths] == ["r.json", "r_sem_seg.json", "r_images.json"]
    objects, classes, images = (json.loads(path.read_text()) for path in paths)
    truth = COCO()
    truth.dataset = {"images": images, "annotations": [], "categories": [{"id": 18}]}
    truth.createIndex()
    assert truth.loadRes(str(paths[0])).anns[1]["bbox"] == objects[0]["bbox"]
    (bright,) = classes  # without background
    assert bright["category_id"] == 1
    assert (mask_util.decode(bright["segmentation"]) == logits[1]).all()


def test_images_without_objects_give_an_empty_list(tmp_path):
    files = JsonFiles()
    files.add(1, "a.png", found().select(np.zeros(1, bool)))
    paths = files.write(tmp_path / "r.json")
    assert json.loads(paths[0].read_text()) == []
    assert len(paths) == 2


@pytest.mark.parametrize("command", ["predict", "predict_exported", "track"])
def test_a_folder_is_no_json_file(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = importlib.import_module(f"d2_multitask.cli.{command}").main
    words = ["--model", "m.onnx", "--input", "a.png"]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--json", str(tmp_path)])
    assert stopped.value.code == 2
    assert f"--json: found the folder {tmp_path}, expected a file" in capsys.readouterr().err
