"""tools/visualize_data.py as a user runs it, on a dataset of two images made here."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_multitask.data.datasets.pascal_in_detail import (
    find_files,
    register_detail_layout,
)
from support import REPOSITORY
from synthetic.in_detail import write_synthetic_in_detail
from tool_support import load_tool, run_tool

NAME = "visualize_data_test"


@pytest.fixture(scope="module")
def tool():
    yield load_tool("visualize_data.py")
    if NAME in DatasetCatalog:
        DatasetCatalog.pop(NAME)
        MetadataCatalog.pop(NAME)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two images with a person each, one without keypoints and mask; one image is broken."""
    folder = tmp_path_factory.mktemp("data")
    keypoints = [coordinate for i in range(17) for coordinate in (20 + i, 20 + i, 1 + i % 2)]
    person = {"category_id": 1, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0}
    polygon = [[10, 10, 50, 10, 50, 50, 10, 50]]
    annotations = [
        {**person, "id": 1, "image_id": 1, "keypoints": keypoints, "segmentation": polygon},
        {**person, "id": 2, "image_id": 2},
    ]
    category = {"id": 1, "name": "person", "keypoints": [f"joint {i}" for i in range(17)]}
    category["skeleton"] = [[1, 2], [2, 3]]
    images = []
    for index in (1, 2):
        images.append({"id": index, "file_name": f"{index}.png", "width": 96, "height": 64})
        image = np.random.default_rng(index).integers(0, 256, (64, 96, 3), np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), image)
    content = {"images": images, "annotations": annotations, "categories": [category]}
    (folder / "data.json").write_text(json.dumps(content))
    register = {"NAME": NAME, "JSON": str(folder / "data.json"), "IMAGE_ROOT": str(folder)}
    config = {
        "_BASE_": str(REPOSITORY / "configs" / "quick" / "mcn_seg_det_pose.yaml"),
        "DATASETS": {"REGISTER": [register], "TRAIN": [NAME], "TEST": [NAME]},
        "MODEL": {"RESNETS": {"STEM_OUT_CHANNELS": 8, "RES2_OUT_CHANNELS": 8}},
    }
    # JSON is YAML.
    (folder / "config.yaml").write_text(json.dumps(config))
    return folder


def arguments(data: Path, *more: object) -> list[str]:
    return ["--config-file", str(data / "config.yaml"), *map(str, more)]


def test_targets_as_a_user_types_it(data, tmp_path):
    command = [
        *arguments(data, "--num-images", 2, "--output", tmp_path / "out"),
        *("INPUT.SCALE_CROP.SIZE", "(64, 64)"),
    ]
    done = run_tool("visualize_data.py", tmp_path, *command)
    assert done.returncode == 0, done.stderr
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"targets_001.png", "targets_002.png", "targets_sheet.png"}
    strip = cv2.imread(str(tmp_path / "out" / "targets_001.png"))
    # Four square pictures in a row: labels, sem_seg, center, joints.
    assert strip.shape[1] == 4 * 360 + 5 * 8
    assert "2 pictures of" in done.stdout


@pytest.mark.parametrize("source", ["annotation", "mapper"])
def test_the_other_sources(tool, data, tmp_path, source):
    options = ["--source", source, "--num-images", 5, "--output", tmp_path]
    assert tool.main(arguments(data, *options)) == 0
    pictures = [cv2.imread(str(tmp_path / f"{source}_00{i}.png")) for i in (1, 2)]
    assert all(picture.shape[1] == 640 for picture in pictures)
    assert (tmp_path / f"{source}_sheet.png").is_file()


def test_the_seed_decides_choice_and_augmentation(tool, data, tmp_path):
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        options = ["--source", "mapper", "--num-images", 1, "--seed", seed]
        assert tool.main(arguments(data, *options, "--output", tmp_path / folder)) == 0
    a, b, c = ((tmp_path / f / "mapper_001.png").read_bytes() for f in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            ["--dataset", "absent"], "found 'absent', expected a registered dataset", id="set"
        ),
        pytest.param(["DATASETS.TRAIN", "()"], "DATASETS.TRAIN: found nothing", id="no-set"),
        pytest.param(["INPUT.SCALE_CRAP.ENABLED", "True"], "INPUT.SCALE_CROP", id="key"),
    ],
)
def test_what_a_mistake_gets(tool, data, tmp_path, capsys, options, message):
    assert tool.main(arguments(data, "--output", tmp_path, *options)) == 2
    assert message in capsys.readouterr().err


def test_images_that_cannot_be_read_are_an_error_in_the_end(tool, data, tmp_path, capsys):
    broken = json.loads((data / "data.json").read_text())
    for image in broken["images"]:
        image["file_name"] = "absent.png"
    broken["images"] = broken["images"][:1]
    broken["annotations"] = broken["annotations"][:1]
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    register = {
        "NAME": "visualize_broken_test",
        "JSON": str(tmp_path / "broken.json"),
        "IMAGE_ROOT": str(data),
    }
    options = ["--source", "mapper", "--dataset", register["NAME"], "--output", tmp_path]
    assert tool.main(arguments(data, *options, "DATASETS.REGISTER", repr([register]))) == 2
    assert "none of the chosen images can be drawn" in capsys.readouterr().err
    DatasetCatalog.pop(register["NAME"])


@pytest.mark.parametrize("source", ["annotation", "mapper"])
def test_labels_of_whole_images_make_a_strip(tool, tmp_path, source):
    """Objects, parts, boundary, occlusion, classes: five pictures side by side."""
    written = write_synthetic_in_detail(tmp_path, 2, 1)
    name = f"strips_{source}"
    register_detail_layout(name, *find_files(str(written.parents[1])))
    config = tmp_path / "config.yaml"
    config.write_text(
        f"DATASETS:\n  TRAIN: ['{name}_train']\n"
        "MODEL:\n  TASKS: [seg, parts, boundary, occlusion, classification]\n"
        "  SEM_SEG_HEAD: {NUM_CLASSES: 59}\n  POSE_HEAD: {NUM_KEYPOINTS: 14}\n"
        "INPUT:\n  MIN_SIZE_TRAIN: [128]\n"
    )
    output = tmp_path / "out"
    arguments = ["--config-file", str(config), "--source", source, "--output", str(output)]
    assert tool.main([*arguments, "--num-images", "2"]) == 0
    for number in (1, 2):
        picture = cv2.imread(str(output / f"{source}_{number:03d}.png"))
        # Images without people have no parts.
        assert picture.shape[1] // tool.CELL in (4, 5)
