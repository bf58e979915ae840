"""Several processes of one run: where they come from, how they meet, agree and end.

Everybody else asks `detectron2.utils.comm` who it is. torchrun's variables come first, then Slurm's
(`d2_multitask.launchers`), then Detectron2's ``--num-gpus`` and ``--num-machines``. Processes talk
through NCCL on GPUs and through gloo elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from d2_multitask.engine.peers import Peers, what_died
from d2_multitask.engine.signals import passed_to_children
from d2_multitask.launchers import Place, place_of

# For the first meeting, and for a message; Detectron2's. A process that dies is noticed before.
MEETING, MESSAGE = timedelta(minutes=10), timedelta(minutes=30)
# For tools in which each process works through its share alone, however long that is.
SHARE = timedelta(days=30)

Work = Callable[[argparse.Namespace, "Run"], Any]


class Run:
    """All processes of a run, or the only one.

    Attributes:
        place: of this process; ``None`` if it is alone.
    """

    def __init__(self, place: Place | None = None, store: dist.Store | None = None) -> None:
        self.place = place
        self._store = store

    def start(self, device: str, settings: Mapping[str, Any], timeout: timedelta = MESSAGE) -> None:
        """Let the processes talk, once they agree. Alone it does nothing.

        Args:
            device: ``MODEL.DEVICE``, as it will be used.
            settings: all that must be the same in all processes; JSON can hold the values.
            timeout: the longest wait for a message of another process.

        Raises:
            ValueError: settings differ from those of rank 0, or the device is none for several
                processes.
        """
        if self.place is None:
            return
        place, kind = self.place, torch.device(device).type
        self._agree({"MODEL.DEVICE": kind, **settings})
        if kind == "cuda":
            torch.cuda.set_device(_gpu_of(place))
        elif kind != "cpu":
            raise ValueError(
                f"MODEL.DEVICE: found {device}, expected cuda or cpu for {place.world_size} "
                "processes"
            )
        dist.init_process_group(
            "nccl" if kind == "cuda" else "gloo",
            store=dist.PrefixStore("group", self._store),
            rank=place.rank,
            world_size=place.world_size,
            timeout=timeout,
        )
        comm.create_local_process_group(place.local_size)
        comm.synchronize()

    def _agree(self, settings: Mapping[str, Any]) -> None:
        """Raises ValueError where the settings are not those of rank 0; names the keys."""
        if self.place.rank == 0:
            self._store.set("settings", json.dumps(settings))
            return
        ours, of_main = json.loads(json.dumps(settings)), json.loads(self._store.get("settings"))
        keys = [k for k in {**of_main, **ours} if ours.get(k) != of_main.get(k)]
        if keys:
            shown = "; ".join(f"{k}: found {ours.get(k)!r}, {of_main.get(k)!r}" for k in keys[:8])
            raise ValueError(
                f"rank {self.place.rank} on {socket.gethostname()} has {len(keys)} other settings "
                f"than rank 0, expected the same in all processes (here, there): {shown}"
            )


def _gpu_of(place: Place) -> int:
    """The process's GPU; Slurm may show each process its own only."""
    gpus = torch.cuda.device_count()
    if gpus == 1 and place.started_by == "srun":
        return 0
    if gpus < place.local_size:
        raise ValueError(
            f"{place.started_by}: found {place.local_size} processes and {gpus} CUDA GPUs on "
            f"{socket.gethostname()}, expected at most one process for each"
        )
    return place.local_rank


def start(work: Work, args: argparse.Namespace, device: Callable[[], str]) -> int:
    """Run the work in this process, or in the processes that the command line asks for.

    Args:
        work: gets ``args`` and the run; calls `Run.start` before anything is shared.
        args: Detectron2's ``num_gpus``, ``num_machines``, ``machine_rank``, ``dist_url``.
        device: tells ``MODEL.DEVICE``; asked only if there are fewer GPUs than processes.

    Returns:
        The exit code.
    """
    try:
        place = place_of()
        _check_arguments(args, place, device)
    except ValueError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 2
    if place is not None or args.num_gpus * args.num_machines == 1:
        _run(work, args, place)
        return 0
    url = args.dist_url
    if url == "auto":
        url = f"tcp://127.0.0.1:{_free_port()}"
    try:
        with passed_to_children():
            mp.start_processes(_spawned, (work, args, url), args.num_gpus, start_method="spawn")
    except mp.ProcessExitedException as error:  # its process has said why, if it could
        if error.exit_code >= 0:
            return error.exit_code
        rank = args.machine_rank * args.num_gpus + error.error_index
        name = signal.Signals(-error.exit_code).name
        sys.stderr.write(f"{what_died(f'rank {rank}: it was ended by {name}')}\n")
        return 128 - error.exit_code
    return 0


def _check_arguments(
    args: argparse.Namespace, place: Place | None, device: Callable[[], str]
) -> None:
    """Raises ValueError where Detectron2's arguments cannot be meant."""
    asked, machines = args.num_gpus, args.num_machines
    if place is not None:
        there = (place.local_size, place.world_size // place.local_size)
        if (asked, machines) not in ((1, 1), there):
            raise ValueError(
                f"--num-gpus {asked} --num-machines {machines}: found under {place.started_by}, "
                f"which has started {there[0]} processes on each of {there[1]} machines; leave "
                "both options out"
            )
        return
    if asked < 1 or not 0 <= args.machine_rank < machines:
        raise ValueError(
            f"found --num-gpus {asked} --num-machines {machines} --machine-rank "
            f"{args.machine_rank}, expected at least one GPU, and ranks from 0"
        )
    automatic = args.dist_url == "auto" and machines == 1
    if asked * machines > 1 and not automatic and not args.dist_url.startswith("tcp://"):
        raise ValueError(
            f"--dist-url: found {args.dist_url}, expected tcp://HOST:PORT of machine 0; auto "
            "finds a port for one machine"
        )
    gpus, processors = torch.cuda.device_count(), os.cpu_count() or 1
    if asked > max(gpus, 1) and (device() != "cpu" or asked > max(processors, 2)):
        raise ValueError(
            f"--num-gpus {asked}: PyTorch finds {gpus} CUDA GPUs here; with MODEL.DEVICE cpu the "
            f"processes run on the {processors} processors"
        )


def _spawned(local_rank: int, work: Work, args: argparse.Namespace, url: str) -> None:
    """What `start` starts on one machine."""
    if not torch.cuda.is_available() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // args.num_gpus))
    rank = args.machine_rank * args.num_gpus + local_rank
    size = args.num_gpus * args.num_machines
    _run(work, args, Place(rank, size, local_rank, args.num_gpus, url, "--num-gpus"))


def in_this_process(work: Callable[[Run], int]) -> int:
    """Do the work of a tool, in one of the processes that torchrun or srun started, or alone.

    Raises:
        ValueError: as of `place_of`.
        SystemExit: as of `joined`.
    """
    place = place_of()
    rank = 0 if place is None else place.rank
    setup_logger(distributed_rank=rank, name="d2_multitask", abbrev_name="d2mt")
    with joined(place) as run:
        return work(run)


def _run(work: Work, args: argparse.Namespace, place: Place | None) -> None:
    with joined(place) as run:
        work(args, run)


@contextlib.contextmanager
def joined(place: Place | None) -> Iterator[Run]:
    """The run, as long as it lasts; see `d2_multitask.engine.peers` for how it may end.

    Raises:
        SystemExit: the others did not come, or one of them has died.
    """
    if place is None:
        yield Run()
        return
    store, peers = _meet(place)
    try:
        yield Run(place, store)
    except BaseException as error:
        _end(peers, place, error)
        raise
    peers.leave("")
    if dist.is_initialized():
        dist.destroy_process_group()


def _end(peers: Peers, place: Place, error: BaseException) -> None:
    """Tell the others why this process ends, unless it only ends because another one has."""
    code = error.code if isinstance(error, SystemExit) else None
    if isinstance(error, SystemExit) and not isinstance(code, str):
        peers.leave(f"exit code {code}" if code else "")
        return
    reason = code or f"{type(error).__name__}: {error}"
    # A mistake in config or files is every process's: rank 0 says it.
    mistake = code or isinstance(error, ValueError | OSError)
    if isinstance(error, RuntimeError) or (mistake and place.rank):
        news = peers.wait_for_news()
        if news.endswith(reason):
            raise SystemExit(1) from None
        if news:
            raise SystemExit(what_died(news)) from None
    peers.leave(reason)


def _meet(place: Place) -> tuple[dist.Store, Peers]:
    """A store that all processes of the run share, and news of them."""
    # torchrun keeps its store when it starts the processes again after a failure.
    attempt = f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    try:
        store, _, _ = next(rendezvous(place.url, place.rank, place.world_size, timeout=MEETING))
        store = dist.PrefixStore(attempt, store)
        return store, Peers(place, store, MEETING.total_seconds())
    except (RuntimeError, ValueError, OSError) as error:
        sys.exit(
            f"Error: {place.started_by}: rank {place.rank} has not met all {place.world_size} "
            f"processes at {place.url}: {str(error).splitlines()[0]}"
        )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def distributed(model: nn.Module) -> nn.Module:
    """The model, in several processes inside of DistributedDataParallel.

    PyTorch's batch norm over all processes ("SyncBN") runs on GPUs only; on processors it becomes
    Detectron2's, which takes every process's mean with the same weight.
    """
    if comm.get_world_size() == 1:
        return model
    on_gpu = next(model.parameters()).device.type == "cuda"
    if not on_gpu:
        for name, norm in list(model.named_modules()):
            if isinstance(norm, nn.SyncBatchNorm):
                model.set_submodule(name, _on_processors(norm))
    with warnings.catch_warnings():
        # PyTorch 2.14 has another name for it, which the versions before do not know.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers")
        return DistributedDataParallel(
            model,
            device_ids=[torch.cuda.current_device()] if on_gpu else None,
            broadcast_buffers=False,  # as Detectron2's; see hooks.average_statistics
        )


def _on_processors(norm: nn.SyncBatchNorm) -> NaiveSyncBatchNorm:
    """The same with the same parameters, which an optimizer may hold already."""
    result = NaiveSyncBatchNorm(norm.num_features, norm.eps, norm.momentum).train(norm.training)
    result._parameters, result._buffers = norm._parameters, norm._buffers
    return result
