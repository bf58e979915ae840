from __future__ import annotations

import json

import pytest

from comparison_support import finished, row, study_rows
from studies.tasks.columns import TABLE_1
from studies.tasks.markdown import (
    Study,
    number,
    study_json,
    study_markdown,
    table_of_differences,
    table_of_values,
    tables_with_paper,
)
from studies.tasks.summary import Summary

IOU, BOX_AP, BOX_AP50, KEYPOINT_AP, _ = TABLE_1


def cells(table: str) -> list[list[str]]:
    """The cells of a Markdown table, without the line below the head."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    return [lines[0], *lines[2:]]


def test_numbers_have_one_digit_and_their_spread():
    assert number(Summary(58.06, 0.349, 3)) == "58.1 ± 0.3"
    assert number(Summary(58.06, None, 1)) == "58.1"
    assert number(Summary(-0.04, None, 1), signed=True) == "+0.0"
    assert number(Summary(-1.26, 0.5, 2), signed=True) == "-1.3 ± 0.5"
    assert number(None) == "–"


def test_values_in_the_form_of_table_1():
    # Spread of 70 and 72: sqrt((1 + 1) / 1) = 1.4; of 69 and 73: sqrt(8) = 2.8; 1 and 2 min: 0.7.
    assert cells(table_of_values(Study(study_rows(), TABLE_1[:3]))) == [
        ["row", "person IoU", "box AP", "box AP50", "minutes", "parameters", "seeds"],
        ["Only Seg", "71.0 ± 1.4", "–", "–", "1.5 ± 0.7", "2.00 M", "2"],
        ["Only Det", "–", "40.0", "80.0", "1.5", "2.50 M", "1 of 2"],
        ["Seg+Det", "71.0 ± 2.8", "42.0 ± 1.4", "82.0 ± 1.4", "1.8 ± 0.0", "2.70 M", "2"],
    ]


def test_differences_to_the_single_networks():
    # IoU: -1 and +1. Box AP: +1, of the one seed that both have. 2.7 / 4.5; 1.8 / 3.
    assert cells(table_of_differences(Study(study_rows(), (IOU, BOX_AP)))) == [
        [
            "row",
            "person IoU",
            "box AP",
            "parameters, joint / separate",
            "minutes, joint / separate",
        ],
        ["Seg+Det", "+0.0 ± 1.4", "+1.0", "0.60", "0.60"],
    ]


def test_differences_to_a_row_of_choice():
    study = Study(study_rows(), (IOU, BOX_AP), baseline="seg_det")
    assert cells(table_of_differences(study)) == [
        ["row", "person IoU", "box AP"],
        ["Only Seg", "+0.0 ± 1.4", "–"],
        ["Only Det", "–", "-1.0"],
    ]


def test_paper_stands_beside():
    values, _, differences = tables_with_paper(Study(study_rows(), TABLE_1[:3]))
    assert cells(values) == [
        ["row", "person IoU", "paper", "box AP", "paper"],
        ["Only Seg", "71.0 ± 1.4", "74.4", "–", "–"],
        ["Only Det", "–", "–", "40.0", "45.0"],
        ["Seg+Det", "71.0 ± 2.8", "72.8", "42.0 ± 1.4", "45.2"],
    ]
    assert cells(differences) == [
        ["row", "person IoU", "paper", "box AP", "paper"],
        ["Seg+Det", "+0.0 ± 1.4", "-1.6", "+1.0", "+0.2"],
    ]


def test_what_is_missing_is_said_in_the_table_and_below_it():
    rows = [study_rows()[1], row("pose", finished(1, {})), row("seg")]
    rows[0].runs = rows[0].runs[1:]
    rows[2].runs = []
    text = study_markdown(Study(rows[:2], (BOX_AP, KEYPOINT_AP), "python tool"))
    table = cells(table_of_values(Study(rows[:2], (BOX_AP, KEYPOINT_AP))))
    assert table[1][:3] == ["Only Det", "diverged", "–"]
    assert table[2][:3] == ["Only Pose", "–", "no labels"]
    assert "## Not complete\n\n- Only Det, seed 2: diverged: loss_det_wh = nan\n" in text
    assert "- Only Pose, seed 1: no keypoint AP: the evaluation data has no labels" in text
    assert "```sh\npython tool\n```" in text


def test_a_complete_table_says_nothing_of_the_kind():
    text = study_markdown(Study([study_rows()[0]], (IOU,), reference=True))
    assert "Not complete" not in text
    assert "## Differences" not in text  # nothing to compare with
    assert "## Beside the paper's Table 1" in text


def test_rows_of_different_settings_are_marked():
    rows = [
        row("seg", finished(1, {IOU: 1.0}, setting={"iterations": "5"})),
        row("seg_det", finished(1, {IOU: 1.0}, setting={"iterations": "6"})),
    ]
    assert "**iterations differ between the rows**" in study_markdown(Study(rows, (IOU,)))


def test_json_holds_every_number():
    content = json.loads(
        study_json(Study(study_rows(), TABLE_1[:3], "python tool", reference=True))
    )
    seg, det, joint = content["rows"]
    assert seg["values"]["sem_seg/IoU-person"]["mean"] == 71.0
    assert seg["seeds"]["2"]["values"]["sem_seg/IoU-person"] == 72.0
    assert det["seeds"]["2"]["state"] == "diverged"
    assert joint["differences"]["bbox/AP"] == {"mean": 1.0, "spread": None, "count": 1}
    assert joint["joint_to_separate"]["parameters"] == pytest.approx(2.7 / 4.5)
    assert content["paper"][0]["values"]["sem_seg/IoU-person"] == 74.4
    assert content["not_complete"] == ["Only Det, seed 2: diverged: loss_det_wh = nan"]
