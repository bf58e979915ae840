"""tools/compare_tasks.py: its options with a fake training, and once with real ones."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import REPOSITORY
from synthetic.people import write_synthetic_people
from tool_support import load_tool, run_tool

# Leaves what a training leaves; the pose network fails.
FAKE_TRAIN_NET = """
import json, pathlib, sys
words = sys.argv
config, seed = (words[words.index(word) + 1] for word in ("--config-file", "SEED"))
folder = pathlib.Path(words[words.index("OUTPUT_DIR") + 1])
open(folder / "calls", "a").write("x")
if config.endswith("mcn_pose.yaml"):
    sys.exit("Error: the dataset has no keypoints")
results = {"bbox": {"AP": 40.0 + int(seed), "AP50": 80.0}, "sem_seg": {"IoU-person": 70.0}}
tasks = {"det": "bbox", "seg": "sem_seg"}
kept = {key: results[key] for task, key in tasks.items() if task in config}
(folder / "results.json").write_text(json.dumps(kept))
(folder / "metrics.json").write_text(json.dumps({"iteration": 599, "time": 0.1}))
(folder / "model_final.pth").touch()
"""


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """The tool as a function of its arguments, below ``tmp_path``; its trainings are fakes."""
    tool = load_tool("compare_tasks.py")
    fake = tmp_path / "train_net.py"
    fake.write_text(FAKE_TRAIN_NET)
    monkeypatch.setattr(tool, "TRAIN_NET", fake)
    monkeypatch.setattr(tool.sys, "executable", sys.executable)
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)
    yield lambda *words: tool.main([*words])
    signal.signal(signal.SIGTERM, handler)


def table(folder: Path) -> dict:
    return json.loads((folder / "table.json").read_text())


def test_table_in_three_forms(compare, tmp_path, capsys):
    words = ("--preset", "cpu", "--rows", "det", "seg_det", "--seeds", "1", "3", "--reference")
    assert compare(*words, "SOLVER.MAX_ITER", "600") == 0
    folder = tmp_path / "output" / "compare_tasks"
    assert {p.name for p in folder.iterdir() if p.is_file()} == {
        "table.md",
        "table.json",
        "table.png",
    }
    printed = capsys.readouterr().out
    assert "[4/4] Seg+Det, seed 3: finished after" in printed
    assert (folder / "table.md").read_text() in printed
    assert "python tools/compare_tasks.py --preset cpu --rows det seg_det" in printed
    det, joint = table(folder)["rows"]
    # 41 and 43: mean 42, spread sqrt(2).
    assert det["values"]["bbox/AP"]["mean"] == 42.0
    assert det["values"]["bbox/AP"]["spread"] == pytest.approx(2**0.5)
    assert det["minutes"]["mean"] == pytest.approx(1.0)
    assert joint["differences"]["bbox/AP"] == {"mean": 0.0, "spread": 0.0, "count": 2}


def test_failed_row_shows_and_decides_the_exit_code(compare, tmp_path, capsys):
    words = ("--preset", "cpu", "--output", "out", "--rows")
    assert compare(*words, "det", "pose") == 1
    captured = capsys.readouterr()
    assert "- Only Pose, seed 1: failed: the dataset has no keypoints" in captured.out
    assert "1 results are missing" in captured.err
    assert compare(*words, "det") == 0  # the row that was asked for is there, and is not repeated
    assert (tmp_path / "out" / "det" / "seed1" / "calls").read_text() == "x"
    assert [row["name"] for row in table(tmp_path / "out")["rows"]] == ["det", "pose"]


def test_collecting_trains_nothing(compare, tmp_path, capsys):
    words = ("--output", "out", "--collect-only")
    assert compare("--preset", "cpu", "--rows", "det", "pose", *words[:2]) == 1
    assert compare(*words) == 1
    assert compare(*words, "--rows", "det", "--metrics", "bbox/AP") == 0
    assert [column["name"] for column in table(tmp_path / "out")["columns"]] == ["bbox/AP"]
    assert compare(*words, "--rows", "det", "--metrics", "bbox/AP51") == 1
    (problem,) = table(tmp_path / "out")["not_complete"]
    assert problem == "bbox/AP51: found in no results, expected some of: bbox/AP, bbox/AP50"
    assert compare(*words, "--seeds", "7") == 2
    assert "expected det/seed1, pose/seed1" in capsys.readouterr().err
    assert compare(*words, "--preset", "cpu") == 1
    states = {row["name"]: row["seeds"]["1"]["state"] for row in table(tmp_path / "out")["rows"]}
    assert len(states) == 7
    assert (states["det"], states["pose"], states["seg"]) == ("finished", "failed", "not run yet")
    assert not (tmp_path / "out" / "seg").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "cpu", "--rows", "cat"], "--rows: found cat, expected some of: seg, det"),
        (["--preset", "cpu", "SEED", "3"], "found SEED, which a study sets itself"),
        (["--preset", "cpu", "SOLVER.MAX_ITERS", "3"], "did you mean SOLVER.MAX_ITER"),
        (["--preset", "cpu", "SOLVER.MAX_ITER"], "expected KEY VALUE pairs"),
        (["--preset", "cpu", "--baseline", "cat"], "--baseline: found cat, expected some of: seg"),
        (
            ["--preset", "cpu", "--rows", "det", "SOLVER.LOSS_BALANCING", "gradnorm"],
            "Only Det: SOLVER.LOSS_BALANCING: found 'gradnorm', expected one of",
        ),
        (["--collect-only"], "found no such run there"),
    ],
)
def test_mistakes_are_one_message(compare, tmp_path, capsys, words, message):
    assert compare(*words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "output").exists()  # nothing was trained


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --preset"),
        (["--collect-only", "SOLVER.MAX_ITER", "3"], "--collect-only trains nothing"),
        (["--preset", "cpu", "--seeds", "-1"], "expected numbers from 0"),
        (["--preset", "cpu", "--seeds", "4294967296"], "expected numbers from 0 to 2**32 - 1"),
        (["--preset", "cpu", "--num-gpus", "0"], "--num-gpus: found 0, expected >= 1"),
        (["--preset", "cpu", "--config-files", "a.yaml"], "not allowed with"),
    ],
)
def test_wrong_options(compare, capsys, words, message):
    with pytest.raises(SystemExit) as stopped:
        compare(*words)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def run_compare(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run_tool("compare_tasks.py", folder, *words, datasets=folder)


@pytest.mark.slow
def test_real_trainings_of_which_two_fail(tmp_path):
    """A good network, one that diverges, one whose config is wrong; then the table again."""
    for split, seed in (("train", 0), ("val", 1)):
        write_synthetic_people(tmp_path, split, num_images=3, seed=seed)
    quick = REPOSITORY / "configs" / "quick"
    (tmp_path / "explodes.yaml").write_text(
        f'_BASE_: "{quick}/mcn_det.yaml"\n'
        "SOLVER: {BASE_LR: 1.0e+30, CLIP_GRADIENTS: {ENABLED: False}, WARMUP_ITERS: 0}\n"
    )
    (tmp_path / "wrong.yaml").write_text(f'_BASE_: "{quick}/mcn_seg.yaml"\nMODEL: {{TASK: 1}}\n')
    tiny = (
        *("SOLVER.MAX_ITER", "4", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.LOG_PERIOD", "1"),
        *("INPUT.SCALE_CROP.SIZE", "(64, 64)", "INPUT.SCALE_CROP.BORDER", "8"),
    )
    files = ("quick/mcn_seg.yaml", "explodes.yaml", "wrong.yaml")
    done = run_compare(tmp_path, "--config-files", *files, "--output", "out", *tiny)
    assert done.returncode == 1, done.stdout + done.stderr
    rows = {row["name"]: row for row in table(tmp_path / "out")["rows"]}
    assert list(rows) == ["mcn_seg", "explodes", "wrong"]
    good = rows["mcn_seg"]
    assert good["seeds"]["1"]["state"] == "finished"
    assert 0 <= good["values"]["sem_seg/IoU-person"]["mean"] <= 100
    assert good["minutes"]["mean"] > 0
    assert good["parameters"] > 1_000_000
    assert rows["explodes"]["seeds"]["1"]["state"] == "diverged"
    assert "at iteration" in rows["explodes"]["seeds"]["1"]["reason"]
    assert "unknown config key MODEL.TASK" in rows["wrong"]["seeds"]["1"]["reason"]
    again = run_compare(tmp_path, "--collect-only", "--output", "out", "--rows", "mcn_seg")
    assert again.returncode == 0, again.stdout + again.stderr
    (row,) = table(tmp_path / "out")["rows"]
    assert row["seeds"]["1"]["training_seconds"] == good["seeds"]["1"]["training_seconds"]
    assert row["values"]["sem_seg/IoU-person"] == good["values"]["sem_seg/IoU-person"]


def test_as_a_user_runs_it(tmp_path):
    done = run_compare(tmp_path, "--collect-only", "--output", "nowhere")
    assert done.returncode == 2
    assert done.stderr.strip().startswith("Error: nowhere: found no such run there")
