"""Which files are segmented, at which size, and what cannot be."""

from __future__ import annotations

import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from d2_multitask.config import load_config
from d2_multitask.data.io import read_image
from d2_multitask.segmenting.images import (
    ImageFiles,
    default_long_side,
    find_images,
    network_as_json,
    read_ready,
    working_size,
)
from mae_support import small_mae
from shard_support import served, write_shards


def save(path, size_wh=(40, 30), color=(255, 0, 0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size_wh, color).save(path)
    return path


def test_a_folder_with_all_below_it(tmp_path):
    save(tmp_path / "b.png"), save(tmp_path / "a" / "1.jpg")
    (tmp_path / "notes.txt").write_text("no image")
    files = find_images([tmp_path])
    assert files.root == tmp_path and files.names == ["a/1.jpg", "b.png"]


def test_files_and_folders_have_a_common_root(tmp_path):
    one, other = save(tmp_path / "x" / "1.png"), save(tmp_path / "y" / "2.png")
    files = find_images([other, one.parent, one])
    assert files.root == tmp_path.resolve() and files.names == ["y/2.png", "x/1.png"]


def test_a_file_by_two_paths_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "x" / "1.png")
    files = find_images(["x/1.png", tmp_path / "x" / "1.png", "x/../x"])
    assert files.names == ["1.png"] and files.root == tmp_path.resolve() / "x"


def test_links_to_images_elsewhere(tmp_path):
    outside = save(tmp_path / "outside" / "1.png")
    for name in ("x", "y"):
        (tmp_path / "inside" / name).mkdir(parents=True)
        (tmp_path / "inside" / name / "link.png").symlink_to(outside)
    files = find_images([tmp_path / "inside" / "x", tmp_path / "inside" / "y"])
    assert files.names == ["x/link.png", "y/link.png"]
    assert read_image(files.file("y/link.png")).shape == (30, 40, 3)


def test_an_output_folder_among_the_images(tmp_path):
    save(tmp_path / "a.png"), save(tmp_path / "out" / "labels" / "a.png")
    assert find_images([tmp_path], tmp_path / "out").names == ["a.png"]
    assert find_images([tmp_path / "out" / "labels"], tmp_path / "out").names == ["a.png"]
    with pytest.raises(ValueError, match="found 2 images in .*, all of them in --output"):
        find_images([tmp_path], tmp_path)


def test_absent_and_empty(tmp_path):
    with pytest.raises(ValueError, match="found no file and no folder .*absent"):
        find_images([tmp_path / "absent"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="found 0 files and no image"):
        find_images([tmp_path / "empty"])


def test_images_of_shards(tmp_path):
    shards = [*write_shards(tmp_path / "a", (2, 1)), *write_shards(tmp_path / "b", (2,))]
    files = find_images([f"{tmp_path}/a/images-{{000..001}}.tar", shards[2], shards[0]])
    expected = [f"{shard}/{n:06d}" for shard, n in (("a/images-000", 0), ("a/images-000", 1))]
    expected += ["a/images-001/000000", "b/images-000/000000", "b/images-000/000001"]
    assert files.names == files.outputs() == expected  # no shard twice
    rows = [read_image(files.file(name)).shape[0] for name in files.names]
    assert rows == [8, 9, 10, 8, 9]  # of images 0, 1, 2 and 0, 1
    assert files.file_name(expected[2]).endswith("images-001.tar#/set/0002.jpg")


def test_names_in_shards_lead_nowhere_else(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("../../out.jpg", "/abs.jpg", "same.jpg", "same.jpg"):
            tar.addfile(tarfile.TarInfo(name))
    assert find_images([tmp_path / "x.tar"]).outputs() == [f"x/{n:06d}" for n in range(4)]


def test_shards_that_cannot_be_used(tmp_path):
    shard = write_shards(tmp_path / "a", (2,))[0]
    for inputs, message in (
        (
            [f"{tmp_path}/a/images-{{000..001}}.tar"],
            r"images-001\.tar: cannot be read: No such file",
        ),
        ([shard, tmp_path], "expected shards alone"),
        ([tmp_path / "absent.json"], r"absent\.json: cannot be read as an index"),
    ):
        with pytest.raises(ValueError, match=message):
            find_images(inputs)
    with served(tmp_path / "a") as server:
        index = {"shardlist": [{"url": f"{server.url}/images-000.tar", "nsamples": 2}]}
        (tmp_path / "away.json").write_text(json.dumps(index))
        with pytest.raises(ValueError, match="found http.*expected shards on this computer"):
            find_images([tmp_path / "away.json"])


def test_names_of_outputs_differ(tmp_path):
    files = ImageFiles(tmp_path, ["a.jpg", "a.jpg.png", "a.png", "b/a.png"])
    assert files.outputs() == ["a.jpg", "a.jpg.png", "a.png", "b/a"]


@pytest.mark.parametrize(
    ("image_hw", "expected"),
    [((300, 400), (48, 64)), ((400, 400), (64, 64)), ((20, 33), (40, 64)), ((640, 160), (64, 16))],
)
def test_working_size(image_hw, expected):
    assert working_size(image_hw, 8, 64) == expected


def test_sizes_that_cannot_be_used():
    assert working_size((16, 16), 8, 64, shifts=2) == (64, 64)
    with pytest.raises(ValueError, match="16x15 pixels .* for 16x16 cells.* smaller --size"):
        working_size((15, 16), 8, 64, shifts=2)
    with pytest.raises(ValueError, match="200x7 pixels .* at least one patch of 8x8"):
        working_size((7, 200), 8, 64)
    with pytest.raises(ValueError, match="less than two patches .* larger --size"):
        working_size((20, 400), 8, 64)


def test_pixels_and_channels(tmp_path):
    model = small_mae(32)
    assert default_long_side(model) == 32
    path = save(tmp_path / "red.png")
    rgb, bgr = (read_ready(path, model, 32, order) for order in ("RGB", "BGR"))
    assert rgb.pixels.shape == (30, 40, 3) and rgb.tensor.shape == (3, 24, 32)
    normalised = (torch.tensor([255.0, 0, 0]) - model.pixel_mean.flatten()) / (
        model.pixel_std.flatten()
    )
    assert torch.allclose(rgb.tensor[:, 0, 0], normalised)
    assert bgr.tensor[2, 0, 0] > 0 > bgr.tensor[0, 0, 0]
    assert np.array_equal(rgb.pixels, bgr.pixels)


def test_what_a_network_depends_on(tmp_path):
    (tmp_path / "mae.pth").write_bytes(b"weights")
    opts = ["MODEL.WEIGHTS", str(tmp_path / "mae.pth")]
    found = network_as_json(load_config("quick/mae_textures.yaml", opts))
    assert found["weights_crc32"] == "1ad27358"
    for key, value in (
        ("INPUT.FORMAT", "BGR"),
        ("MODEL.PIXEL_MEAN", "[1.0, 2.0, 3.0]"),
        ("MODEL.PIXEL_STD", "[1.0, 2.0, 3.0]"),
        ("MODEL.MAE.POSITION_RESIZE", "sincos"),
    ):
        other = network_as_json(load_config("quick/mae_textures.yaml", [*opts, key, value]))
        assert [k for k in found if other[k] != found[k]] == [key]


def test_messages_name_the_file(tmp_path):
    model = small_mae(32)
    with pytest.raises(ValueError, match=r"thin\.png: found an image of 100x4"):
        read_ready(save(tmp_path / "thin.png", (100, 4)), model, 32)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.jpg: cannot be read"):
        read_ready(tmp_path / "broken.jpg", model, 32)
