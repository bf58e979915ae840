from __future__ import annotations

import pytest
import torch

from benchmark.vit import OURS, THEIRS, build_pair, measure_vit, vit_table
from d2_multitask.config import get_multitask_cfg


def small_cfg():
    cfg = get_multitask_cfg()
    cfg.MODEL.MAE.SIZE, cfg.MODEL.MAE.PATCH_SIZE, cfg.MODEL.MAE.IMAGE_SIZE = "tiny", 8, (32, 32)
    cfg.MODEL.MAE.EMBED_DIM, cfg.MODEL.MAE.DEPTH, cfg.MODEL.MAE.NUM_HEADS = 16, 3, 2
    cfg.MODEL.VIT.WINDOW_SIZE, cfg.MODEL.VIT.GLOBAL_BLOCKS = 3, [1]
    cfg.MODEL.VIT.DROP_PATH, cfg.MODEL.VIT.FREEZE_BLOCKS = 0.5, 2  # neither is measured
    return cfg


def test_numbers():
    results = measure_vit(small_cfg(), torch.randn(1, 3, 48, 48), runs=1, warmup=0)
    assert list(results) == [
        f"{positions}, {name}"
        for positions in ("no relative positions", "relative positions")
        for name in ("forward", "forward and backward")
    ]
    for result in results.values():
        assert result.difference < 1e-5
        expected = result.seconds[OURS] / result.seconds[THEIRS]
        assert result.ratio == pytest.approx(expected)
    assert vit_table(results).count("\n") == 2 + 3


@pytest.mark.parametrize("use_rel_pos", [False, True])
def test_both_have_the_same_blocks_and_learn_all_of_them(use_rel_pos):
    pair = build_pair(small_cfg(), torch.randn(1, 3, 48, 48), use_rel_pos)
    for network in pair.values():
        assert [block.window_size for block in network.blocks] == [3, 0, 3]
        assert all(parameter.requires_grad for parameter in network.parameters())
        positions = [p for name, p in network.named_parameters() if ".rel_pos_" in name]
        assert len(positions) == 6 * use_rel_pos and all(p.any() for p in positions)


def test_what_detectron2_cannot_do():
    cfg = small_cfg()
    with pytest.raises(ValueError, match="images: found 48x32, expected a square"):
        measure_vit(cfg, torch.randn(1, 3, 48, 32), runs=1)
    cfg.MODEL.MAE.IMAGE_SIZE = (32, 48)
    with pytest.raises(ValueError, match="IMAGE_SIZE: found 32x48"):
        measure_vit(cfg, torch.randn(1, 3, 48, 48), runs=1)
