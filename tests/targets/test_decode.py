"""Peaks, gathering, boxes and joint matching on cases that can be checked by eye."""

from __future__ import annotations

import pytest
import torch
from scipy.ndimage import maximum_filter

from d2_multitask.targets.decode import (
    decode_boxes,
    find_keypoint_peaks,
    find_peaks,
    keypoint_hull,
    match_keypoints,
    sample_keypoint_scores,
    values_at,
    weigh_keypoints,
    window_maximum,
)


def test_peaks_over_classes_best_first() -> None:
    heatmap = torch.zeros(1, 2, 4, 5)
    heatmap[0, 0, 1, 3] = 0.9
    heatmap[0, 0, 1, 2] = 0.8  # beside a higher cell: no peak
    heatmap[0, 1, 3, 0] = 0.7
    heatmap[0, 1, 0, 4] = 0.95
    peaks = find_peaks(heatmap, 3)
    torch.testing.assert_close(peaks.scores, torch.tensor([[0.95, 0.9, 0.7]]))
    assert peaks.channels.tolist() == [[1, 0, 1]]
    assert peaks.xy.tolist() == [[[4, 0], [3, 1], [0, 3]]]


def test_more_peaks_asked_for_than_cells() -> None:
    assert find_peaks(torch.rand(2, 1, 2, 2), 100).scores.shape == (2, 4)
    assert find_keypoint_peaks(torch.rand(2, 3, 2, 2), 100)[0].shape == (2, 3, 4)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 17, 33])  # few and many: two ways to the same numbers
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_window_maximum(kernel: int, channels: int, order: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    heatmap = torch.randn(2, channels, 6, 7, generator=generator).contiguous(memory_format=order)
    # SciPy takes the nearest cell for what lies outside, which changes no maximum.
    expected = maximum_filter(heatmap.numpy(), (1, 1, kernel, kernel), mode="nearest")
    assert window_maximum(heatmap, kernel).numpy().tolist() == expected.tolist()


def test_peaks_leave_the_heatmap_as_it_is() -> None:
    heatmap = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    before = heatmap.clone()
    find_peaks(heatmap, 10)
    assert torch.equal(heatmap, before)


def test_ranks_below_the_threshold_everywhere_are_left_out() -> None:
    """Two images with 1 and 2 peaks above 0.5: two ranks, the first image's second is weak."""
    heatmap = torch.zeros(2, 1, 5, 5)
    heatmap[0, 0, 0, 0], heatmap[0, 0, 4, 4] = 0.9, 0.5  # 0.5 is not above the threshold
    heatmap[1, 0, 0, 0], heatmap[1, 0, 2, 2], heatmap[1, 0, 4, 4] = 0.8, 0.7, 0.3
    expected = torch.tensor([[0.9, 0.5], [0.8, 0.7]])
    peaks = find_peaks(heatmap, 10, score_threshold=0.5)
    assert torch.equal(peaks.scores, expected)
    assert peaks.xy.tolist() == [[[0, 0], [4, 4]], [[0, 0], [2, 2]]]
    scores, xy = find_keypoint_peaks(heatmap, 10, score_threshold=0.5)
    assert torch.equal(scores[:, 0], expected)
    assert xy[:, 0].tolist() == peaks.xy.tolist()


def test_a_traced_graph_keeps_all_ranks() -> None:
    """Else the number of ranks of the image that was traced would be that of all images."""
    heatmap = torch.zeros(1, 1, 5, 5)
    heatmap[0, 0, 0, 0] = 0.9

    def scores(heatmap: torch.Tensor) -> torch.Tensor:
        return find_peaks(heatmap, 3, score_threshold=0.5).scores

    traced = torch.jit.trace(scores, heatmap, check_trace=False)
    heatmap[0, 0, 4, 4] = 0.8
    assert traced(heatmap).shape == (1, 3)
    torch.testing.assert_close(scores(heatmap), torch.tensor([[0.9, 0.8]]))


def test_an_image_of_nan_takes_no_rank_from_others() -> None:
    heatmap = torch.zeros(2, 1, 3, 3)
    heatmap[0, 0, 0, 0], heatmap[0, 0, 2, 2] = 0.9, 0.8
    heatmap[1] = float("nan")
    assert find_peaks(heatmap, 2, score_threshold=0.5).scores[0].tolist() == pytest.approx(
        [0.9, 0.8]
    )


def test_no_peak_above_the_threshold() -> None:
    heatmap = torch.full((2, 3, 4, 4), 0.1)
    peaks = find_peaks(heatmap, 10, score_threshold=0.5)
    assert peaks.scores.shape == (2, 0)
    assert peaks.xy.shape == (2, 0, 2)
    assert find_keypoint_peaks(heatmap, 10, score_threshold=0.5)[1].shape == (2, 3, 0, 2)


def test_gather_reads_row_times_width() -> None:
    """Not row times height: a mistake that square maps hide."""
    feature = torch.arange(2 * 3 * 5).view(1, 2, 3, 5)
    read = values_at(feature, torch.tensor([[[4, 0], [1, 2]]]))
    assert read.tolist() == [[[4, 19], [11, 26]]]


def test_boxes_around_centres() -> None:
    boxes = decode_boxes(torch.tensor([[2.5, 3.0]]), torch.tensor([[3.0, -1.0]]))
    assert boxes.tolist() == [[1.0, 3.0, 4.0, 3.0]]


def test_hull_with_margin() -> None:
    joints = torch.tensor([[[0.0, 0.0], [10.0, 20.0], [5.0, 5.0]]])
    assert keypoint_hull(joints, 0.1).tolist() == [[-1.0, -2.0, 11.0, 22.0]]


# One object with box (0, 0)-(10, 20): a joint may move by 0.3 * 20 = 6. Scores are multiplied by
# exp(-d^2 / (0.2 * 20)^2): 0.882 at (4, 4), 0.607 at (7, 7).
@pytest.mark.parametrize(
    ("peaks", "scores", "expected", "matched"),
    [
        ([(4, 4), (7, 7)], [0.65, 0.9], (4, 4), True),  # 0.574 against 0.546
        ([(4, 4), (7, 7)], [0.6, 0.9], (7, 7), True),  # 0.529 against 0.546
        ([(4, 4), (7, 7)], [0.1, 0.9], (7, 7), True),  # 0.1 is not above the threshold
        ([(5, 11.1)], [0.9], (5, 5), False),  # 6.1 away
        ([(5, 10.9)], [0.9], (5, 10.9), True),  # 5.9 away
        ([(-0.5, 5)], [0.9], (5, 5), False),  # outside the box
        ([(9, 9), (-0.1, 5)], [0.9, 0.9], (9, 9), True),  # nearest is outside, next is inside
        ([], [], (5, 5), False),  # no peak at all
    ],
)
def test_matching(peaks, scores, expected, matched) -> None:
    joints, found = match_keypoints(
        torch.tensor([[[[5.0, 5.0]]]]),
        torch.tensor(peaks, dtype=torch.float32).view(1, 1, -1, 2),
        torch.tensor(scores, dtype=torch.float32).view(1, 1, -1),
        torch.tensor([[[0.0, 0.0, 10.0, 20.0]]]),
        score_threshold=0.1,
        max_distance=0.3,
    )
    torch.testing.assert_close(joints[0, 0, 0], torch.tensor(expected, dtype=torch.float32))
    assert found.item() is matched


def test_matching_keeps_objects_joints_and_images_apart() -> None:
    regressed = torch.tensor([[[[1.0, 1], [8, 8]], [[7.0, 1], [2, 8]]]]).repeat(2, 1, 1, 1)
    peaks = torch.tensor([[[[2.0, 1], [8, 1]], [[3, 8], [9, 8]]]]).repeat(2, 1, 1, 1)
    peaks[1] += 0.5
    boxes = torch.tensor([[[0.0, 0, 10, 10]] * 2]).repeat(2, 1, 1)
    joints, _ = match_keypoints(
        regressed, peaks, torch.ones(2, 2, 2), boxes, score_threshold=0.1, max_distance=0.3
    )
    assert joints[0].tolist() == [[[2, 1], [9, 8]], [[8, 1], [3, 8]]]
    assert joints[1].tolist() == [[[2.5, 1.5], [9.5, 8.5]], [[8.5, 1.5], [3.5, 8.5]]]


def test_joint_scores_are_read_in_the_joints_cell() -> None:
    heatmap = torch.zeros(1, 2, 3, 4)
    heatmap[0, 0, 2, 1] = 0.6
    heatmap[0, 1, 0, 3] = 0.3
    joints = torch.tensor([[[[1.9, 2.1], [3.0, 0.5]], [[4.1, 2.0], [3.5, -0.1]]]])
    scores = sample_keypoint_scores(heatmap, joints)
    torch.testing.assert_close(scores, torch.tensor([[[0.6, 0.3], [0.0, 0.0]]]))


@pytest.mark.parametrize("longest", [4, 16, 200])
def test_an_object_without_a_cell_in_its_box_has_no_keypoint(longest: float) -> None:
    heatmap = torch.full((1, 1, 16, 16), 0.5)
    boxes = torch.tensor([[[0.0, 0.0, 16.0, 16.0], [5.2, 3.0, 5.7, 9.0]]])
    regressed = torch.tensor([[[[8.0, 8.0]], [[5.4, 6.0]]]])
    sides, found = torch.tensor([16.0]), torch.ones(1, 2, dtype=torch.bool)
    cells, scores = weigh_keypoints(heatmap, regressed, boxes, found, sides, longest)
    assert cells[0, 0, 0].tolist() == [8, 8]
    assert scores[0, :, 0].tolist() == [0.5, 0.0]
