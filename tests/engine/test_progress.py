"""Progress of a command line, on a terminal and in a log file."""

from __future__ import annotations

import sys

import pytest

from d2_multitask.engine.setup import progress_bar


@pytest.mark.parametrize("is_terminal", [False, True])
def test_only_terminals_get_carriage_returns(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    assert list(progress_bar(range(3), unit="image")) == [0, 1, 2]
    out = capsys.readouterr().out
    assert "3/3" in out and out.endswith("\n")
    assert ("\r" in out) == is_terminal
    assert len(out.splitlines()) == 2 or is_terminal
