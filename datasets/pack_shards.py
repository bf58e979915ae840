#!/usr/bin/env python
"""Packs images into shards: tar files in webdataset's layout, for pre-training without labels.

    python datasets/pack_shards.py --images datasets/my_images --output datasets/my_shards
    python datasets/pack_shards.py --config-file quick/mae_pretrain.yaml --output datasets/my_shards
    python datasets/pack_shards.py --index 'datasets/others/train-{0000..0099}.tar' \
        --output datasets/others/shards.json

--config-file packs the images of the config's DATASETS.TRAIN. Files are copied as they are, in a
shuffled order, as images-000000.tar and so on; shards.json, the index in the format of webdataset's
package wids, is written last. The same command goes on where an interrupted one ended. --index
writes an index alone, of shards that exist, paths or http(s) addresses.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from d2_multitask.config import load_config
from d2_multitask.data.datasets.catalog import load_dataset
from d2_multitask.data.datasets.folders import ImageFolder
from d2_multitask.data.datasets.from_config import register_datasets
from d2_multitask.data.datasets.shards import expand_braces
from d2_multitask.data.shard_files import images_in, is_remote, shard_size
from d2_multitask.data.whole_files import whole_file, write_json
from d2_multitask.engine.setup import parse_with_overrides
from d2_multitask.exits import exit_code

INDEX, PLAN = "shards.json", "plan.json"


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    if args.index:
        return exit_code(lambda: write_index(args.output, expand_braces(args.index)))
    return exit_code(
        lambda: pack(listed(args), args.output, args.images_per_shard),
        interrupted="\nInterrupted. The same command goes on.\n",
    )


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", help="folder of images, with folders below it")
    source.add_argument("--config-file", help="its DATASETS.TRAIN; KEY VALUE may follow")
    source.add_argument("--index", help="shards that exist, in brace notation")
    parser.add_argument("--output", type=Path, required=True, help="folder, or JSON of --index")
    parser.add_argument("--images-per-shard", type=int, default=1000)
    args = parse_with_overrides(parser, arguments)
    if args.images_per_shard < 1:
        parser.error("expected --images-per-shard >= 1")
    return args


def listed(args: argparse.Namespace) -> list[tuple[str, str]]:
    """(name, path) of each image, in a shuffled order that is always the same."""
    if args.images:
        records = ImageFolder("--images", args.images)()
    else:
        cfg = load_config(args.config_file, args.opts)
        register_datasets(cfg.DATASETS.REGISTER)
        records = [record for name in cfg.DATASETS.TRAIN for record in load_dataset(name)]
    images = [(str(r.get("image_id", r["file_name"])), r["file_name"]) for r in records]
    random.Random(0).shuffle(images)
    return images


def pack(images: Sequence[tuple[str, str]], folder: Path, per_shard: int) -> None:
    """Write the shards that are not there yet, and the index.

    Raises:
        ValueError: the folder holds shards of other images.
    """
    digest = hashlib.sha256(repr([(n, p, Path(p).stat().st_size) for n, p in images]).encode())
    plan = {"images": len(images), "per_shard": per_shard, "sha256": digest.hexdigest()}
    if (folder / PLAN).exists():
        found = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        if found != plan:
            raise ValueError(
                f"{folder}: found shards of other images, {found}, expected {plan}; take another "
                "--output, or delete the folder"
            )
    elif any(folder.glob("*.tar")):
        raise ValueError(f"{folder}: found tar files without {PLAN}; take another --output")
    write_json(folder / PLAN, plan)
    shards = []
    for number, first in enumerate(tqdm(range(0, len(images), per_shard), unit="shard")):
        shards.append(folder / f"images-{number:06d}.tar")
        if not shards[-1].exists():
            write_shard(shards[-1], images[first : first + per_shard], first)
    write_index(folder / INDEX, [str(shard) for shard in shards])


def write_shard(path: Path, images: Iterable[tuple[str, str]], first: int) -> None:
    """Write a shard; a member is named by the image's number and its own name."""
    with whole_file(path, durable=True) as unfinished, tarfile.open(unfinished, "w") as tar:
        for number, (name, file_name) in enumerate(images, first):
            # webdataset's key ends with the first dot of the name, and one key is one image.
            key = Path(name).stem.replace(".", "_")[-60:]
            member = tarfile.TarInfo(f"{number:09d}_{key}{Path(file_name).suffix.lower()}")
            member.size = Path(file_name).stat().st_size
            with open(file_name, "rb") as file:
                tar.addfile(member, file)


def write_index(path: Path, shards: Sequence[str]) -> None:
    """Count the images of the shards and write that, with their sizes."""
    entries = []
    for shard in tqdm(shards, unit="shard"):
        beside = not is_remote(shard) and Path(shard).parent.resolve() == path.parent.resolve()
        name = shard if is_remote(shard) else str(Path(shard).resolve())
        entries.append(
            {
                "url": Path(shard).name if beside else name,
                "nsamples": len(images_in(shard)),
                "filesize": shard_size(shard),
            }
        )
    content = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": entries}
    write_json(path, content, indent=1)
    total = sum(entry["nsamples"] for entry in entries)
    print(f"{total} images in {len(entries)} shards: {path}")


if __name__ == "__main__":
    sys.exit(main())
