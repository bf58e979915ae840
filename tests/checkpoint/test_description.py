"""What weight files say about their network: written, read back, and malformed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from checkpoint.networks import network
from d2_multitask.checkpoint import Description, MultitaskCheckpointer, read_description
from d2_multitask.checkpoint.description import parse_description

NAMES = {
    "thing_classes": ["person", "dog"],
    "thing_dataset_id_to_contiguous_id": {1: 0, 18: 1},
    "keypoint_names": ["nose", "tail"],
    "keypoint_connection_rules": [("nose", "tail", (255, 0, 0))],
}
DESCRIPTION = Description("MODEL: {TASKS: [det]}\n", NAMES, "0.1.0")
GOOD = json.loads(DESCRIPTION.to_json())


def test_a_checkpoint_has_it_as_plain_text(tmp_path: Path) -> None:
    text = DESCRIPTION.to_json()
    MultitaskCheckpointer(network(), str(tmp_path), description=text).save("model_0")
    content = torch.load(tmp_path / "model_0.pth", weights_only=True)
    assert content["d2_multitask"] == text
    assert read_description(tmp_path / "model_0.pth") == DESCRIPTION
    checkpointer = MultitaskCheckpointer(network())
    checkpointer.load(str(tmp_path / "model_0.pth"))
    assert not checkpointer.report.fresh and not checkpointer.report.unused


def test_safetensors_have_it_in_their_metadata(tmp_path: Path) -> None:
    path, weights = tmp_path / "a.safetensors", network().state_dict()
    save_file(weights, path, {"d2_multitask": DESCRIPTION.to_json(), "format": "pt"})
    assert read_description(path) == DESCRIPTION
    save_file(weights, path)
    assert read_description(path) is None


def test_files_without_it(tmp_path: Path) -> None:
    MultitaskCheckpointer(network(), str(tmp_path)).save("old")
    assert read_description(tmp_path / "old.pth") is None
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(ValueError, match="text.pth cannot be read"):
        read_description(tmp_path / "text.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(7, "found int, expected JSON text", id="no-text"),
        pytest.param("x" * 5_000_000, "found 5000000 characters", id="large"),
        pytest.param("{", "broken JSON", id="broken"),
        pytest.param("[" * 100_000, "broken JSON", id="deep"),
        pytest.param("[]", "found a JSON list", id="list"),
        pytest.param({**GOOD, "format_version": 2}, "found '2', expected 1: install", id="newer"),
        pytest.param({**GOOD, "config": ["a"]}, "expected 'config', YAML text", id="config"),
        pytest.param({**GOOD, "names": None}, "expected .* 'names', an object", id="names"),
    ],
)
def test_malformed_is_one_sentence(content: object, message: str) -> None:
    text = json.dumps(content) if isinstance(content, dict) else content
    with pytest.raises(ValueError, match=message) as error:
        parse_description(text, "a.pth")
    assert str(error.value).startswith("a.pth: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("thing_classes", "person"),
        ("thing_classes", [1]),
        ("keypoint_names", None),
        ("thing_dataset_id_to_contiguous_id", {"a": 0}),
        ("thing_dataset_id_to_contiguous_id", [1]),
        ("keypoint_connection_rules", [["a"]]),
        ("keypoint_connection_rules", [["a", 1, [0]]]),
        ("keypoint_connection_rules", 5),
    ],
)
def test_malformed_names_are_one_sentence(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"a.pth: .*names: {key}: expected"):
        parse_description(json.dumps({**GOOD, "names": {key: value}}), "a.pth")


def test_unknown_fields_are_ignored() -> None:
    text = json.dumps({**GOOD, "more": 1, "names": {**GOOD["names"], "more": [1]}})
    assert parse_description(text, "a.pth") == DESCRIPTION
