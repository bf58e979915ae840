"""Mutated tar files and indexes: a sentence that names the file, or images that may be damaged."""

from __future__ import annotations

import contextlib
import random
import tarfile
from pathlib import Path

import pytest

from d2_multitask.data.datasets.shards import ShardSet
from d2_multitask.data.io import ImageReadError, ShardError, read_image
from d2_multitask.data.shard_files import address, images_in
from fuzz.mutation import mutated_bytes, mutated_json, number_of_mutants
from shard_support import write_shards

MUTANTS = number_of_mutants(300)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_sentence_or_images(format, tmp_path: Path) -> None:
    (shard,) = write_shards(tmp_path, (3,), format)
    with tarfile.open(shard, "a", format=format) as tar:
        tar.add(__file__, "long/" * 30 + "name.jpg")
    path, draw, told = tmp_path / "mutant.tar", random.Random(1), 0
    whole = Path(shard).read_bytes()
    words = (b"0", b"path=", b"\xff" * 4, b"x", b"L", bytes(512))
    for index in range(MUTANTS):
        path.write_bytes(mutated_bytes(draw, whole, words))
        images_in.cache_clear()
        try:
            for image in images_in(str(path)):
                with contextlib.suppress(ImageReadError):
                    read_image(address(str(path), image))
        except ShardError as error:
            told += 1
            assert "mutant.tar: " in str(error), index
        except Exception as error:
            raise AssertionError(f"mutant {index} raises {error!r}") from error
    assert 0 < told < MUTANTS


def test_a_sentence_or_shards(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, (2, 3))
    entries = [
        {"url": Path(path).name, "nsamples": n, "filesize": Path(path).stat().st_size}
        for path, n in zip(paths, (2, 3), strict=True)
    ]
    content = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": entries}
    path, draw, told = tmp_path / "mutant.json", random.Random(1), 0
    for index in range(MUTANTS):
        path.write_text(mutated_json(draw, content), errors="replace")
        try:
            shards = ShardSet("x", str(path)).found()
            assert shards and all(shard.count > 0 and shard.size > 0 for shard in shards)
        except ValueError as error:
            told += 1
            assert str(error).startswith("Dataset 'x': "), index
        except Exception as error:
            raise AssertionError(f"mutant {index} raises {error!r}: {path.read_text()}") from error
    assert 0 < told < MUTANTS
