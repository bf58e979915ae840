"""Pictures of segments: right places, right colours, nothing changed in place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from d2_multitask.patch_graph import PatchGraph, SegmenterSettings, segment_image
from d2_multitask.visualization import style
from d2_multitask.visualization.segments import (
    draw_foreground,
    draw_graph,
    draw_patches,
    draw_relation_of_patch,
    draw_segments,
    draw_strip,
    region_graph,
    strip_panels,
)
from mae_support import small_mae

GREY = np.full((60, 80, 3), 120, np.uint8)


def line_graph() -> PatchGraph:
    """Four patches in a row; the first two are linked strongly."""
    weights = np.zeros((4, 4))
    weights[0, 1] = weights[1, 0] = 1.0
    weights[2, 3] = weights[3, 2] = 0.2
    positions = np.stack([np.zeros(4), np.arange(4.0)], axis=1)
    return PatchGraph(weights, positions, (1, 4))


def test_lines_between_patches():
    picture = draw_patches(GREY, (3, 4))
    assert (picture[20] == 255).all() and (picture[:, 40] == 255).all()
    assert (picture[1:19, 1:19] == 120).all() and (GREY == 120).all()


def test_each_segment_has_its_colour():
    picture = draw_segments(GREY, np.array([[0, 1], [0, 1]]))
    expected = [(120 + np.array(style.object_color(k))) // 2 for k in (0, 1)]
    assert np.abs(picture[30, 20] - expected[0]).max() <= 1
    assert np.abs(picture[30, 60] - expected[1]).max() <= 1
    assert (picture[30, 40] == 255).all()


def test_foreground_keeps_its_pixels():
    mask = np.array([[True, False]])
    picture = draw_foreground(GREY, mask)
    assert (picture[30, 20] == 120).all() and picture[30, 70].max() < 70
    assert draw_foreground(GREY, None).max() < 70


def test_strong_edges_are_brighter():
    picture = draw_graph(GREY, line_graph()).astype(int).sum(2)
    assert picture[30, 20] > picture[30, 60] > picture[5, 5]  # between the first, the last, none


def test_a_graph_without_edges():
    graph = replace(line_graph(), weights=np.zeros_like(line_graph().weights))
    assert draw_graph(GREY, graph).max() == 255  # the nodes


def test_regions_as_nodes():
    regions = region_graph(line_graph(), np.array([[0, 0, 1, 1]]))
    assert regions.num_nodes == 2 and regions.weights.sum() == 0
    assert regions.positions_yx.tolist() == [[0, 0.5], [0, 2.5]]
    linked = region_graph(line_graph(), np.array([[0, 1, 1, 1]]))
    assert np.isclose(linked.weights[0, 1], 1 / 3)  # mean over three pairs
    assert [m.tolist() for m in linked.members] == [[0], [1, 2, 3]]


def test_the_framed_patch_and_the_one_that_helps_it():
    values = np.zeros((3, 4))
    values[2, 3] = 0.4
    values[0, 0] = -5
    picture = draw_relation_of_patch(GREY, values, (1, 1)).astype(int)
    assert (picture[20, 30] == 255).all()
    assert np.ptp(picture[50, 70]) > 50 and np.ptp(picture[10, 70]) < 5


def test_strip_from_patches_to_foreground():
    torch.manual_seed(0)
    settings = SegmenterSettings(passes=40, num_segments=2, resolution=2.0)
    result = segment_image(small_mae(32).eval(), torch.randn(3, 32, 32), settings, pixels=GREY)
    panels = strip_panels(GREY, result, 160)
    names = list(panels)
    assert names[:2] == ["4 x 4 patches", "graph"]
    assert names[-1] in ("foreground", "no object") and "2 segments" in names
    assert any("communities" in name for name in names)
    assert all(panel.shape == (120, 160, 3) for panel in panels.values())
    assert draw_strip(GREY, result, 80).shape[1] == len(panels) * 86 + 6
