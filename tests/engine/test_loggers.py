"""MLflow and Weights & Biases: what they get, and what happens while a server is away.

The slow tests need these packages: a real MLflow server on this machine, W&B in its offline mode.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage, JSONWriter
from PIL import Image

from d2_multitask.engine import loggers
from d2_multitask.engine.loggers import MLflowWriter, build_loggers
from d2_multitask.engine.trainer import MultitaskTrainer
from engine_support import registered_people, tiny_cfg


@pytest.fixture(autouse=True)
def quiet(monkeypatch, caplog):
    """DefaultTrainer sets Detectron2's logger up for good unless it is set up."""
    caplog.set_level(logging.INFO, logger="detectron2")
    for writer in loggers.WRITERS.values():
        for name, value in writer.limits.items():
            monkeypatch.setenv(name, value)  # removed after the test


class FakeMLflow(ModuleType):
    """MLflow's functions that we call; `away` lets all of them fail."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.away = False
        self.refused: set[str] = set()  # functions that always fail
        self.calls: list[tuple[Any, ...]] = []
        self.tries = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*args: Any, **options: Any) -> Any:
            self.tries += 1
            if self.away or name in self.refused:
                raise ConnectionError("nobody listens")
            self.calls.append((name, args, options))
            run_id = options.get("run_id") or "run-7"
            return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

        return call

    def names(self) -> list[str]:
        return [name for name, _, _ in self.calls]

    def scalars(self) -> dict[int, dict[str, float]]:
        return {o["step"]: args[0] for name, args, o in self.calls if name == "log_metrics"}


@pytest.fixture
def fake(monkeypatch):
    module = FakeMLflow()
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return module


@pytest.fixture
def now(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(loggers.time, "monotonic", lambda: clock[0])
    return clock


def small_cfg(folder: Path) -> CfgNode:
    return CfgNode({"LOGGERS": ["mlflow"], "SOLVER": {"STEPS": [1, 2]}, "OUTPUT_DIR": str(folder)})


def write_some(writer: MLflowWriter, storage: EventStorage, iterations, now=None, pictures=()):
    for storage.iter in iterations:
        storage.put_scalar("loss", storage.iter / 8)
        if storage.iter in pictures:
            storage.put_image("pictures/a", np.zeros((3, 2, 2), np.uint8))
        writer.write()
        storage.clear_images()
        if now:
            now[0] += 1


def test_sends_what_json_writes(fake, tmp_path):
    (writer,) = build_loggers(small_cfg(tmp_path), lambda: False)
    with EventStorage() as storage:
        plain = JSONWriter(str(tmp_path / "metrics.json"))
        for storage.iter in range(9):
            storage.put_scalar("loss", (storage.iter - 4) ** 2)
            if storage.iter % 3 == 2:
                value = math.nan if storage.iter == 2 else 50.0
                storage.put_scalar("sem_seg/min(IoU, B-Iou)-a", value, smoothing_hint=False)
                storage.put_image("pictures/results", np.full((3, 4, 5), 7, np.uint8))
                writer.write()
                plain.write()
                storage.clear_images()
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    found = fake.scalars()
    for line in lines:
        iteration, strange = line.pop("iteration"), line.pop("sem_seg/min(IoU, B-Iou)-a")
        expected = {**line, "sem_seg/min_IoU_ B-Iou_-a": strange}
        assert found.pop(iteration) == pytest.approx(expected, nan_ok=True)
    assert not found and len(lines) == 3
    ((picture,), options) = next(call[1:] for call in fake.calls if call[0] == "log_image")
    assert picture.shape == (4, 5, 3) and options == {"key": "pictures/results", "step": 2}
    (params,) = next(args for name, args, _ in fake.calls if name == "log_params")
    assert params == {
        "LOGGERS": ["mlflow"],
        "SOLVER.STEPS": [1, 2],
        "OUTPUT_DIR": str(tmp_path),
    }


def test_away_at_the_start_and_back_later(fake, now, tmp_path, caplog):
    """Nothing is lost but a picture; it is tried seldom, and said once."""
    (writer,) = build_loggers(small_cfg(tmp_path), lambda: False)
    fake.away = True
    with EventStorage() as storage:
        write_some(writer, storage, range(200), now, pictures=(0, 10))
        assert fake.tries == 3  # after 0, 30 and 90 s; the next one is after 210 s
        fake.away = False
        write_some(writer, storage, range(200, 220), now)
        writer.close()
    assert fake.scalars().keys() == set(range(220))
    assert fake.names()[:3] == ["start_run", "log_text", "log_params"]
    assert fake.calls[-1] == ("end_run", ("KILLED",), {})
    failed, total = (message for message in caplog.messages if message.startswith("mlflow"))
    assert "ConnectionError: nobody listens). The training goes on" in failed
    assert "3 failures in this training; 1 records were not sent." in total
    assert fake.names().count("log_image") == 1


def test_away_in_the_middle_and_for_good(fake, now, tmp_path, caplog):
    (writer,) = build_loggers(small_cfg(tmp_path), lambda: False)
    with EventStorage() as storage:
        write_some(writer, storage, range(10), now)
        fake.away, before = True, fake.tries
        write_some(writer, storage, range(10, 1000), now)
        writer.close()
    assert fake.tries - before == 8  # six in 990 s, two at the end
    assert fake.scalars().keys() == set(range(10))
    assert "990 records were not sent" in caplog.text


def test_what_is_always_refused_blocks_nothing(fake, now, tmp_path, caplog):
    (writer,) = build_loggers(small_cfg(tmp_path), lambda: False)
    fake.refused = {"log_params"}
    with EventStorage() as storage:
        write_some(writer, storage, range(200), now)
        writer.close()
    assert fake.scalars().keys() == set(range(200))
    assert "3 failures in this training; 1 records were not sent" in caplog.text


def test_a_resumed_training_goes_on_with_its_run(fake, tmp_path):
    def run(is_resumed: bool) -> list[tuple[Any, ...]]:
        fake.calls.clear()
        (writer,) = build_loggers(small_cfg(tmp_path), lambda: is_resumed)
        with EventStorage() as storage:
            write_some(writer, storage, range(1))
            writer.close()
        return fake.calls[:]

    (tmp_path / "model_final.pth").write_text("of a training before")
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    os.utime(tmp_path / "model_final.pth", (1, 1))
    first = run(False)
    assert first[0] == ("start_run", (), {"run_id": None, "run_name": tmp_path.name})
    assert first[-1] == ("end_run", ("KILLED",), {})  # it has no final checkpoint
    (tmp_path / "model_final.pth").write_text("its own")
    second = run(True)
    assert second[0] == ("start_run", (), {"run_id": "run-7", "run_name": None})
    assert not [call for call in second if call[0] == "log_params"]  # they cannot be changed
    path = str(tmp_path / "model_final.pth")
    assert second[-2:] == [("log_artifact", (path,), {}), ("end_run", ("FINISHED",), {})]


def test_checkpoints_from_before_the_first_writing_are_sent(fake, tmp_path):
    (writer,) = build_loggers(small_cfg(tmp_path), lambda: False)
    paths = [tmp_path / name for name in ("model_final.pth", "model_best.pth")]
    for path in paths:
        path.write_text("weights")
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    with EventStorage() as storage:
        write_some(writer, storage, range(1))
        writer.close()
    assert [args for name, args, _ in fake.calls if name == "log_artifact"] == [
        (str(path),) for path in paths
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["neptune"], r"LOGGERS: found 'neptune', expected some of \['mlflow', 'wandb'\]"),
        (["wandb"], r"'wandb', which cannot be imported \(.*\)\. Type: .*pip install wandb"),
    ],
)
def test_mistakes_show_before_training(names, message, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with registered_people(tmp_path / "people") as people:
        cfg = tiny_cfg(people, tmp_path, LOGGERS=names)
        with pytest.raises(ValueError, match=message):
            MultitaskTrainer(cfg)


def test_nothing_is_imported_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    cfg = small_cfg(tmp_path)
    cfg.LOGGERS = []
    assert build_loggers(cfg, lambda: False) == []


def run_twice(folder: Path, logger_name: str) -> list[dict[str, Any]]:
    """A training with an interruption, in `folder`/out; returns the lines of metrics.json."""
    out = folder / "out"
    with registered_people(folder / "people") as people:
        cfg = tiny_cfg(people, out, SOLVER__MAX_ITER=8, VIS_PERIOD=4, TEST__EVAL_PERIOD=2)
        cfg.TEST.BEST_METRIC, cfg.SOLVER.LOG_PERIOD = "sem_seg/mIoU", 2
        cfg.SOLVER.CHECKPOINT_PERIOD, cfg.LOGGERS = 2, [logger_name]
        first = MultitaskTrainer(cfg)
        first._stop._received = 0
        step = first.run_step

        def step_then_signal() -> None:
            step()
            first._stop._received = 15 if first.iter == 3 else 0

        first.run_step = step_then_signal
        with pytest.raises(SystemExit):
            first.train()
        (out / "config.yaml").write_text(cfg.dump())
        second = MultitaskTrainer(cfg)
        second.resume_or_load(True)
        second.train()
    return [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]


@pytest.fixture
def kill_mlflow_server(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    store = ["--backend-store-uri", f"sqlite:///{tmp_path}/runs.db"]
    store += ["--artifacts-destination", str(tmp_path / "files")]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
    with (tmp_path / "server.txt").open("w") as log:
        server = subprocess.Popen(
            [*command, "--port", str(port), *store],
            **{"stdout": log, "stderr": log, "cwd": tmp_path, "start_new_session": True},
        )
    end = time.monotonic() + 180
    while True:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).close()
            break
        except OSError:
            assert server.poll() is None, (tmp_path / "server.txt").read_text()
            assert time.monotonic() < end
            time.sleep(0.5)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "people")
    yield partial(os.killpg, server.pid, signal.SIGKILL)  # it has processes of its own
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@pytest.mark.slow
def test_a_real_mlflow_server_has_all_numbers(kill_mlflow_server, tmp_path):
    lines = run_twice(tmp_path, "mlflow")
    from mlflow import MlflowClient, set_tracking_uri

    set_tracking_uri(None)  # that of the environment
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("people")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == (tmp_path / "out" / "mlflow_run_id").read_text()
    assert run.info.run_name == "out" and run.info.status == "FINISHED"
    found = {
        (name, metric.step): metric.value
        for name in run.data.metrics
        for metric in client.get_metric_history(run.info.run_id, name)
    }
    expected = {
        (re.sub(r"[^\w/.\- ]", "_", name), line["iteration"]): value
        for line in lines
        for name, value in line.items()
        if name != "iteration"
    }
    assert len(expected) > 100 and ("task/det", 1) in expected and ("bbox/AP", 8) in expected
    assert found == pytest.approx(expected, rel=1e-12, nan_ok=True)
    assert run.data.params["SOLVER.MAX_ITER"] == "8"
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"config.yaml", "images", "model_best.pth", "model_final.pth"}
    path = client.download_artifacts(run.info.run_id, "model_best.pth", str(tmp_path))
    assert Path(path).read_bytes() == (tmp_path / "out" / "model_best.pth").read_bytes()
    path = client.download_artifacts(run.info.run_id, "config.yaml", str(tmp_path))
    assert yaml.safe_load(Path(path).read_text())["SOLVER"]["MAX_ITER"] == 8
    pictures = Path(client.download_artifacts(run.info.run_id, "images", str(tmp_path)))
    names = {path.name.partition("+step+")[0] for path in pictures.glob("*.png")}
    assert "pictures~results" in names and len(names) == 4


@pytest.mark.slow
def test_an_mlflow_server_that_goes_away(kill_mlflow_server, tmp_path, caplog):
    with registered_people(tmp_path / "people") as people:
        cfg = tiny_cfg(people, tmp_path / "out", SOLVER__MAX_ITER=8, LOGGERS=["mlflow"])
        cfg.SOLVER.LOG_PERIOD, cfg.DATASETS.TEST = 2, ()
        trainer = MultitaskTrainer(cfg)
        step = trainer.run_step

        def step_without_server() -> None:
            step()
            if trainer.iter == 4:
                kill_mlflow_server()

        trainer.run_step = step_without_server
        start = time.monotonic()
        trainer.train()
    assert time.monotonic() - start < 120
    assert (tmp_path / "out" / "model_final.pth").is_file()
    assert "mlflow failed (" in caplog.text
    assert re.search(r"mlflow: \d failures in this training; \d records were not", caplog.text)


def wandb_records(file: Path) -> Iterator[bytes]:
    """The records of a W&B file: a header of 7 bytes, then LevelDB's log format."""
    content, place, parts = file.read_bytes(), 7, b""
    assert content.startswith(b":W&B")
    while place < len(content):
        rest = 32768 - place % 32768
        if rest < 7:  # too small for a header: padding
            place += rest
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)  # after the checksum
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield parts
            parts = b""


@pytest.mark.slow
def test_wandb_offline_has_all_numbers(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "people")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    lines = run_twice(tmp_path, "wandb")
    found, pictures, artifacts = {}, set(), set()
    run_id = (tmp_path / "out" / "wandb_run_id").read_text()
    files = sorted((tmp_path / "out" / "wandb").glob(f"offline-run-*/run-{run_id}.wandb"))
    assert len(files) == 2
    for file in files:
        for data in wandb_records(file):
            record = Record.FromString(data)
            if record.WhichOneof("record_type") == "run":
                assert record.run.run_id == run_id and record.run.project == "people"
                config = {item.key: item.value_json for item in record.run.config.update}
                assert json.loads(config["SOLVER"])["MAX_ITER"] == 8
            artifacts |= {record.artifact.name, record.request.log_artifact.artifact.name}
            items = {
                tuple(item.nested_key) or (item.key,): json.loads(item.value_json)
                for item in record.history.item
            }
            iteration = items.get(("iteration",))
            for (name, *inner), value in items.items():
                if inner == ["path"]:
                    size = tuple(items[name, side] for side in ("width", "height"))
                    assert Image.open(file.parent / "files" / value).size == size
                    pictures.add((name, iteration))
                elif not inner and not name.startswith("_") and name != "iteration":
                    found[name, iteration] = float(value)
    expected = {
        (name, line["iteration"]): value
        for line in lines
        for name, value in line.items()
        if name != "iteration"
    }
    assert found == pytest.approx(expected, rel=1e-12, nan_ok=True)
    assert {("pictures/results", 3), ("pictures/results", 7)} <= pictures
    assert {f"{run_id}-model_final", f"{run_id}-model_best"} <= artifacts
