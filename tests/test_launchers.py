"""Which process of how many: as torchrun and Slurm set their variables."""

from __future__ import annotations

import pytest

from d2_multitask.launchers import Place, first_host, place_of

TORCHRUN = {
    **{"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"},
    **{"MASTER_ADDR": "big1", "MASTER_PORT": "29500"},
}
SLURM = {
    **{"SLURM_JOB_ID": "100", "SLURM_STEP_ID": "2", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"},
    **{"SLURM_NTASKS": "16", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NODELIST": "gpu[03-05,9]"},
    **{"SLURM_JOB_NODELIST": "gpu[01-09]", "SLURM_STEP_TASKS_PER_NODE": "2(x4)"},
}


def test_torchrun():
    assert place_of(TORCHRUN) == Place(3, 4, 1, 2, "tcp://big1:29500", "torchrun")
    assert place_of({**SLURM, **TORCHRUN}).started_by == "torchrun"  # torchrun on Slurm's nodes


def test_slurm():
    place = place_of(SLURM)
    assert (place.rank, place.world_size, place.local_rank, place.local_size) == (5, 8, 1, 2)
    assert place.url == f"tcp://gpu03:{15000 + 17 * 100 + 2}"
    mine = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "7"}
    assert place_of({**SLURM, **mine}).url == "tcp://10.0.0.1:7"


def test_one_process():
    assert place_of({}) is None
    assert place_of({"MASTER_ADDR": "big1", "MASTER_PORT": "1"}) is None
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    assert place_of({**TORCHRUN, **alone}) is None
    assert place_of({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}) is None  # srun --pty bash


def test_a_batch_script_without_srun_is_one_process_and_says_so(caplog):
    batch = {k: v for k, v in SLURM.items() if "STEP" not in k} | {"SLURM_PROCID": "0"}
    assert place_of(batch) is None
    assert "write srun before the command" in caplog.text


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"RANK": "1"}, "found RANK=1 without WORLD_SIZE, LOCAL_RANK"),
        ({"WORLD_SIZE": "2"}, "without RANK"),
        ({**TORCHRUN, "MASTER_ADDR": ""}, "without MASTER_ADDR"),
        ({**TORCHRUN, "RANK": "x"}, "RANK: found 'x', expected a number"),
        ({**TORCHRUN, "RANK": "4"}, "process 4 of 4"),
        ({**TORCHRUN, "WORLD_SIZE": "5"}, "of 5, on its machine 1 of 2"),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "0"}, "on its machine 1 of 0"),
        ({**SLURM, "SLURM_LOCALID": ""}, "SLURM_PROCID=5 without SLURM_LOCALID"),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "2(x3),1"}, "expected the same number of tasks"),
        ({**SLURM, "SLURM_LOCALID": "0"}, "--distribution=block"),
    ],
)
def test_incomplete_or_contradicting(environment, said):
    with pytest.raises(ValueError, match=r"found") as error:
        place_of(environment)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("big1", "big1"),
        ("big1,big2", "big1"),
        ("gpu[03-05,9],big1", "gpu03"),
        ("a[7]-ib,b", "a7-ib"),
        ("r[1-2]n[05-06]", "r1n05"),
    ],
)
def test_first_host(nodes, first):
    assert first_host(nodes) == first
