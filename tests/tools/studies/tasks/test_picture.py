from __future__ import annotations

import pytest
from PIL import Image

from comparison_support import study_rows
from studies.tasks.columns import TABLE_1
from studies.tasks.markdown import Study
from studies.tasks.picture import MIN_SPAN, draw, save_picture


def test_a_panel_for_each_metric_that_was_measured(tmp_path):
    study = Study(study_rows(), TABLE_1)
    titles = [panel.get_title() for panel in draw(study).axes if panel.axison]
    assert titles == ["person IoU", "box AP", "box AP50"]
    save_picture(study, tmp_path / "table.png")
    assert Image.open(tmp_path / "table.png").size[0] > 600
    assert [path.name for path in tmp_path.iterdir()] == ["table.png"]


def test_dots_stand_at_their_values_and_rows():
    panel = draw(Study(study_rows(), TABLE_1[:1])).axes[0]
    dots = [tuple(xy) for dots in panel.collections[:1] for xy in dots.get_offsets().tolist()]
    assert dots == [(70.0, 0.0), (72.0, 0.0)]
    assert [label.get_text() for label in panel.get_yticklabels()] == [
        "Only Seg",
        "Only Det",
        "Seg+Det",
    ]
    bottom, top = panel.get_ylim()
    assert bottom > top  # the first row on top


def test_small_differences_are_not_blown_up():
    rows = study_rows()[:1]
    rows[0].runs = rows[0].runs[:1]
    low, high = draw(Study(rows, TABLE_1[:1])).axes[0].get_xlim()
    assert high - low >= MIN_SPAN
    assert low <= 70.0 <= high


@pytest.mark.parametrize("rows", [[], study_rows()[1:2]], ids=["no row", "no value"])
def test_nothing_to_draw(tmp_path, rows):
    save_picture(Study(rows, TABLE_1[:1]), tmp_path / "table.png")
    assert (tmp_path / "table.png").is_file()
