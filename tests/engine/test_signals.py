from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest

from d2_multitask.engine import signals
from d2_multitask.engine.signals import STOP_SIGNALS, StopOnSignal


def hook_with_trainer():
    saved = []
    checkpointer = SimpleNamespace(
        save=lambda name, **more: saved.append((name, more)), save_dir="."
    )
    hook = StopOnSignal()
    hook.trainer = SimpleNamespace(iter=7, checkpointer=checkpointer)
    return hook, saved


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_first_signal_saves_and_exits_with_its_code(number):
    before = signal.getsignal(number)
    hook, saved = hook_with_trainer()
    with hook.installed():
        hook.after_step()
        os.kill(os.getpid(), number)
        assert not saved  # the step goes on
        with pytest.raises(SystemExit) as stop:
            hook.after_step()
    assert stop.value.code == 128 + number
    assert saved == [("model_0000007", {"iteration": 7})]
    assert signal.getsignal(number) is before


def test_second_signal_exits_at_once(monkeypatch):
    codes = []
    monkeypatch.setattr(signals.os, "_exit", codes.append)
    hook, _ = hook_with_trainer()
    with hook.installed():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert not codes  # the same one, from the terminal and from the parent
        os.kill(os.getpid(), signal.SIGTERM)
    assert codes == [128 + signal.SIGTERM]


def test_a_signal_of_another_process_stops_this_one(monkeypatch):
    monkeypatch.setattr(signals, "_largest_of_all", lambda number: int(signal.SIGUSR1))
    hook, saved = hook_with_trainer()
    with pytest.raises(SystemExit) as stop:
        hook.after_step()
    assert stop.value.code == 128 + signal.SIGUSR1 and saved
