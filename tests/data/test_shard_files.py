"""Tar files of images: what is found in them, cut ones, and copies of those behind addresses."""

from __future__ import annotations

import os
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from detectron2.utils.file_io import PathManager

from d2_multitask.data import shard_files
from d2_multitask.data.io import ShardError, read_image
from d2_multitask.data.shard_files import address, images_in, local_path, shard_size
from shard_support import jpeg, served, write_shards


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("D2_MULTITASK_SHARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(shard_files, "_WAITS", (0, 0))
    images_in.cache_clear()


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_images_are_those_that_tarfile_finds(format, tmp_path):
    (shard,) = write_shards(tmp_path, (3,), format)
    with tarfile.open(shard) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar if m.name.endswith(".jpg")]
    assert list(images_in(shard)) == expected
    for number, image in enumerate(images_in(shard)):
        with PathManager.open(address(shard, image), "rb") as file:
            assert file.read() == jpeg(number)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["long/" * 60 + "name.JPG", "a" * 101 + ".jpg", "Größe#1.jpg"])
def test_long_and_foreign_names(name, format, tmp_path):
    path = tmp_path / "a#b.tar"
    (tmp_path / "image").write_bytes(jpeg(1))
    with tarfile.open(path, "w", format=format) as tar:
        tar.add(tmp_path / "image", name)
    (image,) = images_in(str(path))
    assert image.name == name
    assert read_image(address(str(path), image)).shape == (9, 12, 3)


def test_the_shards_of_webdataset(tmp_path):
    wds = pytest.importorskip("webdataset")
    path = str(tmp_path / "theirs.tar")
    with wds.TarWriter(path) as writer:
        for number in range(3):
            writer.write({"__key__": f"{number:03d}", "jpg": jpeg(number), "cls": number})
    assert [image.name for image in images_in(path)] == ["000.jpg", "001.jpg", "002.jpg"]
    (ours,) = write_shards(tmp_path, (3,))
    samples = list(wds.WebDataset(ours, shardshuffle=False))
    assert [sample["jpg"] for sample in samples] == [jpeg(number) for number in range(3)]


@pytest.mark.parametrize("size", [0, 100, 512, 700, 1024 + 100, -1, -10240, -5000])
def test_a_cut_shard_is_named_with_the_place(size, tmp_path):
    (shard,) = write_shards(tmp_path, (2,))
    content = Path(shard).read_bytes()
    end = len(content.rstrip(b"\0")) + 511  # two blocks of zeros and more follow
    cut = content[: size if size >= 0 else end // 512 * 512 + size % 512]
    Path(shard).write_bytes(cut)
    with pytest.raises(
        ShardError, match=rf"images-000\.tar: found its end at byte {len(cut)} .* cut"
    ):
        images_in(shard)


@pytest.mark.parametrize("content", [b"<html>not here</html>" * 40, b"\x1f\x8b" + bytes(1000)])
def test_what_is_no_tar_file(content, tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    with pytest.raises(ShardError, match="found no tar header at byte 0, expected a tar file that"):
        images_in(str(path))


def test_shards_without_images_and_other_numbers_than_the_index_says(tmp_path):
    (shard,) = write_shards(tmp_path, (2,))
    with pytest.raises(ShardError, match="found 2 images .*json.* expected 3"):
        images_in(shard, 3)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(shard, "a.npy")
    with pytest.raises(ShardError, match=r"found 0 images \(members end with \['.npy'\]\)"):
        images_in(str(tmp_path / "x.tar"))


def test_a_shard_that_is_cut_or_gone_during_training(tmp_path):
    (shard,) = write_shards(tmp_path, (2,))
    place = address(shard, images_in(shard)[1])
    with open(shard, "r+b") as file:
        file.truncate(images_in(shard)[1].start + 5)
    with pytest.raises(ShardError, match="ends before byte .* cut; copy or pack it again"):
        read_image(place)
    Path(shard).unlink()
    with pytest.raises(ShardError, match="cannot be read: No such file"):
        read_image(place)


def test_a_shard_behind_an_address_is_fetched_once(tmp_path):
    (shard,) = write_shards(tmp_path / "store", (3,))
    with served(tmp_path / "store") as server:
        url = f"{server.url}/images-000.tar"
        assert shard_size(url) == Path(shard).stat().st_size
        server.failures, server.cuts = 1, 1
        threads = [threading.Thread(target=local_path, args=(url,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.requests["/images-000.tar", None] == 3  # busy, cut, whole
        assert images_in(url) == images_in(shard)
        assert np.array_equal(
            *(read_image(address(name, images_in(shard)[1])) for name in (url, shard))
        )
        assert server.requests["/images-000.tar", None] == 3


def test_a_shard_that_cannot_be_fetched(tmp_path):
    write_shards(tmp_path / "store", (3,))
    with served(tmp_path / "store") as server:
        with pytest.raises(ShardError, match=r"images-9.tar: cannot be fetched: .*404.*--resume"):
            local_path(f"{server.url}/images-9.tar")
        assert server.requests["/images-9.tar", None] == 1  # what is not there will not come
        server.failures = 3
        with pytest.raises(ShardError, match="cannot be fetched: .*503"):
            local_path(f"{server.url}/images-000.tar")
        url = server.url
    with pytest.raises(ShardError, match="cannot be fetched: .*refused"):
        shard_size(f"{url}/images-000.tar")
    assert not [p for p in (tmp_path / "cache").iterdir() if p.suffix != ".guard"]


def test_the_cache_stays_within_its_limit(tmp_path, monkeypatch):
    shards = write_shards(tmp_path / "store", (3, 3, 3))
    size = Path(shards[0]).stat().st_size
    monkeypatch.setenv("D2_MULTITASK_SHARD_CACHE_GB", str(2.5 * size / 1e9))
    with served(tmp_path / "store") as server:
        urls = [f"{server.url}/{Path(shard).name}" for shard in shards]
        first, second = map(local_path, urls[:2])
        for path, when in ((first, 2), (second, 1)):  # the first was used later
            os.utime(path, (when, when))
        assert local_path(urls[2]).exists()
        assert first.exists() and not second.exists()
        assert local_path(urls[1]).exists() and not first.exists()
