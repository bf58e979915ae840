"""tools/segment_unlabelled.py as a user runs it, up to a detector that learns from its segments."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from d2_multitask.data.datasets.catalog import load_dataset
from d2_multitask.data.datasets.coco import register_coco_format
from d2_multitask.data.io import ShardError, read_image
from d2_multitask.data.shard_files import images_in
from synthetic.textures import write_synthetic_textures
from tool_support import SMALL_MAE, load_tool, run_tool, save_small_mae

SMALL = (*SMALL_MAE, "MODEL.MAE.PATCH_SIZE", "16")


@pytest.fixture(scope="module")
def tool():
    return load_tool("segment_unlabelled.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three images with masks, one of them in a folder of its own, and random weights."""
    root = tmp_path_factory.mktemp("segments")
    write_synthetic_textures(root, "other_palette", "test", 3)
    drawn = root / "synthetic_textures" / "other_palette" / "test"
    (drawn / "images").rename(root / "images")
    (drawn / "masks").rename(root / "masks")
    for kind in ("images", "masks"):
        (root / kind / "more").mkdir()
        (root / kind / "000002.png").rename(root / kind / "more" / "000002.png")
    save_small_mae(root / "mae.pth", "quick/mae_textures.yaml", SMALL)
    return root


def words(folder: Path, output: str, *more: str) -> list[str]:
    return [
        *("--config-file", "quick/mae_textures.yaml", "--input", str(folder / "images")),
        *("--output", str(folder / output), "--passes", "40", *more, *SMALL),
        *("MODEL.WEIGHTS", str(folder / "mae.pth")),
    ]


@pytest.fixture(scope="module")
def segmented(folder) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The output of a run with a broken image among good ones."""
    (folder / "images" / "broken.jpg").write_bytes(b"this is no image")
    arguments = ("--foreground", "least_border")
    done = run_tool("segment_unlabelled.py", folder, *words(folder, "output", *arguments))
    (folder / "images" / "broken.jpg").unlink()
    return folder / "output", done


def test_everything_is_written_and_the_broken_image_is_told(segmented):
    output, done = segmented
    assert done.returncode == 0, done.stderr
    assert "4 images: 3 segmented, 1 unreadable" in done.stdout
    assert "left out:" in done.stderr and "broken.jpg: cannot be read" in done.stderr
    for kind in ("labels", "foreground", "overlays", "strips"):
        assert cv2.imread(str(output / kind / "more" / "000002.png")) is not None, kind
    strip = cv2.imread(str(output / "strips" / "000000.png"))
    assert strip.shape[1] > 5 * strip.shape[0] / 2
    assert (output / "graphs" / "000001.npz").is_file()
    content = json.loads((output / "segments.json").read_text())
    names = ["000000.png", "000001.png", "more/000002.png"]
    assert [image["file_name"] for image in content["images"]] == names
    assert {a["image_id"] for a in content["annotations"]} == {1, 2, 3}
    assert not list(output.rglob("*.part"))


def test_the_same_command_goes_on(segmented, folder, tool, capsys):
    output, _ = segmented
    record = output / "records" / "000001.json"
    before, label = record.read_text(), (output / "labels" / "000001.png").read_bytes()
    untouched = (output / "records" / "000000.json").stat().st_mtime_ns
    record.unlink()  # what a killed run loses
    more = ("--masks", str(folder / "masks"), "--sheet")
    arguments = words(folder, "output", "--foreground", "least_border", *more)
    assert tool.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "3 images: 2 done before, 1 segmented" in printed
    assert (output / "records" / "000000.json").stat().st_mtime_ns == untouched
    assert (output / "labels" / "000001.png").read_bytes() == label
    for key in ("segments", "objects", "scores", "passes"):
        assert json.loads(record.read_text())[key] == json.loads(before)[key]
    assert cv2.imread(str(output / "strips.png")).shape[1] > 1600
    for metric in ("IoU ", "IoU-best-segment", "CorLoc", "ARI", "AR@100"):
        assert metric in printed


def test_other_settings_need_another_folder(segmented, folder, tool, capsys):
    assert tool.main(words(folder, "output", "--foreground", "least_border", "--seed", "3")) == 2
    assert "seed: found 0, now 3; pass --overwrite" in capsys.readouterr().err


def test_images_of_another_folder_need_another_output(segmented, folder, tool, capsys, tmp_path):
    """Also those of the same names."""
    for name in ("000000.png", "000001.png"):
        shutil.copy(folder / "images" / name, tmp_path)
    arguments = words(folder, "output", "--foreground", "least_border")
    arguments[3] = str(tmp_path)
    assert tool.main(arguments) == 2
    moved = f"input: found '{folder / 'images'}', now '{tmp_path}'; pass --overwrite"
    assert moved in capsys.readouterr().err
    arguments = words(folder, "output", "--foreground", "least_border", "INPUT.FORMAT", "BGR")
    assert tool.main(arguments) == 2
    assert "INPUT.FORMAT: found 'RGB', now 'BGR'; pass --overwrite" in capsys.readouterr().err


def test_an_image_that_has_changed_is_segmented_again(folder, tool, capsys, tmp_path):
    image = tmp_path / "images" / "a.png"
    image.parent.mkdir()
    shutil.copy(folder / "images" / "000000.png", image)
    arguments = words(folder, "changed", "--no-pictures")
    arguments[3] = str(image.parent)
    assert tool.main(arguments) == tool.main(arguments) == 0
    assert "1 images: 1 done before\n" in capsys.readouterr().out
    image.write_bytes(b"broken now")
    later = (folder / "changed" / "records" / "a.json").stat().st_mtime + 1
    os.utime(image, (later, later))
    assert tool.main(arguments) == 1
    assert "1 images: 1 unreadable" in capsys.readouterr().out
    assert not json.loads((folder / "changed" / "segments.json").read_text())["images"]


def test_images_with_fewer_pixels_than_cells_are_left_out(folder, tool, capsys, tmp_path):
    shutil.copy(folder / "images" / "000000.png", tmp_path / "a.png")
    cv2.imwrite(str(tmp_path / "b.png"), np.random.default_rng(0).integers(0, 255, (16, 16, 3)))
    more = ("--relation", "color", "--size", "160", "--shifts", "2", "--no-tiles", "--no-grow")
    arguments = words(folder, "small", *more, "--foreground", "none", "--no-pictures")
    arguments[3] = str(tmp_path)
    assert tool.main(arguments) == 0
    told = capsys.readouterr()
    assert "2 images: 1 segmented, 1 of an unusable size" in told.out
    assert "b.png: found an image of 16x16 pixels (width x height) for 20x20 cells" in told.err


def test_shards_up_to_what_training_reads(folder, tool, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = [(folder / "images" / f"00000{n}.png").read_bytes() for n in (0, 1)]
    Path("shards").mkdir()
    with tarfile.open("shards/x.tar", "w") as tar:
        for content in (good[0], b"broken", good[1]):
            member = tarfile.TarInfo("same.png")  # webdataset would not allow it
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    arguments = words(folder, "of_shards", "--no-pictures")
    arguments[3] = "shards/x.tar"
    assert tool.main(arguments) == 0
    told = capsys.readouterr()
    assert "3 images: 2 segmented, 1 unreadable" in told.out
    assert "IMAGE_ROOT: 'shard://'" in told.out and "x.tar#/same.png: cannot be read" in told.err
    assert tool.main(arguments) == 0
    assert "2 done before, 1 unreadable" in capsys.readouterr().out

    json_file = str(folder / "of_shards" / "segments.json")
    register_coco_format("of_shards", json_file, "shard://")
    records = load_dataset("of_shards")
    for record, number in zip(records, (0, 1), strict=True):
        expected = cv2.imread(str(folder / "images" / f"00000{number}.png"))
        assert np.array_equal(read_image(record["file_name"]), expected)

    with tarfile.open("shards/x.tar", "w") as tar:
        tar.add(folder / "images" / "000001.png", "0.png")
        tar.add(folder / "images" / "000000.png", "1.png")
    with pytest.raises(ShardError, match="the shard is another one"):
        read_image(records[1]["file_name"])
    images_in.cache_clear()  # as in a process of its own
    assert tool.main(arguments) == 2
    assert "shards: found '3 images of shards/x.tar" in capsys.readouterr().err


def test_click_a_patch(folder, tool, capsys):
    arguments = words(folder, "clicked", "--click", "40", "20")
    arguments[3] = str(folder / "images" / "000001.png")
    assert tool.main(arguments) == 0
    picture = cv2.imread(capsys.readouterr().out.strip())
    assert picture.shape[1] > picture.shape[0] and picture.std() > 10
    for more in (["--sheet"], ["--masks", "x"]):
        with pytest.raises(SystemExit):
            tool.main([*arguments, *more])
        assert f"--click: found {more[0]} with it" in capsys.readouterr().err
    arguments[arguments.index("--click") + 1] = "400"
    assert tool.main(arguments) == 2
    assert "(400, 20), expected a pixel of the image of 64x64" in capsys.readouterr().err


def test_tiles_mixtures_and_growing(folder, tool, capsys):
    more = ("--size", "128", "--relation", "color", "single_source", "--num-segments", "2")
    assert tool.main(words(folder, "tiled", *more, "--max-images", "1", "--no-pictures")) == 0
    record = json.loads((folder / "tiled" / "records" / "000000.json").read_text())
    assert record["grid_hw"] == [8, 8] and len(record["scores"]) == 2
    assert not (folder / "tiled" / "strips").exists()


def test_objects_by_maskcut(folder, tool, capsys):
    more = ("--foreground", "maskcut", "--min-score", "0.4")
    assert tool.main(words(folder, "cut", *more)) == 2  # the relation is ridge
    assert "found the relation ridge, expected encoder_features" in capsys.readouterr().err
    assert tool.main(words(folder, "cut", "--num-segments", "0")) == 2
    assert "num_segments: found 0, expected" in capsys.readouterr().err
    assert tool.main(words(folder, "cut", "--relation", "encoder_features", *more)) == 0
    segments, objects = (
        json.loads((folder / "cut" / f"{name}.json").read_text())["annotations"]
        for name in ("segments", "objects")
    )
    expected = [s for s in segments if s["score"] >= 0.4]  # without the rest and the third one
    assert 3 <= len(objects) <= 6 and {o["score"] for o in objects} <= {1.0, 0.5}
    assert [o["segmentation"] for o in objects] == [s["segmentation"] for s in expected]


def test_photographs_need_no_config(tool, capsys, tmp_path):
    photograph = Path(__file__).parents[2] / "docs" / "pictures" / "photographs" / "astronaut.jpg"
    told = ("--passes", "120", "--shifts", "1", "--no-pictures", "--output", str(tmp_path))
    assert tool.main(["--input", str(photograph), *told]) == 0
    assert "1 images: 1 segmented" in capsys.readouterr().out
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["kinds"] == ["color", "encoder_features", "ridge"] and settings["size"] == 96
    assert settings["foreground"] == "absorption_time" and not settings["tile_hw"]
    assert settings["shifts"] == 1  # options change single ones
    assert settings["weights"].endswith("mae_tiny_imagenet.safetensors")
    found = cv2.imread(str(tmp_path / "foreground" / "astronaut.png"), cv2.IMREAD_GRAYSCALE) > 0
    assert found[:, 150:350].mean() > 2 * found[:, 400:].mean()  # she sits in the middle, a flag
    assert 0.1 < found.mean() < 0.7


def test_bad_input_is_told_without_a_traceback(folder, tool, capsys, tmp_path):
    arguments = words(folder, "bad")
    arguments[3] = str(tmp_path)
    assert tool.main(arguments) == 2
    assert "found 0 files and no image" in capsys.readouterr().err
    (tmp_path / "broken.png").write_bytes(b"")
    assert tool.main(arguments) == 1  # nothing could be segmented
    assert "1 unreadable" in capsys.readouterr().out
    arguments[arguments.index("--passes") + 1] = "2"
    arguments[3] = str(folder / "images")
    arguments[arguments.index("--output") + 1] = str(tmp_path / "budget")
    assert tool.main(arguments) == 2
    assert "000000.png: Budget: found 2 passes" in capsys.readouterr().err
    arguments[1] = "quick/mcn_det.yaml"
    assert tool.main(arguments) == 2
    assert "expected 'MaskedAutoencoder'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_detector_learns_from_the_segments(segmented, folder):
    output, _ = segmented
    mine = {"NAME": "mine", "JSON": str(output / "objects.json")}
    mine["IMAGE_ROOT"] = str(folder / "images")
    truth = folder / "synthetic_textures/other_palette/annotations/instances_test.json"
    content = json.loads(truth.read_text())
    content["images"][2]["file_name"] = "more/000002.png"
    truth.write_text(json.dumps(content))
    labelled = {"NAME": "labelled", "JSON": str(truth), "IMAGE_ROOT": mine["IMAGE_ROOT"]}
    done = run_tool(
        "train_net.py",
        folder,
        *("--config-file", "quick/mask_rcnn_segments.yaml"),
        *("DATASETS.REGISTER", str([mine, labelled])),
        *("DATASETS.TRAIN", "('mine',)", "DATASETS.TEST", "('labelled',)"),
        *("SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2"),
        *("OUTPUT_DIR", str(folder / "detector")),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((folder / "detector" / "results.json").read_text())
    for key in ("bbox", "segm", "bbox_class_agnostic", "segm_class_agnostic"):
        assert np.isfinite(list(results[key].values())[0]), key
