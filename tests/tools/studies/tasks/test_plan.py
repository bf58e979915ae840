from __future__ import annotations

from pathlib import Path

import pytest
import torch

from d2_multitask.config import load_config
from studies.tasks.plan import (
    TABLE_1_ROWS,
    Run,
    changed_settings,
    check_opts,
    config_rows,
    count_parameters,
    plan_runs,
    preset_rows,
    row_label,
)
from support import REPOSITORY

QUICK = REPOSITORY / "configs" / "quick"


@pytest.mark.parametrize(
    ("tasks", "label"),
    [
        (["seg"], "Only Seg"),
        (["det", "pose"], "Det+Pose"),
        (["part_seg", "det"], "Part seg+Det"),
        (["a", "b", "c", "d", "e"], "5 tasks"),
    ],
)
def test_labels_are_the_papers(tasks, label):
    assert row_label(tasks) == label


@pytest.mark.parametrize("preset", ["cpu", "coco"])
def test_presets_are_the_configs_of_their_tasks(preset):
    rows = preset_rows(preset)
    assert tuple(row.name for row in rows) == TABLE_1_ROWS
    for row in rows:
        assert tuple(load_config(row.config_file).MODEL.TASKS) == row.tasks


def test_chosen_rows_keep_their_places():
    assert [(r.name, r.position) for r in preset_rows("cpu", ["det_pose", "det"])] == [
        ("det", 1),
        ("det_pose", 5),
    ]


def test_unknown_row():
    with pytest.raises(ValueError, match="--rows: found pose_det, expected some of: seg, det"):
        preset_rows("cpu", ["det", "pose_det"])


def test_config_files_are_named_after_their_tasks():
    files = [str(QUICK / "mcn_seg_det.yaml"), str(QUICK / "mcn_pose.yaml")]
    rows = config_rows(files)
    assert [(r.name, r.label) for r in rows] == [("seg_det", "Seg+Det"), ("pose", "Only Pose")]


def test_masks_and_joints_of_an_rcnn_are_tasks():
    """Three of these files have the same MODEL.TASKS."""
    tasks = ("det", "mask", "pose", "boundary")
    files = ["quick/mask_rcnn_in_detail.yaml"]
    files += [f"quick/mask_rcnn_in_detail_{task}.yaml" for task in tasks]
    rows = config_rows(files)
    assert [(row.name, row.label) for row in rows] == [
        ("8_tasks", "8 tasks"),
        ("det", "Only Det"),
        ("det_mask", "Det+Mask"),
        ("det_pose", "Det+Pose"),
        ("boundary", "Only Boundary"),
    ]
    assert rows[0].tasks[:4] == ("det", "mask", "pose", "seg") and len(rows[0].tasks) == 8


def test_config_files_of_the_same_tasks_are_named_after_their_files(tmp_path):
    paths = []
    for name in ("wide", "narrow"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(f'_BASE_: "{QUICK}/mcn_seg.yaml"\n')
        paths.append(str(path))
    assert [(r.name, r.label) for r in config_rows(paths)] == [("wide",) * 2, ("narrow",) * 2]
    with pytest.raises(ValueError, match="several files of one name"):
        config_rows([paths[0], paths[0]])


def test_a_config_that_cannot_be_read_is_a_row_too(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("MODEL: {TASK: []}\n")
    (row,) = config_rows([str(path)])
    assert (row.name, row.tasks) == ("broken", ())
    check_opts([row], ["SOLVER.MAX_ITER", "5"])  # its training will say what is wrong


def test_first_all_rows_with_one_seed():
    runs = plan_runs(preset_rows("cpu", ["seg", "det"]), [3, 1, 3], Path("out"))
    assert [(r.row.name, r.seed) for r in runs] == [("seg", 3), ("det", 3), ("seg", 1), ("det", 1)]
    assert runs[0].folder == Path("out/seg/seed3")
    assert runs[0].own_opts == ["SEED", "3", "OUTPUT_DIR", "out/seg/seed3"]


@pytest.mark.parametrize("key", ["SEED", "OUTPUT_DIR", "MODEL.TASKS"])
def test_what_the_study_sets_itself_cannot_be_overridden(key):
    with pytest.raises(ValueError, match=f"found {key}, which a study sets itself"):
        check_opts(preset_rows("cpu"), ["SOLVER.MAX_ITER", "5", key, "1"])


def test_mistake_in_an_override():
    with pytest.raises(ValueError, match="did you mean SOLVER.MAX_ITER"):
        check_opts(preset_rows("cpu", ["seg"]), ["SOLVER.MAX_ITERS", "5"])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SOLVER.OPTIMIZER", "MAGIC", "Only Seg: SOLVER.OPTIMIZER: found 'MAGIC'"),
        ("MODEL.BACKBONE.NAME", "mine", "Only Seg: KeyError: .*'mine'"),
        ("LOGGERS", "('x',)", "Only Seg: LOGGERS: found 'x'"),
    ],
)
def test_a_network_that_cannot_be_trained(key, value, message):
    with pytest.raises(ValueError, match=message):
        check_opts(preset_rows("cpu", ["seg"]), [key, value])


def trained_run(folder: Path, opts: list[str]) -> Run:
    (run,) = plan_runs(preset_rows("cpu", ["seg"]), [1], folder)
    run.folder.mkdir(parents=True)
    cfg = load_config(run.row.config_file, [*opts, *run.own_opts])
    (run.folder / "config.yaml").write_text(cfg.dump())
    return run


def test_changed_settings_are_found(tmp_path):
    run = trained_run(tmp_path, ["SOLVER.MAX_ITER", "5"])
    assert changed_settings(run, ["SOLVER.MAX_ITER", "5"]) == []
    assert changed_settings(run, ["SOLVER.MAX_ITER", "6"]) == ["SOLVER.MAX_ITER: 5 -> 6"]
    same = ["SOLVER.MAX_ITER", "5", "DATALOADER.NUM_WORKERS", "3", "MODEL.DEVICE", "cuda"]
    assert changed_settings(run, same) == []


def test_nothing_to_compare_settings_with(tmp_path):
    (run,) = plan_runs(preset_rows("cpu", ["seg"]), [1], tmp_path)
    assert changed_settings(run, []) == []


def test_parameters_of_the_network_without_its_weights():
    cfg = load_config("quick/mcn_seg.yaml")
    cfg.MODEL.WEIGHTS = "detectron2://not/there.pkl"
    state = torch.get_rng_state()
    counted = count_parameters(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES += 3
    # Its last layer is a 1x1 convolution from 32 channels, with a bias.
    assert count_parameters(cfg) - counted == 3 * (32 + 1)
    assert cfg.MODEL.WEIGHTS == "detectron2://not/there.pkl"
    torch.set_rng_state(state)
