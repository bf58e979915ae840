"""Old module names work for one version."""

from __future__ import annotations

import importlib

import pytest

from d2_multitask._moved import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_old_names_are_the_new_modules_with_a_warning(old: str) -> None:
    with pytest.warns(FutureWarning, match=f"d2_multitask.{MOVED[old]}"):
        module = importlib.import_module(f"d2_multitask.{old}")
    new = importlib.import_module(f"d2_multitask.{MOVED[old]}")
    assert module is new and new.__name__ == f"d2_multitask.{MOVED[old]}"
