"""The order of images in shards: split over processes and workers, from any place, the same."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest
import torch
from detectron2.data import build_batch_data_loader
from detectron2.utils import comm

from d2_multitask.config import load_config
from d2_multitask.data import shard_files, shards
from d2_multitask.data.datasets.from_config import register_datasets
from d2_multitask.data.datasets.shards import expand_braces, register_shards
from d2_multitask.data.io import ShardError
from d2_multitask.data.loader import build_train_loader
from d2_multitask.data.mapper import BAD_IMAGE
from d2_multitask.data.problems import DATA_REPORT
from d2_multitask.data.sampler import TrainingImages
from d2_multitask.data.shard_files import images_in
from d2_multitask.data.shards import Shard, ShardedImages, ShardOrder
from d2_multitask.engine.setup import ends_in_a_sentence
from pack_shards import write_index
from shard_support import served, write_shards

COUNTS = (5, 3, 4, 1, 7, 2, 6)


@pytest.fixture(autouse=True)
def _two_shards_at_a_time(monkeypatch):
    monkeypatch.setattr(shards, "WINDOW", 2)
    images_in.cache_clear()


def counted(counts=COUNTS) -> ShardedImages:
    return ShardedImages([Shard(f"{i}.tar", count, 1) for i, count in enumerate(counts)])


@pytest.mark.parametrize("world", [1, 2, 3, 5, 28])
def test_each_epoch_has_each_image_once(world):
    total = sum(COUNTS)
    shares = [total * (r + 1) // world - total * r // world for r in range(world)]
    orders = [ShardOrder(counted(), 0, rank, world).after(0) for rank in range(world)]
    pairs = list(zip(orders, shares, strict=True))
    epochs = [[list(itertools.islice(order, number)) for order, number in pairs] for _ in range(3)]
    for parts in epochs:
        assert Counter(itertools.chain(*parts)) == Counter(range(total))
    if world < 28:
        assert len({str(parts) for parts in epochs}) == 3


def test_processes_read_their_share_of_the_shards():
    images = counted((10,) * 40)
    for rank in range(4):
        indices = list(itertools.islice(ShardOrder(images, 0, rank, 4).after(0), 100))
        assert len({index // 10 for index in indices}) == 10
        for window in range(0, 100, 20):
            part = indices[window : window + 20]
            assert len({index // 10 for index in part}) == 2
            assert part != sorted(part)


@pytest.mark.parametrize("start", [1, 9, 28, 40, 1000])
def test_from_any_place(start):
    order = ShardOrder(counted(), 3, 1, 2)
    whole = list(itertools.islice(order.after(0), start + 60))
    assert list(itertools.islice(order.after(start), 60)) == whole[start:]


def test_fewer_images_than_processes():
    with pytest.raises(ValueError, match="found 2 images for 3 processes"):
        ShardOrder(counted((2,)), 0, 0, 3)


def draw(record: dict) -> dict | None:
    """An image with what augmentation draws; one in the second shard cannot be used."""
    if record["file_name"].endswith("0006.jpg"):
        return None
    return {**record, "drawn": float(torch.rand(()))}


def batches(images: ShardedImages, start: int, number: int, workers: int = 0) -> list[list[dict]]:
    training = TrainingImages(images, draw, batch_size=2, seed=4)
    training.start = start
    loader = build_batch_data_loader(training, None, 2, num_workers=workers)
    return list(itertools.islice(loader, number))


def test_batches_depend_on_their_number_alone(tmp_path):
    paths = write_shards(tmp_path, COUNTS)
    images = ShardedImages([Shard(path, n, 0) for path, n in zip(paths, COUNTS, strict=True)])
    whole = batches(images, 0, 20)
    assert batches(images, 0, 20, workers=2) == whole
    assert batches(images, 11, 9, workers=2) == whole[11:]
    drawn = [image["drawn"] for batch in whole for image in batch]
    assert len(set(drawn)) == len(drawn)
    names = Counter(image["image_id"] for batch in whole[:14] for image in batch)
    # The image that cannot be used is replaced by one of its shard.
    assert sum(names.values()) == 28 and max(names.values()) <= 2
    assert sum(n for name, n in names.items() if name.startswith("images-001")) == 3


def test_two_processes_share_an_epoch(tmp_path, monkeypatch):
    paths = write_shards(tmp_path, (8, 8))
    images = ShardedImages([Shard(path, 8, 0) for path in paths])
    seen: Counter[str] = Counter()
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        training = TrainingImages(images, dict, batch_size=2, seed=1)
        seen.update(image["image_id"] for image in itertools.islice(training, 8))
    assert len(seen) == 16 and set(seen.values()) == {1}


@pytest.fixture
def cfg(tmp_path):
    cfg = load_config("quick/mae_pretrain.yaml")
    write_shards(tmp_path / "store", COUNTS)
    entry = {"NAME": "shards", "SHARDS": str(tmp_path / "store/images-{000..006}.tar")}
    register_datasets([entry])
    cfg.DATASETS.TRAIN = ("shards",)
    cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH = 2, 4
    return cfg


def test_the_loader_over_http_gives_what_the_local_files_give(cfg, tmp_path, monkeypatch):
    monkeypatch.setenv("D2_MULTITASK_SHARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    local = list(itertools.islice(build_train_loader(cfg), 12))
    with served(tmp_path / "store") as server:
        write_index(
            tmp_path / "store/shards.json",
            expand_braces(str(tmp_path / "store/images-{000..006}.tar")),
        )
        register_shards("remote", f"{server.url}/shards.json")
        cfg.DATASETS.TRAIN = ("remote",)
        loader = build_train_loader(cfg)
        loader.images.start = 3
        remote = list(itertools.islice(loader, 9))
    for ours, theirs in zip(local[3:], remote, strict=True):
        for image, other in zip(ours, theirs, strict=True):
            assert image["image_id"] == other["image_id"]
            assert torch.equal(image["image"], other["image"])
    fetched = [path for (path, part), n in server.requests.items() if not part for _ in range(n)]
    assert max(Counter(fetched).values()) == 1


def test_a_damaged_image_is_counted_and_a_shard_that_is_gone_ends_training(cfg, tmp_path):
    path = tmp_path / "store/images-004.tar"
    image = images_in(str(path))[0]
    with open(path, "r+b") as file:
        file.seek(image.start)
        file.write(b"no JPEG")
    DATA_REPORT.clear()
    loader = iter(build_train_loader(cfg))
    list(itertools.islice(loader, 12))
    assert DATA_REPORT.counts == {BAD_IMAGE: 1}
    del loader
    loader = build_train_loader(cfg)
    for path in Path(tmp_path / "store").glob("*.tar"):
        path.unlink()
    images_in.cache_clear()
    with pytest.raises(SystemExit) as ended, ends_in_a_sentence():
        list(itertools.islice(loader, 20))
    assert "cannot be read: No such file or directory" in str(ended.value)
    assert "--resume" in str(ended.value) and "Traceback" not in str(ended.value)
    with pytest.raises(ValueError, match="Dataset 'shards': .*000.tar: cannot be read: No such"):
        build_train_loader(cfg)


def test_prefetching_says_nothing_and_the_image_that_needs_the_shard_does(monkeypatch):
    monkeypatch.setattr(shard_files, "_WAITS", ())
    images = ShardedImages([Shard(f"http://127.0.0.1:9/{i}.tar", 2, 1) for i in range(5)])
    index = next(ShardOrder(images, 0, 0, 1).after(0))
    with pytest.raises(ShardError, match="cannot be fetched"):
        images[index]
