from __future__ import annotations

import logging

import torch

from d2_multitask.data.problems import (
    DATA_REPORT,
    PROBLEMS_KEY,
    Problem,
    ProblemReport,
)
from d2_multitask.data.sampler import ReportingLoader


def test_the_first_few_of_a_kind_are_logged_and_all_are_counted(caplog):
    report = ProblemReport(max_logged=2)
    with caplog.at_level(logging.WARNING):
        for index in range(5):
            report.add("bad box", f"file.json: object {index}", "found 0, expected 1")
        report.add("bad mask", "file.json: object 0", "found a hole")
    assert len(caplog.messages) == 3
    assert caplog.messages[0] == "bad box: file.json: object 0: found 0, expected 1"
    assert "counted and reported at the end" in caplog.messages[1]
    assert report.counts == {"bad box": 5, "bad mask": 1}


def test_the_same_place_counts_once_but_the_times_are_told():
    report = ProblemReport()
    for _ in range(3):
        report.add("broken image", "a.png", "truncated")
    assert report.counts == {"broken image": 1}
    assert report.summary() == "  1 x broken image, met 3 times (first: a.png: truncated)"


def test_a_half_surrogate_pair_of_a_file_is_logged_as_an_escape(caplog):
    ProblemReport().add("unknown part", "a.json: part \ud800", "file \udcff.jpg")
    assert caplog.messages == [r"unknown part: a.json: part \ud800: file \udcff.jpg"]


def test_totals_are_logged(caplog):
    report = ProblemReport()
    with caplog.at_level(logging.INFO):
        report.log_totals()
        report.add("bad box", "a", "b")
        report.log_totals()
    assert "No problem" in caplog.messages[0]
    assert "1 x bad box" in caplog.messages[-1]


def test_nothing_is_pending_in_the_main_process():
    report = ProblemReport()
    report.add("bad box", "a", "b")
    assert report.take_pending() == []


class _NoisyImages(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index % 2:
            DATA_REPORT.add("odd image", f"image {index}", "found an odd number")
        result = {"index": index}
        pending = DATA_REPORT.take_pending()
        if pending:
            result[PROBLEMS_KEY] = pending
        return result


def test_problems_of_worker_processes_arrive_in_the_main_process():
    loader = torch.utils.data.DataLoader(
        _NoisyImages(), batch_size=2, num_workers=2, collate_fn=list
    )
    reporting = ReportingLoader(loader)
    batches = list(reporting)
    assert len(reporting) == len(batches) == 3
    assert [image for batch in batches for image in batch] == [{"index": i} for i in range(6)]
    assert DATA_REPORT.counts == {"odd image": 3}


def test_merging_counts_without_logging_again(caplog):
    report = ProblemReport()
    report.merge([Problem("bad box", "a", "b"), ("bad box", "c", "d")])
    assert report.counts == {"bad box": 2}
    assert not caplog.messages
