"""docs/slurm_train.sh with stand-ins for Slurm's commands."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from support import REPOSITORY

SCRIPT = REPOSITORY / "docs/slurm_train.sh"


def run(folder: Path, code: int, *words: str) -> tuple[int, str]:
    """The script's exit code, and the calls of Slurm's commands; srun ends with ``code``."""
    for name in ("srun", "scontrol", "sleep"):
        command = folder / name
        end = f"exit {code}" if name == "srun" else "exit 0"
        command.write_text(f'#!/bin/bash\necho "{name} $*" >> "{folder}/calls"\n{end}\n')
        command.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SLURM_JOB_ID": "17"}
    done = subprocess.run(["bash", str(SCRIPT), *words], env=environment, cwd=folder)
    calls = folder / "calls"
    return done.returncode, calls.read_text() if calls.exists() else ""


@pytest.mark.parametrize(
    ("code", "then"),
    [
        pytest.param(0, "", id="done"),
        pytest.param(1, "", id="error"),
        pytest.param(128 + signal.SIGUSR1, "scontrol requeue 17\n", id="time is over"),
        pytest.param(128 + signal.SIGTERM, "sleep 600\n", id="pre-empted"),
        pytest.param(128 + signal.SIGINT, "", id="interrupted"),
    ],
)
def test_what_follows_a_training(code: int, then: str, tmp_path: Path) -> None:
    words = ("configs/a.yaml", "OUTPUT_DIR", "output/my run")
    train = "srun --wait=60 python tools/train_net.py --resume --config-file " + " ".join(words)
    assert run(tmp_path, code, *words) == (code, f"{train}\n{then}")


def test_without_a_config(tmp_path: Path) -> None:
    assert run(tmp_path, 0) == (2, "")


def test_signals_are_those_that_a_training_saves_at() -> None:
    from d2_multitask.data.sampler import STOP_SIGNALS

    (asked,) = [line for line in SCRIPT.read_text().splitlines() if "#SBATCH --signal=" in line]
    name, seconds = asked.rpartition("=")[2].split("@")
    assert {f"SIG{name}", "SIGTERM"} <= {stop.name for stop in STOP_SIGNALS}
    assert int(seconds) >= 60


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck() -> None:
    done = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
