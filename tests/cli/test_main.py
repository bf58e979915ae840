"""The console script `d2mt`: its help, its mistakes, and that it finds every command."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest

import d2mt
from d2_multitask.cli.main import COMMANDS, main
from d2_multitask.launchers import Place
from support import REPOSITORY
from tool_support import run_command


def test_every_command_has_a_module_with_main() -> None:
    for module, _ in COMMANDS.values():
        assert callable(importlib.import_module(module).main)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in COMMANDS)
    assert main([]) == 2


def test_an_unknown_command_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretict"]) == 2
    message = capsys.readouterr().err
    assert "found the command 'pretict', expected one of: " in message
    assert message.endswith("did you mean predict?\n") and message.count("\n") == 1


def test_commands_of_one_process_refuse_more(monkeypatch, capsys) -> None:
    place = Place(0, 2, 0, 2, "tcp://a:1", "torchrun")
    monkeypatch.setattr("d2_multitask.cli.main.place_of", lambda: place)
    assert main(["view", "model.onnx"]) == 2
    assert "d2mt view: found 2 processes of torchrun, expected one" in capsys.readouterr().err


def test_as_a_module_with_a_command_of_its_own_usage(tmp_path) -> None:
    done = run_command("train", tmp_path, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: d2mt train ")


def test_help_imports_no_pytorch(tmp_path) -> None:
    code = """if True:
        import sys
        sys.argv = ["d2mt", "--help"]
        import d2mt
        d2mt.main()
        print(sorted({"torch", "detectron2", "cv2", "numpy"} & set(sys.modules)))"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.endswith("\n[]\n"), done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param("", False, id="nothing"),
        pytest.param("--help", False, id="help"),
        pytest.param("view --model a.onnx", False, id="view"),
        pytest.param("predict --input a --model a.onnx", False, id="exported"),
        pytest.param("predict --input a --model a.pth", True, id="weights"),
        pytest.param("eval --model a.onnx", True, id="eval"),
    ],
)
def test_what_needs_pytorch(words: str, expected: bool) -> None:
    assert d2mt.needs_torch(words.split()) == expected
