"""Branches computed at cells give the numbers of the whole map."""

from __future__ import annotations

import pytest
import torch

from d2_multitask.config import get_multitask_cfg
from d2_multitask.heads import TASK_HEAD_REGISTRY, build_heads
from d2_multitask.heads.base import CellBranch
from d2_multitask.modeling.inference import at_peaks, compute_at_peaks
from d2_multitask.modeling.inference.at_peaks import BranchAtPeaks, windows_at
from d2_multitask.targets.decode import values_at
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
    monkeypatch.setattr(at_peaks, "DENSE_SHARE", share)
    torch.manual_seed(0)
    branch = CellBranch(6, 5, 4, weight_std=None).to(memory_format=order)
    branch[0].bias.data.normal_()
    feature = torch.randn(2, 6, 7, 9).contiguous(memory_format=order)
    corners = [[0, 0], [8, 0], [0, 6], [8, 6], [4, 3], [4, 3]]
    xy = torch.tensor([corners, corners[::-1]])
    lazy = BranchAtPeaks(branch)(feature)
    expected = values_at(branch(feature), xy)
    torch.testing.assert_close(values_at(lazy, xy), expected)


def test_no_cells() -> None:
    lazy = BranchAtPeaks(CellBranch(6, 5, 4))(torch.randn(2, 6, 7, 9))
    assert values_at(lazy, torch.zeros(2, 0, 2, dtype=torch.long)).shape == (2, 0, 4)


@pytest.mark.parametrize("task", [name for name, _ in TASK_HEAD_REGISTRY])
def test_every_head_reads_its_cell_branches_at_cells_only(task: str) -> None:
    """A head that did anything else with such a prediction would raise here."""
    torch.manual_seed(0)
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS = [task]
    heads = build_heads(cfg, TinyBackbone().output_shape())
    listed = [branch for branch in heads.modules() if isinstance(branch, CellBranch)]
    model = network([task]).eval()
    before = model([labelled_image()])
    assert compute_at_peaks(model) == len(listed)
    after = model([labelled_image()])
    assert set(before[0]) == set(after[0])


def test_norms_that_cannot_be_folded_and_flip_tests_keep_the_map() -> None:
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS = ["det"]
    cfg.MODEL.CENTER_HEAD.NORM = "GN"
    heads = build_heads(cfg, TinyBackbone().output_shape())
    assert compute_at_peaks(heads) == 0
    assert compute_at_peaks(network(["det"], flip_test=True)) == 0
