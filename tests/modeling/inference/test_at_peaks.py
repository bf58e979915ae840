"""Branches computed at cells give the numbers of the whole map."""

from __future__ import annotations

import pytest
import torch

from d2_multitask.config import get_multitask_cfg
from d2_multitask.heads import TASK_HEAD_REGISTRY, build_heads
from d2_multitask.heads.base import Branch
from d2_multitask.modeling.inference import at_peaks as cellwise
from d2_multitask.modeling.inference import make_cellwise
from d2_multitask.modeling.inference.at_peaks import CellwiseBranch, windows_at
from d2_multitask.targets.decode import gather_cells
from fusion_support import network
from support import TinyBackbone, labelled_image


def test_windows_row_by_row_and_zero_outside() -> None:
    feature = torch.arange(12.0).view(1, 1, 3, 4)
    windows = windows_at(feature, torch.tensor([[[1, 1], [3, 0]]]))[0, :, :, 0]
    assert windows[0].tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert windows[1].tolist() == [0, 0, 0, 2, 3, 0, 6, 7, 0]


@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("share", [0.0, 1.0], ids=["convolution", "windows"])
def test_cells_equal_the_map(
    share: float, order: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cellwise, "DENSE_SHARE", share)
    torch.manual_seed(0)
    branch = Branch(6, 5, 4, weight_std=None).to(memory_format=order)
    branch[0].bias.data.normal_()
    feature = torch.randn(2, 6, 7, 9).contiguous(memory_format=order)
    corners = [[0, 0], [8, 0], [0, 6], [8, 6], [4, 3], [4, 3]]
    xy = torch.tensor([corners, corners[::-1]])
    lazy = CellwiseBranch(branch)(feature)
    expected = gather_cells(branch(feature) * 16, xy)
    torch.testing.assert_close(gather_cells(lazy.float() * 16, xy), expected)


def test_no_cells() -> None:
    lazy = CellwiseBranch(Branch(6, 5, 4))(torch.randn(2, 6, 7, 9))
    assert gather_cells(lazy, torch.zeros(2, 0, 2, dtype=torch.long)).shape == (2, 0, 4)


@pytest.mark.parametrize("task", [name for name, _ in TASK_HEAD_REGISTRY])
def test_every_head_reads_what_it_lists_at_cells_only(task: str) -> None:
    """A head that did anything else with such a prediction would raise here."""
    torch.manual_seed(0)
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS = [task]
    listed = [
        (head, name)
        for head in build_heads(cfg, TinyBackbone().output_shape()).values()
        for name in head.read_at_cells
    ]
    model = network([task]).eval()
    before = model([labelled_image()])
    assert make_cellwise(model) == len(listed)
    after = model([labelled_image()])
    assert set(before[0]) == set(after[0])


def test_norms_that_cannot_be_folded_and_flip_tests_keep_the_map() -> None:
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS = ["det"]
    cfg.MODEL.CENTER_HEAD.NORM = "GN"
    heads = build_heads(cfg, TinyBackbone().output_shape())
    assert make_cellwise(heads) == 0
    assert make_cellwise(network(["det"], flip_test=True)) == 0
