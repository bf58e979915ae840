"""A training that is killed and resumed, again and again, ends with the uninterrupted one's bits.

``D2_MULTITASK_KILLS=200 pytest tests/engine/test_kill.py`` kills more often; one in five of the
kills is aimed at the writing of a file.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from detectron2.utils.env import seed_all_rng

from d2_multitask.checkpoint import read_checkpoint
from d2_multitask.engine.trainer import MultitaskTrainer
from engine_support import registered_people, tiny_cfg

KILLS = int(os.environ.get("D2_MULTITASK_KILLS", "10"))
SAVES = 8  # at most, between two kills
STEPS = 4 * SAVES * KILLS  # twice as many as that, as the killer may be late


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kill")
    with registered_people(folder, num_images=5) as name:
        yield name


def train(people: str, folder: Path, workers: int) -> None:
    os.setpgid(0, 0)  # the workers of a killed training are killed with it
    torch.set_num_threads(1)
    cfg = tiny_cfg(
        people,
        folder,
        DATASETS__TEST=(),
        SOLVER__MAX_ITER=STEPS,
        SOLVER__CHECKPOINT_PERIOD=2,
        DATALOADER__NUM_WORKERS=workers,
        SOLVER__EMA__ENABLED=True,
    )
    seed_all_rng(cfg.SEED)
    trainer = MultitaskTrainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()


def kill(process: multiprocessing.Process, folder: Path, draw: random.Random, aimed: bool) -> None:
    """After some checkpoints and a moment, or while a file is written."""
    tag = folder / "last_checkpoint"
    saves = draw.randint(int(aimed), SAVES)  # the first removes what an earlier kill left
    moment = draw.uniform(0, 0.01 if saves else 0.3)
    last = read(tag)
    while process.is_alive() and saves:
        if last != (last := read(tag)):
            saves -= 1
        time.sleep(0.0005)
    if not aimed:
        time.sleep(moment)
    while aimed and process.is_alive() and not halted_while_writing(process, folder):
        time.sleep(0.0005)
    os.killpg(process.pid, signal.SIGKILL)
    process.join()


def read(tag: Path) -> str:
    return tag.read_text() if tag.is_file() else ""


def halted_while_writing(process: multiprocessing.Process, folder: Path) -> bool:
    """Whether a file is half written and stays so, as the process is halted; else it goes on."""
    if not any(folder.glob("*.part")):
        return False
    os.kill(process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    if any(folder.glob("*.part")):
        return True
    os.kill(process.pid, signal.SIGCONT)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_training_equals_the_uninterrupted_one(people, tmp_path, workers):
    fork = multiprocessing.get_context("fork")
    draw = random.Random(workers)
    folder = tmp_path / "parts"
    folder.mkdir()

    def start(where: Path) -> multiprocessing.Process:
        process = fork.Process(target=train, args=(people, where, workers))
        process.start()
        os.setpgid(process.pid, process.pid)  # it may be killed before it does so itself
        return process

    for number in range(KILLS):
        process = start(folder)
        aimed = number % 5 == 0
        kill(process, folder, draw, aimed)
        assert process.exitcode == -signal.SIGKILL
        assert any(folder.glob("*.part")) or not aimed
        for path in folder.glob("*.pth"):
            read_checkpoint(str(path))  # none is broken under its final name
    for where in (folder, tmp_path / "whole"):
        process = start(where)
        process.join()
        assert process.exitcode == 0
    whole, parts = (
        torch.load(tmp_path / where / "model_final.pth", weights_only=True)
        for where in ("whole", "parts")
    )
    for found, expected in ((parts, whole), (parts["ema"], whole["ema"])):
        assert found["model"].keys() == expected["model"].keys()
        for name, value in expected["model"].items():
            assert torch.equal(found["model"][name], value), name
