"""Commands in this process: without Detectron2's logger and printout of the environment."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_default_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would keep messages from pytest, also in later tests."""
    monkeypatch.setattr("d2_multitask.engine.setup.default_setup", lambda *_: None)
    monkeypatch.setattr("d2_multitask.engine.setup.setup_logger", lambda *_, **__: None)
