"""Means, spreads and differences, against numbers worked out by hand."""

from __future__ import annotations

import json

import pytest

from comparison_support import finished, row, study_rows
from d2_multitask.data.folder_lock import FolderLock
from studies.tasks.columns import TABLE_1, Column
from studies.tasks.plan import plan_runs, preset_rows
from studies.tasks.record import State, new_record
from studies.tasks.reference import paper_rows
from studies.tasks.summary import (
    RowResult,
    RunResult,
    Summary,
    baseline_of,
    collect,
    common_setting,
    difference,
    problems,
    share_of_singles,
    summarize,
    with_planned,
)

IOU, BOX_AP, BOX_AP50, KEYPOINT_AP, _ = TABLE_1


def test_mean_and_spread():
    # Squares of the distances from 4: 4, 0, 4; 8 / (3 - 1) = 4; its root is 2.
    assert summarize([2.0, 4.0, 6.0]) == Summary(4.0, 2.0, 3)
    assert summarize([5.0]) == Summary(5.0, None, 1)
    assert summarize([]) is None


def test_difference_is_taken_seed_by_seed():
    single = row("det", finished(1, {BOX_AP: 40.0}), finished(2, {BOX_AP: 50.0}))
    joint = row("det_pose", finished(1, {BOX_AP: 39.0}), finished(2, {BOX_AP: 47.0}))
    # -1 and -3: mean -2; squares 1, 1; 2 / 1; root 1.414. The rows themselves spread by 5 and more.
    found = difference(joint, single, BOX_AP)
    assert (found.mean, found.count) == (-2.0, 2)
    assert found.spread == pytest.approx(1.41421356)


def test_difference_of_the_seeds_that_both_have():
    single = row("det", finished(1, {BOX_AP: 40.0}), RunResult(2, State.FAILED))
    joint = row("det_pose", finished(2, {BOX_AP: 1.0}), finished(1, {BOX_AP: 41.5}))
    assert difference(joint, single, BOX_AP) == Summary(1.5, None, 1)
    assert difference(single, single, BOX_AP) is None
    assert difference(joint, None, BOX_AP) is None
    assert difference(joint, single, IOU) is None


def test_baseline_is_the_network_for_the_task_alone_or_the_one_named():
    rows = study_rows()
    assert baseline_of(rows, IOU).name == "seg"
    assert baseline_of(rows, KEYPOINT_AP) is None
    assert baseline_of(rows, BOX_AP, "seg_det").name == "seg_det"
    twice = [row("det"), row("det")]
    assert baseline_of(twice, BOX_AP) is None


def test_joint_network_against_its_single_ones_together():
    rows = [
        row("seg", finished(1, {}, seconds=60.0, parameters=100)),
        row("det", finished(1, {}, seconds=180.0, parameters=300)),
        row("seg_det", finished(1, {}, seconds=120.0, parameters=300)),
        row("det_pose", finished(1, {}, seconds=120.0, parameters=300)),
    ]
    assert share_of_singles(rows[2], rows) == {"parameters": 0.75, "minutes": 0.5}
    assert share_of_singles(rows[3], rows) == {"parameters": None, "minutes": None}
    assert share_of_singles(rows[0], rows) == {}


MASK_AP = Column("mask AP", "segm", "AP", "mask")


def rcnn_row(*tasks, **values):
    name = "_".join(tasks)
    return RowResult(name, name, tasks, "", 0, [finished(1, {}, **values)])


def test_masks_are_never_alone():
    """det 100, det_mask 150, det_pose 250, seg 50; together all but det are needed: 450."""
    rows = [
        rcnn_row("det", seconds=60.0, parameters=100),
        rcnn_row("det", "mask", seconds=120.0, parameters=150),
        rcnn_row("det", "pose", seconds=120.0, parameters=250),
        rcnn_row("seg", seconds=60.0, parameters=50),
        rcnn_row("det", "mask", "pose", "seg", seconds=150.0, parameters=360),
    ]
    assert baseline_of(rows, MASK_AP) is rows[1]
    assert baseline_of(rows, KEYPOINT_AP) is rows[2]
    assert baseline_of(rows, BOX_AP) is rows[0]
    assert baseline_of([*rows[:4], rows[1]], MASK_AP) is None
    assert share_of_singles(rows[4], rows) == {"parameters": 0.8, "minutes": 0.5}
    assert share_of_singles(rows[1], rows) == {"parameters": None, "minutes": None}


def test_paper_loses_detection_to_pose():
    paper = {row.label: row for row in paper_rows()}
    lost = difference(paper["Seg+Det+Pose"], paper["Only Det"], BOX_AP)
    assert lost.mean == pytest.approx(-3.0)
    assert "Only Pose" not in paper


def test_problems_name_run_and_reason():
    rows = [
        row("seg", finished(1, {IOU: 1.0}), RunResult(2, State.DIVERGED, "loss_seg = nan")),
        row("det", finished(1, {BOX_AP: 1.0, BOX_AP50: None}), RunResult(2, State.PLANNED)),
    ]
    columns = (IOU, BOX_AP, BOX_AP50)
    expected = [
        "Only Seg, seed 2: diverged: loss_seg = nan",
        "Only Det, seed 1: no box AP50: the evaluation data has no labels for it",
        "Only Det, seed 2: not run yet",
    ]
    assert problems(rows, columns) == expected
    assert problems(rows, columns, asked={("det", 2), ("seg", 1)}) == expected[2:]


def test_common_setting_and_what_differs():
    rows = [
        row("seg", finished(1, {}, setting={"iterations": "5", "images a batch": "2"})),
        row("det", finished(1, {}, setting={"iterations": "6", "images a batch": "2"})),
    ]
    assert common_setting(rows) == ({"images a batch": "2"}, ["iterations"])
    assert common_setting([]) == ({}, [])


@pytest.fixture
def output(tmp_path):
    """A folder with a finished, a killed and a failed run, written in another order."""
    runs = plan_runs(preset_rows("cpu", ["seg", "det"]), [2, 1], tmp_path)
    states = (State.FINISHED, State.RUNNING, State.FAILED)
    for run, state in zip(runs[:3], states, strict=True):
        record = new_record(run)
        record.state, record.parameters = state, 7
        run.folder.mkdir(parents=True)
        record.write(run.folder)
    (runs[0].folder / "results.json").write_text(json.dumps({"sem_seg": {"IoU-person": 50.0}}))
    (runs[0].folder / "metrics.json").write_text(json.dumps({"iteration": 119, "time": 0.5}))
    return tmp_path


def test_collects_what_is_there(output):
    seg, det = collect(output)
    assert [(run.seed, run.state) for run in seg.runs] == [(1, State.FAILED), (2, State.FINISHED)]
    assert seg.summary(IOU) == Summary(50.0, None, 1)
    assert seg.minutes == Summary(1.0, None, 1)
    assert seg.parameters == 7
    assert (det.runs[0].state, det.runs[0].reason) == (State.INTERRUPTED, "its process was killed")


def test_a_run_in_other_hands_is_running(output):
    with FolderLock(output / "det" / "seed2"):
        (det,) = collect(output, rows=["det"])
    assert det.runs[0].state is State.RUNNING


def test_collects_the_seeds_asked_for(output):
    (seg,) = collect(output, seeds=[1])
    assert [run.seed for run in seg.runs] == [1]


def test_planned_runs_appear_in_their_places(output):
    plan = plan_runs(preset_rows("cpu", ["seg", "det", "pose"]), [1, 2], output)
    rows = with_planned(collect(output), plan)
    assert [row.name for row in rows] == ["seg", "det", "pose"]
    assert [run.state for run in rows[1].runs] == [State.PLANNED, State.INTERRUPTED]
    assert [run.state for run in rows[0].runs] == [State.FAILED, State.FINISHED]


def test_damaged_results_are_named(output):
    (output / "seg" / "seed2" / "results.json").write_text("{")
    with pytest.raises(ValueError, match=r"seed2.results\.json: found"):
        collect(output)
