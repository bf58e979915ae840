"""The two scripts as a user runs them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support import REPOSITORY


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "datasets" / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    size = ("--num-train", 2, "--num-val", 1, "--workers", 1, "--image-size", 80, 90)
    done = run("prepare_synthetic_in_detail.py", "--root", root, *size)
    assert done.returncode == 0, done.stderr
    return root / "synthetic_in_detail/pascal_in_detail/trainval_withkeypoints.json"


def test_validate(drawn):
    done = run("prepare_pascal_in_detail.py", "validate", drawn)
    assert done.returncode == 0, done.stderr
    assert "phase train: 2 images" in done.stdout
    done = run("prepare_pascal_in_detail.py", "validate", drawn.with_name("nothing.json"))
    assert done.returncode == 1
    assert "there is no such file" in done.stderr and "Traceback" not in done.stderr


def test_convert(drawn, tmp_path):
    done = run("prepare_pascal_in_detail.py", "convert", drawn, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "sem_seg").iterdir())) == 3
    assert (tmp_path / "annotations/person_keypoints_val.json").exists()
