"""Finding the config files that come with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from d2_multitask import model_configs
from d2_multitask.model_configs import get_config_file

ROOT = Path(__file__).resolve().parent.parent


def test_finds_the_repository_s_file():
    name = "quick/mcn_seg_det_pose.yaml"
    assert Path(get_config_file(name)) == ROOT / "configs" / name


def test_copy_inside_the_package_comes_first(monkeypatch, tmp_path):
    for folder in (tmp_path / "package" / "configs", tmp_path / "configs"):
        folder.mkdir(parents=True)
        (folder / "a.yaml").touch()
    monkeypatch.setattr(model_configs, "_PACKAGE", tmp_path / "package")
    assert get_config_file("a.yaml") == str(tmp_path / "package" / "configs" / "a.yaml")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("quick/mcn_seg_det_pos.yaml", id="misspelt"),
        pytest.param("mcn_seg_det_pose", id="without-suffix"),
        pytest.param("../configs/quick/mcn_seg_det_pose.yaml", id="path-out-of-the-folder"),
        pytest.param(str(ROOT / "configs" / "quick" / "mcn_seg_det_pose.yaml"), id="absolute"),
    ],
)
def test_unknown_name_lists_close_ones(name):
    with pytest.raises(ValueError, match=r"mcn_seg_det_pose\.yaml") as error:
        get_config_file(name)
    assert repr(name) in str(error.value)


def test_nothing_alike_lists_all(monkeypatch, tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "only.yaml").touch()
    monkeypatch.setattr(model_configs, "_PACKAGE", tmp_path)
    with pytest.raises(ValueError, match=r"only\.yaml"):
        get_config_file("7777")


def test_installation_without_configs(monkeypatch, tmp_path):
    monkeypatch.setattr(model_configs, "_PACKAGE", tmp_path / "package")
    with pytest.raises(FileNotFoundError, match="carries no config files"):
        get_config_file("quick/mcn_seg_det_pose.yaml")
