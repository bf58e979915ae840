"""Shards as datasets: brace notation, indexes, and what is said before training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from detectron2.utils import comm

from d2_multitask.config import load_config
from d2_multitask.data import shard_files
from d2_multitask.data.datasets.catalog import load_dataset
from d2_multitask.data.datasets.from_config import register_datasets
from d2_multitask.data.datasets.shards import ShardSet, expand_braces
from d2_multitask.data.io import ShardError, read_image
from d2_multitask.data.loader import build_test_loader, get_training_dicts
from d2_multitask.data.shard_files import images_in
from shard_support import served, write_shards


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("D2_MULTITASK_SHARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(shard_files, "_WAITS", ())
    images_in.cache_clear()
    write_shards(tmp_path / "store", (5, 3, 4))
    return tmp_path / "store"


def write_index(folder: Path, **changes: object) -> str:
    entries = [
        {"url": path.name, "nsamples": count, "filesize": path.stat().st_size}
        for path, count in zip(sorted(folder.glob("*.tar")), (5, 3, 4), strict=True)
    ]
    entries[1].update(changes)
    path = folder / "shards.json"
    path.write_text(json.dumps({"shardlist": entries}))
    return str(path)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{08..10}.tar", ["a-08.tar", "a-09.tar", "a-10.tar"]),
        ("{x,y}/{1..2}.tar", ["x/1.tar", "x/2.tar", "y/1.tar", "y/2.tar"]),
    ],
)
def test_brace_notation(pattern, names):
    assert expand_braces(pattern) == names


def test_too_many_shards_of_braces():
    with pytest.raises(ShardError, match="found 1000000000000 shards, expected at most 1000000"):
        expand_braces("{000000..999999}/{0..999999}.tar")


def test_counts_with_and_without_an_index(store):
    found = ShardSet("x", str(store / "images-{000..002}.tar")).found()
    assert [shard.count for shard in found] == [5, 3, 4]
    assert ShardSet("x", write_index(store)).found() == found


def test_for_evaluation_and_mixed_with_others(store):
    cfg = load_config("quick/mae_pretrain.yaml")
    register_datasets([{"NAME": "shards", "SHARDS": str(store / "images-{000..002}.tar")}])
    records = load_dataset("shards")
    assert len({record["image_id"] for record in records}) == len(records) == 12
    assert read_image(records[11]["file_name"]).shape == (10, 12, 3)
    (first,) = next(iter(build_test_loader(cfg, "shards")))
    assert first["image_id"] == "images-000.tar/set/0000.jpg"
    cfg.DATASETS.TRAIN, cfg.DATASETS.TRAIN_REPEAT_FACTOR = ("shards",), [["shards", 3]]
    assert len(get_training_dicts(cfg)) == 36
    cfg.DATASETS.SAMPLING = "equal"
    with pytest.raises(ValueError, match="SAMPLING: found 'equal' for shards, expected 'prop"):
        get_training_dicts(cfg)
    cfg.DATASETS.TRAIN = ("shards", "synthetic_people_train")
    with pytest.raises(ValueError, match=r"found the shards \['shards'\] .* expected shards alone"):
        get_training_dicts(cfg)
    cfg.DATASETS.TRAIN, cfg.MODEL.TASKS = ("shards",), ["foreground"]
    with pytest.raises(ValueError, match="needs no labels; pack"):
        get_training_dicts(cfg)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as an index of shards: JSONDecodeError"),
        ('{"shards": []}', "KeyError: 'shardlist'"),
        ('{"shardlist": [{"url": "images-000.tar"}]}', "TypeError: .* 'nsamples'"),
        ('{"shardlist": [{"url": "a.tar", "nsamples": "9"}]}', "ValueError: found 'a.tar', '9', 0"),
        ('{"shardlist": []}', "found no shard"),
        (None, "No such file"),
    ],
)
def test_bad_indexes(content, message, store):
    if content is not None:
        (store / "shards.json").write_text(content)
    with pytest.raises(ValueError, match=f"Dataset 'x': .*shards.json: .*{message}"):
        ShardSet("x", str(store / "shards.json")).found()


def test_missing_and_cut_shards_are_told_before_training(store):
    index = write_index(store)
    path = store / "images-001.tar"
    with open(path, "r+b") as file:
        file.truncate(2000)
    with pytest.raises(ValueError, match=r"images-001.tar: found 2000 bytes, expected \d+ as the"):
        ShardSet("x", index).found()
    with pytest.raises(ValueError, match="images-001.tar: found its end at byte 2000"):
        ShardSet("x", str(store / "images-{000..002}.tar")).found()
    with pytest.raises(ValueError, match="images-003.tar: cannot be read: No such file"):
        ShardSet("x", str(store / "images-{002..003}.tar")).found()
    with served(store) as server:
        with pytest.raises(ValueError, match="found 2000 bytes"):
            ShardSet("x", f"{server.url}/shards.json").found()
        path.unlink()
        with pytest.raises(ValueError, match="images-001.tar: cannot be fetched: .*404"):
            ShardSet("x", f"{server.url}/shards.json").found()
        with pytest.raises(ValueError, match="without an index; make one with python datasets/"):
            ShardSet("x", f"{server.url}/images-{{000..002}}.tar").found()


def test_each_process_checks_its_share(store, monkeypatch):
    index = write_index(store)
    (store / "images-001.tar").unlink()
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    assert len(ShardSet("x", index).found()) == 3
    monkeypatch.setattr(comm, "get_rank", lambda: 1)
    with pytest.raises(ValueError, match="images-001.tar"):
        ShardSet("x", index).found()


def test_a_cache_that_is_too_small(store, monkeypatch):
    with served(store) as server:
        write_index(store)
        register_datasets([{"NAME": "remote", "SHARDS": f"{server.url}/shards.json"}])
        cfg = load_config("quick/mae_pretrain.yaml")
        cfg.DATASETS.TRAIN = ("remote",)
        monkeypatch.setenv("D2_MULTITASK_SHARD_CACHE_GB", "0.00001")
        with pytest.raises(ValueError, match="SHARD_CACHE_GB: found 1e-05 for .*expected"):
            get_training_dicts(cfg)
        monkeypatch.setenv("D2_MULTITASK_SHARD_CACHE_GB", "much")
        with pytest.raises(ValueError, match="SHARD_CACHE_GB: found 'much', expected a number"):
            get_training_dicts(cfg)


def test_keys():
    with pytest.raises(ValueError, match="found key 'SHARD', .*; did you mean SHARDS"):
        register_datasets([{"NAME": "x", "SHARD": "a.tar"}])
    with pytest.raises(ValueError, match="found key 'IMAGE_ROOT', expected one of"):
        register_datasets([{"NAME": "x", "SHARDS": "a.tar", "IMAGE_ROOT": "b"}])
