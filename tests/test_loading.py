"""`d2_multitask.load`: which file gives what, and what is said about others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import d2_multitask
from runtime_support import write_model
from tool_support import small_network

IMAGE = np.zeros((40, 60, 3), np.uint8)


def test_weights_and_exported_networks_give_one_kind_of_result(tmp_path: Path) -> None:
    results = [
        d2_multitask.load(small_network(tmp_path))(IMAGE),
        d2_multitask.load(write_model(tmp_path / "a.onnx"))(IMAGE),
    ]
    for result in results:
        assert isinstance(result, d2_multitask.runtime.Result)
        assert result.boxes.shape[1] == 4 and result.maps["sem_seg"].shape[1:] == (40, 60)


def test_old_weights_need_a_config(tmp_path: Path) -> None:
    path = small_network(tmp_path)
    content = torch.load(path)
    del content["d2_multitask"]
    torch.save(content, path)
    with pytest.raises(ValueError, match="has no config inside"):
        d2_multitask.load(path)
    assert d2_multitask.load(path, tmp_path / "config.yaml")(IMAGE).scores is not None


@pytest.mark.parametrize("name", ["a.onnx", "a.xml", "a.pth", "a.safetensors"])
def test_other_files_are_one_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(FileNotFoundError, match=name):
        d2_multitask.load(path)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match=name):
        d2_multitask.load(path)
