"""The written files: layout, both variants, odd forms, repetition."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from d2_multitask.data.datasets.pascal_in_detail import load_phase
from d2_multitask.data.labels.sem_seg import PartSegLabel, SemSegLabel
from synthetic.in_detail import draw_detail_scene, write_synthetic_in_detail
from synthetic.in_detail.scene import DETAIL_CONFIG

SMALL = replace(DETAIL_CONFIG, short_side=(80, 96))
IMAGES = "synthetic_in_detail/VOCdevkit/VOC2010/JPEGImages"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("written")
    path = write_synthetic_in_detail(root, 8, 4, 3, config=SMALL)
    return root, path


def test_layout(written):
    root, path = written
    assert path == root / "synthetic_in_detail/pascal_in_detail/trainval_withkeypoints.json"
    content = json.loads(path.read_text())
    assert list(content)[0] == "info" and set(content) == {
        *("info", "images", "categories", "parts"),
        *("annos_segmentation", "annos_joints", "annos_boundary", "annos_occlusion"),
    }
    without = json.loads(path.with_name("trainval_merged.json").read_text())
    assert {k: v for k, v in content.items() if k != "annos_joints"} == without
    assert [i["phase"] for i in content["images"]] == ["train"] * 8 + ["val"] * 4
    for image in content["images"]:
        assert image["image_id"] == int(image["file_name"][:4] + image["file_name"][5:11])
        size = Image.open(root / IMAGES / image["file_name"]).size
        assert size == (image["width"], image["height"])
    assert [e["person_id"] for e in content["annos_joints"]] == list(
        range(1, len(content["annos_joints"]) + 1)
    )
    masks = content["annos_segmentation"]
    crowds = [mask["iscrowd"] for mask in masks]
    assert crowds == sorted(crowds, reverse=True)  # instances after all stuff
    assert [mask["id"] for mask in masks] == list(range(1, len(masks) + 1))


def test_what_is_loaded_is_what_was_drawn(written):
    root, path = written
    loaded = load_phase(str(path), str(root / IMAGES), "train")
    assert loaded.problems == []
    assert loaded.matches.matched == loaded.matches.skeletons > 0
    for index, record in enumerate(loaded.dataset_dicts):
        scene = draw_detail_scene(3, "train", index, SMALL)
        sem_seg = SemSegLabel().read(record)
        assert len(record["annotations"]) == len(scene.instances)
        things = [i.class_name for i in scene.instances]
        seen = scene.owner >= 0
        assert ((sem_seg < 20) == seen).all()
        assert (
            (sem_seg == 14)
            == np.isin(scene.owner, [i for i, n in enumerate(things) if n == "person"])
        ).all()
        parts = PartSegLabel().read(record)
        assert (parts is not None) == ("person" in things)
        if parts is not None:
            assert np.array_equal(parts > 0, sem_seg == 14)
        pixels = np.asarray(Image.open(record["file_name"])).astype(int)
        assert np.abs(pixels - scene.image).mean() < 6  # JPEG


def test_it_is_safe_to_repeat_and_refuses_to_replace(written, tmp_path):
    _, path = written
    first = write_synthetic_in_detail(tmp_path, 2, 1, 0, config=SMALL)
    stamp = first.stat().st_mtime_ns
    done = []
    write_synthetic_in_detail(tmp_path, 2, 1, 0, config=SMALL, progress=lambda *n: done.append(n))
    assert first.stat().st_mtime_ns == stamp and done == [(3, 3)]
    with pytest.raises(ValueError, match="other arguments.*--overwrite"):
        write_synthetic_in_detail(tmp_path, 2, 1, 1, config=SMALL)
    write_synthetic_in_detail(tmp_path, 2, 1, 1, config=SMALL, overwrite=True)
    assert json.loads(first.read_text())["info"]["arguments"]["seed"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((-1, 1, 0), "num_train"), ((0, 0, 0), "at least one"), ((1, 1, -1), "seed")],
)
def test_bad_arguments_are_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_synthetic_in_detail(tmp_path, *arguments)
