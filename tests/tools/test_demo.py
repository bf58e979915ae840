"""tools/demo.py: its order and its repetition with fake tools, and once with the real ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

# Each fake writes down how it was called, then writes what the real tool would.
LOG = "import sys; open('calls.txt', 'a').write(' '.join(sys.argv) + chr(10))\n"
PREPARE = (
    LOG
    + """
from pathlib import Path
folder = Path('datasets/synthetic_people/val/images')
folder.mkdir(parents=True, exist_ok=True)
for number in range(3):
    (folder / f'{number}.png').touch()
"""
)
TRAIN = (
    LOG
    + """
import json, pathlib
output = pathlib.Path(sys.argv[sys.argv.index('OUTPUT_DIR') + 1])
output.mkdir(parents=True, exist_ok=True)
(output / 'model_final.pth').touch()
results = {'bbox': {'AP': 51.23, 'AP50': 90.0}, 'sem_seg': {'IoU-person': None}}
(output / 'results.json').write_text(json.dumps(results))
"""
)
PREDICT = (
    LOG
    + """
import pathlib
output = pathlib.Path(sys.argv[sys.argv.index('--output') + 1])
output.mkdir(exist_ok=True)
for name in ('0', '1', 'contact_sheet'):
    (output / f'{name}.png').touch()
"""
)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with the real demo and fake tools."""
    for name, code in (
        ("datasets/prepare_synthetic_people.py", PREPARE),
        ("tools/train_net.py", TRAIN),
        ("tools/predict.py", PREDICT),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    shutil.copy(ROOT / "tools" / "demo.py", tmp_path / "tools")
    return tmp_path


def run_demo(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "DETECTRON2_DATASETS"}
    return subprocess.run(
        [sys.executable, "tools/demo.py", "--max-pictures", "2", *arguments],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def calls(repository: Path) -> list[str]:
    return (repository / "calls.txt").read_text().splitlines()


def test_runs_the_three_tools_in_order(repository):
    output = run_demo(repository, "--num-train", "24", "--num-val", "8", "SOLVER.MAX_ITER", "4")
    assert output.returncode == 0, output.stderr
    out = repository / "output" / "demo"
    config = "--config-file configs/quick/mcn_seg_det_pose.yaml"
    assert calls(repository) == [
        "datasets/prepare_synthetic_people.py --num-train 24 --num-val 8",
        f"tools/train_net.py {config} --resume OUTPUT_DIR {out} SOLVER.MAX_ITER 4",
        f"tools/predict.py {config} --input {repository}/datasets/synthetic_people/val/images "
        f"--max-images 2 --contact-sheet --output {out}/pictures "
        f"MODEL.WEIGHTS {out}/model_final.pth SOLVER.MAX_ITER 4",
    ]


def test_ends_with_pictures_and_results(repository):
    lines = run_demo(repository).stdout.splitlines()
    (start,) = (n for n, line in enumerate(lines) if line.startswith("Pictures"))
    folder = repository / "output" / "demo"
    names = ("0", "1", "contact_sheet")
    assert lines[start + 1 : start + 4] == [f"  {folder}/pictures/{name}.png" for name in names]
    assert lines[start + 5] == f"Results on the validation images ({folder}/results.json):"
    assert [line.split()[:3] for line in lines[start + 6 : start + 9]] == [
        ["boxes", "AP", "51.2"],
        ["boxes", "AP50", "90.0"],
        ["segmentation", "IoU-person", "-"],
    ]


def test_second_run_only_repeats_the_report(repository):
    first = run_demo(repository).stdout
    (repository / "calls.txt").unlink()
    second = run_demo(repository).stdout
    assert calls(repository) == ["datasets/prepare_synthetic_people.py"]
    assert first.split("Pictures (")[1].split("Finished")[0] in second


def test_weights_without_their_evaluation_are_taken_up_again(repository):
    run_demo(repository)
    results = repository / "output" / "demo" / "results.json"
    os.utime(results, (1, 1))  # written by an evaluation before the last iteration
    run_demo(repository)
    assert sum(call.startswith("tools/train_net.py") for call in calls(repository)) == 2


def test_failing_tool_is_named_without_a_traceback_of_the_demo(repository):
    (repository / "tools" / "train_net.py").write_text("import sys; sys.exit(7)")
    result = run_demo(repository)
    assert result.returncode == 1
    assert "failed with exit code 7" in result.stdout
    assert "train_net.py --config-file" in result.stdout
    assert "Traceback" not in result.stderr
    assert "Pictures (" not in result.stdout


@pytest.fixture
def ctrl_c_arrives():
    """A background job of a shell ignores SIGINT, and so would every process that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_arrives")
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("sent", "to_group", "code"),
    [
        pytest.param(signal.SIGINT, True, 130, id="ctrl-c"),
        pytest.param(signal.SIGTERM, False, 143, id="terminated"),
    ],
)
def test_no_tool_outlives_the_demo(repository, sent, to_group, code):
    (repository / "tools" / "train_net.py").write_text(
        "import os, pathlib, time\n"
        "pathlib.Path('pid.part').write_text(str(os.getpid()))\n"
        "os.rename('pid.part', 'pid')\n"
        "try:\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    time.sleep(0.6)\n    open('tidied', 'w').close()\n"
    )
    with subprocess.Popen(
        [sys.executable, "tools/demo.py"],
        cwd=repository,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as demo:
        pid_file = repository / "pid"
        deadline = time.monotonic() + 30
        while not pid_file.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.1)  # the child is in its `try` by then
        (os.killpg if to_group else os.kill)(demo.pid, sent)
        assert demo.wait(timeout=30) == code
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)
    assert (repository / "tidied").exists() == to_group


@pytest.mark.slow
def test_real_tools_from_data_to_pictures(tmp_path):
    """The whole chain, far too short to learn anything."""
    output = tmp_path / "demo"
    settings = {
        "SOLVER.MAX_ITER": "3",
        "SOLVER.IMS_PER_BATCH": "2",
        "DATALOADER.NUM_WORKERS": "0",
    }
    result = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "demo.py")]
        + ["--output", str(output), "--num-train", "4", "--num-val", "3", "--max-pictures", "2"]
        + [word for setting in settings.items() for word in setting],
        env={**os.environ, "DETECTRON2_DATASETS": str(tmp_path / "data"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    results = json.loads((output / "results.json").read_text())
    assert {"bbox", "keypoints", "sem_seg"} <= set(results)
    assert len([p for p in (output / "pictures").iterdir() if p.suffix != ".jsonl"]) == 2 + 1
    assert str(output / "pictures") in result.stdout
