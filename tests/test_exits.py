"""How command lines end."""

from __future__ import annotations

import pytest
import torch

from d2_multitask.exits import exit_code


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "Interrupted."),
        (ValueError("--size: found 0"), 2, "Error: --size: found 0"),
        (FileNotFoundError("absent.pth"), 2, "Error: absent.pth"),
    ],
)
def test_small_tools_end_in_one_line(error, code, said, capsys):
    def work():
        raise error

    assert exit_code(work) == code
    assert capsys.readouterr().err.strip() == said


def test_exit_codes_of_small_tools():
    assert exit_code(lambda: None) == 0 and exit_code(lambda: 1) == 1
    with pytest.raises(RuntimeError):
        exit_code(lambda: torch.zeros(2) @ torch.zeros(3))
