from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.engine.hooks import CallbackHook
from detectron2.utils import comm

from d2_multitask.data.datasets.coco import register_coco_format
from d2_multitask.data.folder_lock import is_alive
from d2_multitask.data.sampler import STOP_SIGNALS
from d2_multitask.engine import signals
from d2_multitask.engine.signals import StopOnSignal, passed_to_children
from d2_multitask.engine.trainer import MultitaskTrainer
from engine_support import tiny_cfg, write_people


def hook_with_trainer():
    saved = []
    checkpointer = SimpleNamespace(
        save=lambda name, **more: saved.append((name, more)), save_dir="."
    )
    hook = StopOnSignal()
    hook.trainer = SimpleNamespace(iter=7, checkpointer=checkpointer)
    return hook, saved


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_first_signal_saves_and_exits_with_its_code(number):
    before = signal.getsignal(number)
    hook, saved = hook_with_trainer()
    with hook.installed():
        hook.after_step()
        os.kill(os.getpid(), number)
        assert not saved  # the step goes on
        with pytest.raises(SystemExit) as stop:
            hook.after_step()
    assert stop.value.code == 128 + number
    assert saved == [("model_0000007", {"iteration": 7})]
    assert signal.getsignal(number) is before


def test_second_signal_exits_at_once(monkeypatch):
    codes = []
    monkeypatch.setattr(signals.os, "_exit", codes.append)
    hook, _ = hook_with_trainer()
    with hook.installed():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert not codes  # the same one, from the terminal and from the parent
        os.kill(os.getpid(), signal.SIGTERM)
    assert codes == [128 + signal.SIGTERM]


def test_a_signal_of_another_process_stops_this_one(monkeypatch):
    monkeypatch.setattr(signals, "_largest_of_all", lambda number: int(signal.SIGUSR1))
    hook, saved = hook_with_trainer()
    with pytest.raises(SystemExit) as stop:
        hook.after_step()
    assert stop.value.code == 128 + signal.SIGUSR1 and saved


def train_in_a_process(rank: int, folder: str, people: str, world_size: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=world_size)
    comm.create_local_process_group(world_size)
    register_coco_format("people_of_signals", f"{people}/people.json", people)
    cfg = tiny_cfg("people_of_signals", Path(folder, "out"), SOLVER__MAX_ITER=100_000)
    cfg.DATASETS.TEST = ()
    cfg.DATALOADER.NUM_WORKERS = 1
    trainer = MultitaskTrainer(cfg)

    def ready() -> None:
        if trainer.iter == 3:
            Path(folder, f"ready_{rank}").write_text(str(os.getpid()))

    trainer.register_hooks([CallbackHook(after_step=lambda _: ready())])
    trainer.train()


def parent_of_two(folder: str, people: str) -> None:
    """What tools/train_net.py does."""
    os.setpgid(0, 0)
    try:
        with passed_to_children():
            mp.spawn(train_in_a_process, (folder, people, 2), nprocs=2)
    except mp.ProcessExitedException as error:
        os._exit(error.exit_code)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["main rank", "other rank", "parent", "group"])
def test_one_signal_stops_all_processes_after_one_checkpoint(target, tmp_path):
    people = write_people(tmp_path / "people").parent
    parent = multiprocessing.get_context("spawn").Process(
        target=parent_of_two, args=(str(tmp_path), str(people))
    )
    parent.start()
    files = [tmp_path / f"ready_{rank}" for rank in range(2)]
    end = time.monotonic() + 120
    while not all(file.is_file() and file.read_text() for file in files):
        assert parent.is_alive() and time.monotonic() < end
        time.sleep(0.1)
    ranks = [int(file.read_text()) for file in files]
    workers = [pid for rank in ranks for pid in children_of(rank)]
    assert len(workers) >= 2
    if target == "group":
        os.killpg(parent.pid, signal.SIGTERM)
    else:
        pids = {"main rank": ranks[0], "other rank": ranks[1], "parent": parent.pid}
        os.kill(pids[target], signal.SIGTERM)
    parent.join(30)
    assert parent.exitcode == 128 + signal.SIGTERM
    saved = list((tmp_path / "out").glob("*.pth"))
    assert len(saved) == 1
    assert "iteration" in torch.load(saved[0], weights_only=False)
    end = time.monotonic() + 15
    while any(is_alive(pid) for pid in [*ranks, *workers]):
        assert time.monotonic() < end
        time.sleep(0.1)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
