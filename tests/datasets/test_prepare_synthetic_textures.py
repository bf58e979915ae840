"""The script as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys

from support import REPOSITORY

SCRIPT = REPOSITORY / "datasets" / "prepare_synthetic_textures.py"
TINY = ("--num-train", "2", "--num-val", "1", "--num-test", "1", "--workers", "1")


def run(folder, *arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--root", str(folder), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_draws_everything_and_asks_before_it_replaces(tmp_path):
    done = run(tmp_path, *TINY, "--size", "40", "56")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is complete") == 6
    assert len(list((tmp_path / "synthetic_textures").glob("*/train/masks/*.png"))) == 4
    done = run(tmp_path, *TINY)
    assert done.returncode == 1
    assert "--overwrite" in done.stderr and "Traceback" not in done.stderr
