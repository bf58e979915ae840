from __future__ import annotations

import numpy as np
import pytest
from scipy.io import savemat

from bsds_support import cell, halves
from d2_multitask.data.datasets.bsds500 import Partition, read_partitions
from d2_multitask.evaluation.boundary.precision_recall import PixelCounts, even_thresholds
from d2_multitask.evaluation.partitions import (
    contour_map_levels,
    measure_partitions,
    read_levels,
    summarize_partitions,
)
from d2_multitask.evaluation.regions import boundary_of
from support import REPOSITORY

BSDS = REPOSITORY / "datasets" / "BSDS500"


def person(labels: np.ndarray) -> Partition:
    return Partition(labels, boundary_of(labels))


def test_one_image_by_hand():
    """20x30 pixels; people see halves and one region; levels: one segment, halves, 10 columns."""
    people = [person(halves()), person(np.ones((20, 30), int))]
    counts = measure_partitions([halves(column=30), halves(), halves(column=10)], people)
    assert counts.labelled_area == 2 * 600
    # Regions of 300, 300 and 600 pixels. Third level: 200 of 300, 300 of 400, 400 of 600.
    third = 300 * (200 / 300) + 300 * (300 / 400) + 600 * (400 / 600)
    np.testing.assert_allclose(counts.covered, [300 + 600, 600 + 300, third])
    assert counts.best_covered == pytest.approx(1200)
    half = 300 * 299  # pairs of both halves, of 600 * 599 / 2
    together = half / (600 * 599 / 2)
    np.testing.assert_allclose(counts.rand_index[:2], [(together + 1) / 2, (1 + together) / 2])
    np.testing.assert_allclose(counts.variation[:2], [0.5, 0.5])
    # 20 labelled pixels, of one person; the radius is 0.27 pixels.
    np.testing.assert_array_equal(
        counts.boundary, [[0, 20, 0], [20, 20, 20], [0, 20, 20], [0, 20, 0]]
    )


def test_a_pixel_is_correct_once_and_found_by_each_person():
    people = [person(halves()), person(halves()), person(halves(column=10))]
    counts = PixelCounts(*measure_partitions([halves()], people).boundary)
    assert counts.precision == 1 and counts.recall == 40 / 60


def test_levels_of_all_images_and_of_each():
    """The first image is best at level 0, the second at level 1."""
    one, two = [person(np.ones((20, 30), int))], [person(halves())]
    levels = [np.ones((20, 30), int), halves()]
    scores = summarize_partitions([measure_partitions(levels, p) for p in (one, two)])
    together = 300 * 299 / (600 * 599 / 2)
    expected = {
        "covering-ODS": 75,
        "covering-OIS": 100,
        "covering-best": 100,
        "PRI-ODS": 100 * (1 + together) / 2,
        "PRI-OIS": 100,
        "VI-ODS": 0.5,
        "VI-OIS": 0,
        "boundary-OIS-F": 100,
    }
    assert {name: scores[name] for name in expected} == pytest.approx(expected)
    # Recall 1 at precision 1/2 is F 2/3; between the levels recall and precision go up together.
    assert scores["boundary-ODS-F"] == pytest.approx(200 / 3)


def test_contour_maps():
    """Two pixels beside each other, a line of strength 0.5 between them."""
    ucm2 = np.zeros((3, 5))
    ucm2[:, 2] = 0.5
    levels = list(contour_map_levels(ucm2, [0.25, 0.5, 0.75]))
    assert [len(np.unique(level.segments)) for level in levels] == [2, 1, 1]
    np.testing.assert_array_equal([level.boundary[0, 0] for level in levels], [1, 1, 0])


def test_mat_files(tmp_path):
    savemat(tmp_path / "segs.mat", {"segs": cell([halves(), halves(column=10)])})
    savemat(tmp_path / "ucm.mat", {"ucm2": np.zeros((41, 61))})
    savemat(tmp_path / "other.mat", {"x": 1})
    savemat(tmp_path / "even.mat", {"ucm2": np.zeros((40, 60))})
    first, second = read_levels(tmp_path / "segs.mat", [0.5])
    np.testing.assert_array_equal(second, halves(column=10))
    (level,) = read_levels(tmp_path / "ucm.mat", [0.5])
    assert level.segments.shape == level.boundary.shape == (20, 30)
    with pytest.raises(ValueError, match=r"other\.mat: found the variables \['x'\], expected"):
        read_levels(tmp_path / "other.mat", [0.5])
    with pytest.raises(ValueError, match=r"ucm2: found shape \(40, 60\), expected \(2 H \+ 1"):
        read_levels(tmp_path / "even.mat", [0.5])


def test_wrong_levels():
    people = [person(halves())]
    with pytest.raises(ValueError, match=r"found shape \(20, 31\), expected \(20, 30\)"):
        measure_partitions([halves(width=31)], people)
    with pytest.raises(ValueError, match="levels: found none"):
        measure_partitions([], people)
    images = [measure_partitions([halves()] * number, people) for number in (1, 2)]
    with pytest.raises(ValueError, match=r"levels: found \[1, 2\] of different images"):
        summarize_partitions(images)


@pytest.mark.skipif(not (BSDS / "ucm2/test_eval").is_dir(), reason="no BSDS500 on this machine")
def test_the_benchmarks_own_numbers_of_two_images():
    """Of gPb-owt-ucm, as BSDS' MATLAB code wrote them: recall and precision with its matching."""
    published = [
        np.loadtxt(BSDS / f"ucm2/test_eval/eval_{what}_img.txt") for what in ("cover", "bdry")
    ]
    thresholds = even_thresholds(99)
    for index, name in enumerate(("100007", "100039")):
        counts = measure_partitions(
            read_levels(BSDS / f"ucm2/test/{name}.mat", thresholds),
            read_partitions(BSDS / f"data/groundTruth/test/{name}.mat"),
        )
        cover, boundary = (table[index] for table in published)
        best = int(counts.covered.argmax())
        assert thresholds[best] == pytest.approx(cover[1])
        assert counts.covered[best] / counts.labelled_area == pytest.approx(cover[2], rel=3e-6)
        pixels = PixelCounts(*counts.boundary)
        assert pixels.f_measure.max() == pytest.approx(boundary[4], abs=0.002)
