"""Which process of how many this one is: what torchrun and Slurm's srun say; without PyTorch."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

logger = logging.getLogger(__name__)

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# A machine may always have the two of the address: they do not say that torchrun was there.
_SAYS_TORCHRUN = _TORCHRUN[:4]


@dataclass(frozen=True)
class Place:
    """The place of this process in a run of several.

    Attributes:
        rank: from 0, over all machines; 0 is the main process, which writes what there is once.
        world_size: processes of the run.
        local_rank: from 0, on this machine; the number of its GPU.
        local_size: processes on this machine, the same on each.
        url: where the processes meet, ``tcp://host:port`` of rank 0.
        started_by: for messages.
    """

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    url: str
    started_by: str

    def __post_init__(self) -> None:
        """Refuse numbers that contradict each other.

        Raises:
            ValueError: see above.
        """
        per_machine, rest = divmod(self.world_size, max(self.local_size, 1))
        if not (
            0 <= self.local_rank < self.local_size
            and self.rank % self.local_size == self.local_rank
            and self.rank // self.local_size < per_machine
            and not rest
        ):
            raise ValueError(
                f"{self.started_by}: found process {self.rank} of {self.world_size}, on its "
                f"machine {self.local_rank} of {self.local_size}, expected the same number of "
                "processes on each machine, counted machine by machine (srun: "
                "--ntasks-per-node N --distribution=block)"
            )


def place_of(environment: Mapping[str, str] = os.environ) -> Place | None:
    """The place that torchrun's variables give, or else Slurm's.

    Returns:
        ``None`` for a process that neither has started, or that is the only one.

    Raises:
        ValueError: variables are missing, are no numbers, or contradict each other.
    """
    place = _of_torchrun(environment) or _of_slurm(environment)
    return place if place is not None and place.world_size > 1 else None


def _of_torchrun(environment: Mapping[str, str]) -> Place | None:
    found = {name: environment[name] for name in _TORCHRUN if environment.get(name)}
    if not any(name in found for name in _SAYS_TORCHRUN):
        return None
    missing = [name for name in _TORCHRUN if name not in found]
    if missing:
        given = ", ".join(f"{name}={value}" for name, value in found.items())
        raise ValueError(
            f"environment: found {given} without {', '.join(missing)}, expected all that torchrun "
            "sets. Type torchrun --nproc-per-node N tools/train_net.py ...; for one process: "
            f"env {' '.join(f'-u {name}' for name in found if name in _SAYS_TORCHRUN)} python ..."
        )
    numbers = [_number(found, name) for name in _SAYS_TORCHRUN]
    url = f"tcp://{found['MASTER_ADDR']}:{_number(found, 'MASTER_PORT')}"
    return Place(*numbers, url, "torchrun")


def _of_slurm(environment: Mapping[str, str]) -> Place | None:
    """Slurm also sets most of its variables where no srun has started the process."""
    if "SLURM_PROCID" not in environment or "SLURM_STEP_ID" not in environment:
        tasks = environment.get("SLURM_NTASKS", "1")
        if tasks != "1" and "SLURM_PROCID" in environment:
            logger.warning(
                "Slurm has %s tasks for this job, but this is one process: write srun before the "
                "command to start them all.",
                tasks,
            )
        return None
    step = {**environment}
    for name, of_step in (
        ("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"),
        ("SLURM_JOB_NODELIST", "SLURM_STEP_NODELIST"),
        ("SLURM_TASKS_PER_NODE", "SLURM_STEP_TASKS_PER_NODE"),
    ):
        step[name] = environment.get(of_step) or environment.get(name, "")
    if step["SLURM_NTASKS"] == "1":
        return None
    needed = ("SLURM_NTASKS", "SLURM_LOCALID", "SLURM_JOB_NODELIST", "SLURM_TASKS_PER_NODE")
    missing = [name for name in needed if not step.get(name)]
    if missing:
        raise ValueError(
            f"environment: found SLURM_PROCID={step['SLURM_PROCID']} without "
            f"{', '.join(missing)}, expected all that srun sets: start with srun"
        )
    per_machine = re.fullmatch(r"(\d+)(\(x\d+\))?", step["SLURM_TASKS_PER_NODE"])
    if per_machine is None:
        raise ValueError(
            f"SLURM_TASKS_PER_NODE: found {step['SLURM_TASKS_PER_NODE']}, expected the same number "
            "of tasks on each machine: srun --ntasks-per-node N"
        )
    rank, size, local = (
        _number(step, name) for name in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
    )
    host = environment.get("MASTER_ADDR") or first_host(step["SLURM_JOB_NODELIST"])
    port = environment.get("MASTER_PORT") or _port_of_step(step)
    return Place(rank, size, local, int(per_machine[1]), f"tcp://{host}:{port}", "srun")


def _port_of_step(step: Mapping[str, str]) -> int:
    """The same in all processes of a step, seldom that of another step; below Linux' own ports."""
    return 15000 + (17 * _number(step, "SLURM_JOB_ID") + _number(step, "SLURM_STEP_ID")) % 17000


def first_host(nodes: str) -> str:
    """The first machine of Slurm's list: ``gpu[03-05,9],big1`` -> ``gpu03``."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0] if first else nodes)


def _number(variables: Mapping[str, str], name: str) -> int:
    try:
        return int(variables[name])
    except (KeyError, ValueError):
        raise ValueError(
            f"{name}: found {variables.get(name)!r}, expected a number, as torchrun and srun set it"
        ) from None
