"""Reading configs: what a mistake is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.config import get_cfg

from d2_multitask.config import add_multitask_config, load_config


def test_nothing_of_detectron2_changes() -> None:
    plain, ours = get_cfg(), get_cfg()
    add_multitask_config(ours)

    def compare(one, other, prefix: str = "") -> None:
        for key, value in one.items():
            if hasattr(value, "items"):
                compare(value, other[key], f"{prefix}{key}.")
            else:
                assert other[key] == value, prefix + key

    compare(plain, ours)
    assert "TASKS" not in get_cfg().MODEL


def test_file_by_path_or_by_name_then_overrides(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("MODEL:\n  TASKS: ['det']\n")
    assert load_config(path).MODEL.TASKS == ["det"]
    assert load_config(path, ["MODEL.TASKS", "['seg']"]).MODEL.TASKS == ["seg"]
    assert load_config("quick/mcn_det.yaml").MODEL.TASKS == ["det"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL:\n  TAKS: ['det']\n", r"mine.yaml.*MODEL.TAKS.*did you mean.*MODEL.TASKS"),
        ("MODEL:\n  CENTER_HEAD:\n    CONVDIM: 3\n", r"CENTER_HEAD.CONVDIM.*CENTER_HEAD.CONV_DIM"),
        ("MODEL:\n  TASKS: 3\n", r"mine.yaml.*MODEL.TASKS"),  # an int where a list belongs
        ("MODEL: [1\n", r"mine.yaml.*not a plain YAML"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config(path)


def test_a_file_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    path, witness = tmp_path / "mine.yaml", tmp_path / "witness"
    path.write_text(f"OUTPUT_DIR: !!python/object/apply:os.mkdir ['{witness}']\n")
    with pytest.raises(ValueError, match="not a plain YAML"):
        load_config(path)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["SOLVER.MAX_ITR", "3"], "SOLVER.MAX_ITR.*did you mean.*SOLVER.MAX_ITER"),
        (["SOLVER.MAX_ITER"], "1 words.*KEY VALUE"),
        (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER many"),
    ],
)
def test_mistakes_on_the_command_line(opts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config("", opts)


def test_unknown_file_names_near_ones() -> None:
    with pytest.raises(ValueError, match=r"mcn_seg_det_pose\.yaml"):
        load_config("quick/mcn_seg_det_poze.yaml")
