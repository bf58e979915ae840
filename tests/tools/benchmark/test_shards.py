"""The loader on a folder and on shards, on a few images."""

from __future__ import annotations

from pathlib import Path

from benchmark.shards import measure_shards
from d2_multitask.config import load_config


def test_folder_and_shards_in_turn(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("D2_MULTITASK_SHARD_CACHE", "")  # restored at the end
    cfg = load_config("quick/mae_pretrain.yaml")
    cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS = 2, 0
    numbers = measure_shards(cfg, tmp_path, 40, batches=2, turns=1)
    assert all(value > 0 for value in numbers.values())
    ratio = numbers["shards, images/s"] / numbers["folder, images/s"]
    assert numbers["shards / folder, images/s"] == ratio
    assert len(list((tmp_path / "images").glob("*.jpg"))) == 40
    assert len(list((tmp_path / "shards").glob("*.tar"))) == 2
    assert list((tmp_path / "cache_0").glob("*.tar"))
