"""datasets/pack_shards.py: folders to shards, taken up again, and indexes of others' shards."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

import pack_shards as tool
from d2_multitask.data.datasets.shards import ShardSet
from d2_multitask.data.shard_files import images_in
from shard_support import jpeg, served, write_shards


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images_in.cache_clear()
    (tmp_path / "images/below").mkdir(parents=True)
    for number in range(7):
        (tmp_path / f"images/below/a.{number}.JPG").write_bytes(jpeg(number))
    return tmp_path


def pack(folder: Path, *words: str) -> int:
    paths = ["--images", str(folder / "images"), "--output", str(folder / "shards")]
    return tool.main([*paths, "--images-per-shard", "3", *words])


def test_every_image_once_as_it_is_in_an_order_of_its_own(folder: Path) -> None:
    assert pack(folder) == 0
    members = {}
    for path in sorted((folder / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            members |= {member.name: tar.extractfile(member).read() for member in tar}
    assert sorted(members.values()) == sorted(jpeg(number) for number in range(7))
    names = [name.removesuffix(".jpg").partition("_") for name in members]
    assert [number for number, *_ in names] == [f"{number:09d}" for number in range(7)]
    assert sorted(name for *_, name in names) == [f"a_{number}" for number in range(7)]
    assert [name for *_, name in names] != sorted(name for *_, name in names)
    shards = ShardSet("x", str(folder / "shards/shards.json")).found()
    assert [shard.count for shard in shards] == [3, 3, 1]


def test_webdataset_reads_them(folder: Path) -> None:
    wds = pytest.importorskip("webdataset")
    assert pack(folder) == 0
    pattern = str(folder / "shards/images-{000000..000002}.tar")
    samples = list(wds.WebDataset(pattern, shardshuffle=False))
    assert sorted(sample["jpg"] for sample in samples) == sorted(jpeg(n) for n in range(7))


def test_an_interrupted_run_is_taken_up(folder: Path, monkeypatch, capsys) -> None:
    written = tool.write_shard

    def interrupted(path: Path, *words) -> None:
        if "000001" in path.name:
            raise KeyboardInterrupt
        written(path, *words)

    monkeypatch.setattr(tool, "write_shard", interrupted)
    assert pack(folder) == 130
    assert "The same command goes on" in capsys.readouterr().err
    first = (folder / "shards/images-000000.tar").stat().st_mtime_ns
    monkeypatch.setattr(tool, "write_shard", written)
    assert pack(folder) == 0
    assert (folder / "shards/images-000000.tar").stat().st_mtime_ns == first
    assert len(list((folder / "shards").glob("*.tar"))) == 3


def test_shards_of_other_images_are_not_mixed_in(folder: Path, capsys) -> None:
    assert pack(folder) == 0
    (folder / "images/new.jpg").write_bytes(jpeg(9))
    assert pack(folder) == 2
    assert "found shards of other images" in capsys.readouterr().err
    (folder / "shards/plan.json").unlink()
    assert pack(folder) == 2
    assert "found tar files without plan.json" in capsys.readouterr().err


def test_an_index_of_shards_that_others_made(folder: Path, monkeypatch, capsys) -> None:
    write_shards(folder / "others", (2, 3))
    words = ["--index", str(folder / "others/images-{000..001}.tar"), "--output"]
    assert tool.main([*words, str(folder / "others/shards.json")]) == 0
    content = json.loads((folder / "others/shards.json").read_text())
    assert [entry["url"] for entry in content["shardlist"]] == ["images-000.tar", "images-001.tar"]
    monkeypatch.setenv("D2_MULTITASK_SHARD_CACHE", str(folder / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with served(folder / "others") as server:
        words = ["--index", server.url + "/images-{000..001}.tar"]
        assert tool.main([*words, "--output", str(folder / "remote.json")]) == 0
        assert [s.count for s in ShardSet("x", str(folder / "remote.json")).found()] == [2, 3]
    assert tool.main(["--index", "absent.tar", "--output", str(folder / "x.json")]) == 2
    assert "absent.tar: cannot be read: No such file" in capsys.readouterr().err


def test_the_sets_of_a_config(folder: Path) -> None:
    (folder / "c.yaml").write_text(
        "DATASETS:\n  REGISTER:\n    - {NAME: packed_images, IMAGE_ROOT: "
        f'{folder / "images"}}}\n  TRAIN: ("packed_images",)\nVERSION: 2\n'
    )
    words = ["--config-file", str(folder / "c.yaml"), "--output", str(folder / "shards")]
    assert tool.main(words) == 0
    assert ShardSet("x", str(folder / "shards/shards.json")).found()[0].count == 7
