"""Processes that meet, agree and notice how the others end."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import nn

from d2_multitask.engine import peers, processes
from d2_multitask.engine.processes import Run, distributed, joined
from d2_multitask.launchers import Place

Work = Callable[[int, Run], Any]


def run_in(folder: Path, number: int, work: Work) -> list[tuple[int, str]]:
    """Exit code and stderr of processes that do a work; forked, which needs no second import."""
    url = f"tcp://127.0.0.1:{processes._free_port()}"
    context = multiprocessing.get_context("fork")
    files = [folder / f"{rank}.txt" for rank in range(number)]
    started = [
        context.Process(target=_one, args=(Place(r, number, r, number, url, "test"), file, work))
        for r, file in enumerate(files)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
        assert process.exitcode is not None
    return [(p.exitcode, f.read_text()) for p, f in zip(started, files, strict=True)]


def _one(place: Place, file: Path, work: Work) -> None:
    torch.set_num_threads(1)
    sys.stderr = file.open("w")
    with joined(place) as run:
        work(place.rank, run)


def sum_of_ranks(rank: int) -> int:
    number = torch.tensor([rank + 1])
    dist.all_reduce(number)
    return int(number)


def test_processes_meet(tmp_path):
    def work(rank: int, run: Run) -> None:
        run.start("cpu", {"A": (1, 2)})
        assert (comm.get_rank(), comm.get_world_size(), comm.get_local_rank()) == (rank, 3, rank)
        assert sum_of_ranks(rank) == 6

    assert [code for code, _ in run_in(tmp_path, 3, work)] == [0, 0, 0]


def test_other_settings_are_named_in_all_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "GRACE", 0.5)

    def work(rank: int, run: Run) -> None:
        settings = {"SOLVER.BASE_LR": 0.1 + 0.2 * (rank == 1), "SEED": 1}
        try:
            run.start("cpu", settings)
        except ValueError as error:
            sys.exit(f"Error: {error}")

    (main, of_main), (other, of_other) = run_in(tmp_path, 2, work)
    assert main == other == 1
    for text in (of_main, of_other):
        assert "rank 1 on" in text and "has 1 other settings than rank 0" in text
    assert "SOLVER.BASE_LR: found 0.30000000000000004, 0.1" in of_main


def dies(rank: int, how: Callable[[], None]) -> None:
    sum_of_ranks(rank)
    if rank == 1:
        how()
    while True:
        sum_of_ranks(rank)


def test_a_process_that_is_killed_ends_the_others(tmp_path):
    def work(rank: int, run: Run) -> None:
        run.start("cpu", {})
        dies(rank, lambda: os.kill(os.getpid(), signal.SIGKILL))

    start = time.monotonic()
    main, killed, third = run_in(tmp_path, 3, work)
    assert killed[0] == -signal.SIGKILL
    for code, text in (main, third):
        assert code == 1 and "Traceback" not in text
        assert "rank 1 of" in text and "ended without a message: killed" in text
        assert "go on with --resume" in text
    assert time.monotonic() - start < 60


def test_a_process_that_fails_says_why(tmp_path):
    def fail() -> None:
        raise FloatingPointError("loss_det_wh = nan")

    def work(rank: int, run: Run) -> None:
        run.start("cpu", {})
        dies(rank, fail)

    (main, of_main), (_, of_other) = run_in(tmp_path, 2, work)
    assert main == 1
    assert "rank 1 of" in of_main and "FloatingPointError: loss_det_wh = nan" in of_main
    assert "Traceback" not in of_main and "Traceback" in of_other


def test_a_process_that_waits_for_a_message_that_never_comes_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "GRACE", 0.5)

    def work(rank: int, run: Run) -> None:
        if rank == 1:
            sys.exit("Error: no space left")
        time.sleep(600)

    (main, of_main), _ = run_in(tmp_path, 2, work)
    assert main == 1 and "Error: no space left" in of_main


def test_a_mistake_of_all_is_said_once(tmp_path):
    def work(rank: int, run: Run) -> None:
        sys.exit("Error: the config")

    (main, of_main), (other, of_other) = run_in(tmp_path, 2, work)
    assert main == other == 1
    assert "Error: the config" in of_main and of_other == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"num_gpus": 3}, "--num-gpus 3: PyTorch finds"),
        ({"num_gpus": 0}, "expected at least one GPU"),
        ({"num_machines": 2, "machine_rank": 2}, "--machine-rank 2"),
        ({"num_machines": 2, "dist_url": "auto"}, "expected tcp://HOST:PORT"),
    ],
)
def test_arguments_that_cannot_be_meant(words, said, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    given = {"num_gpus": 1, "num_machines": 1, "machine_rank": 0, "dist_url": "tcp://a:1", **words}
    args = argparse.Namespace(**given)
    assert processes.start(lambda *_: None, args, lambda: "cuda") == 2
    assert said in capsys.readouterr().err


def test_num_gpus_under_torchrun(monkeypatch, capsys):
    place = Place(0, 2, 0, 2, "tcp://a:1", "torchrun")
    monkeypatch.setattr(processes, "place_of", lambda: place)
    args = argparse.Namespace(num_gpus=4, num_machines=1, machine_rank=0, dist_url="auto")
    assert processes.start(lambda *_: None, args, lambda: "cpu") == 2
    assert "found under torchrun, which has started 2 processes" in capsys.readouterr().err


def test_gpus_of_processes(monkeypatch):
    place = Place(1, 2, 1, 2, "tcp://a:1", "torchrun")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert processes._gpu_of(place) == 1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="found 2 processes and 1 CUDA GPUs"):
        processes._gpu_of(place)
    # Slurm may show each process its own GPU only.
    assert processes._gpu_of(Place(1, 2, 1, 2, "tcp://a:1", "srun")) == 0


def network(norm: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm(4), nn.ReLU(), nn.Conv2d(4, 2, 1))


def images() -> torch.Tensor:
    scale = torch.tensor([1.0, 2, 3, 4])[:, None, None, None]
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * scale


def gradients(model: nn.Module, batch: torch.Tensor) -> dict[str, torch.Tensor]:
    model(batch).square().mean().backward()
    named = {name.removeprefix("module."): p.grad for name, p in model.named_parameters()}
    return {**named, **{k.removeprefix("module."): v for k, v in model.named_buffers()}}


def test_sync_batch_norm_without_gpus_is_that_of_one_process(tmp_path):
    def work(rank: int, run: Run) -> None:
        run.start("cpu", {})
        model = distributed(network(nn.SyncBatchNorm))
        found = gradients(model, images()[2 * rank : 2 * rank + 2])
        for name, value in gradients(network(nn.BatchNorm2d), images()).items():
            if "num_batches" not in name and "running_var" not in name:  # that one is unbiased
                torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)

    assert [code for code, _ in run_in(tmp_path, 2, work)] == [0, 0]
