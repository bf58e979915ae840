"""What is segmented: image files, and the autoencoder that they are brought to."""

from __future__ import annotations

import logging
import os
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from PIL import Image
from torch import Tensor

from d2_multitask.config import load_config
from d2_multitask.data.datasets.folders import ImageFolder
from d2_multitask.data.datasets.shards import ShardSet
from d2_multitask.data.io import read_image
from d2_multitask.data.shard_files import PREFIX, address, images_in, is_remote
from d2_multitask.engine.predictor import find_weights
from d2_multitask.engine.setup import fall_back_to_cpu, find_config_file, flat
from d2_multitask.engine.trainer import load_for_evaluation
from d2_multitask.modeling.mae import MaskedAutoencoder

logger = logging.getLogger(__name__)

# Config keys, and beginnings of such, that an autoencoder's answers depend on beside its weights.
NETWORK_KEYS = ("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.MAE.")


@dataclass(frozen=True)
class ImageFiles:
    """Files below one folder, or in shards below it.

    Attributes:
        root: the folder.
        names: paths below it, with "/", in the order given; those of a folder are sorted. An image
            of a shard has the shard's path without ".tar", and its number there: members may be
            called anything, "../x.jpg" or twice the same.
        addresses: of images in shards, by their names; as ``PathManager`` opens them.
    """

    root: Path
    names: list[str]
    addresses: Mapping[str, str] = field(default_factory=dict)

    def file(self, name: str) -> str:
        """What `read_image` opens."""
        return self.addresses.get(name) or str(self.root / name)

    def modified(self, name: str) -> float:
        """When the file was changed, 0 for shards: those are compared as a whole."""
        return 0.0 if self.addresses else (self.root / name).stat().st_mtime

    def file_name(self, name: str) -> str:
        """Of the image in a COCO file, below the dataset's ``IMAGE_ROOT``: the folder, or for
        shards `PREFIX`.
        """
        return self.addresses[name].removeprefix(PREFIX) if self.addresses else name

    def outputs(self) -> list[str]:
        """Names without endings for what is written; with the ending where two would be equal."""
        stems = [Path(name).with_suffix("").as_posix() for name in self.names]
        times, names = Counter(stems), set(self.names)  # a.jpg.png: the name of a.jpg
        return [
            stem if times[stem] == 1 and stem not in names else name
            for stem, name in zip(stems, self.names, strict=True)
        ]


def find_images(inputs: Sequence[str | Path], output: Path | None = None) -> ImageFiles:
    """The image files that paths stand for.

    Args:
        inputs: files, and folders with all that is below them; or shards, as the key ``SHARDS`` of
            a dataset names them: an index (.json), or tar files in brace notation.
        output: folder of ``--output``; where it is in one of the folders its images are left out.

    Returns:
        The files, each once, below their common folder.

    Raises:
        ValueError: an input does not exist, a folder holds no image (outside of ``output``), or a
            shard is cut or behind an address.
    """
    shards = [str(given) for given in inputs if str(given).endswith((".tar", ".json"))]
    if len(shards) == len(inputs):
        return _images_of_shards(shards)
    if shards:
        raise ValueError(
            f"--input: found the shards {shards[0]} among {[str(i) for i in inputs]}, expected "
            "shards alone, or files and folders"
        )
    found: dict[Path, None] = {}  # the folders resolved, but no link to an image
    folders = []
    for given in map(Path, inputs):
        if not given.exists():
            raise ValueError(f"--input: found no file and no folder {given}")
        folder = given if given.is_dir() else given.parent
        names = _images_of_folder(folder, output) if given.is_dir() else [given.name]
        folders.append(folder.resolve())
        found.update(dict.fromkeys(folders[-1] / name for name in names))
    root = Path(os.path.commonpath(folders))
    names = [path.relative_to(root).as_posix() for path in found]
    return ImageFiles(folder if len(folders) == 1 else root, names)


def _images_of_folder(folder: Path, output: Path | None) -> list[str]:
    """Names below the folder, without those of an output folder in it."""
    names = [record["image_id"] for record in ImageFolder("--input", str(folder))()]
    root, output = folder.resolve(), output and output.resolve()
    if output is None or not output.is_relative_to(root):
        return names
    kept = [name for name in names if not (root / name).is_relative_to(output)]
    if not kept:
        raise ValueError(
            f"--input: found {len(names)} images in {folder}, all of them in --output {output}; "
            "expected images outside of it"
        )
    if len(kept) < len(names):
        logger.info("%d of them left out: they are in --output", len(names) - len(kept))
    return kept


def _images_of_shards(inputs: Sequence[str]) -> ImageFiles:
    """All images of shards, in their order there."""
    found = [shard for given in inputs for shard in ShardSet("--input", given).found()]
    shards = {shard.name: shard.count for shard in found}
    for name in filter(is_remote, shards):
        raise ValueError(
            f"--input: found {name}, expected shards on this computer: what is trained on their "
            "segments reads their images in any order; copy or mount them"
        )
    root = os.path.commonpath([os.path.dirname(os.path.abspath(name)) for name in shards])
    addresses = {}
    for name, count in shards.items():
        stem = Path(os.path.relpath(name, root)).with_suffix("").as_posix()
        for number, image in enumerate(images_in(name, count)):
            addresses[f"{stem}/{number:06d}"] = address(name, image)
    return ImageFiles(Path(root), list(addresses), addresses)


def working_size(
    image_hw: tuple[int, int], patch_size: int, long_side: int, shifts: int = 1
) -> tuple[int, int]:
    """The size (h, w) at which an image is segmented.

    Args:
        image_hw: of the image.
        patch_size: both sides become multiples of it.
        long_side: of the result, pixels.
        shifts: cells along a side of a patch.

    Raises:
        ValueError: the image is smaller than a patch, so narrow that its shorter side would hold
            less than two patches, or has fewer pixels than cells along a side.
    """
    height, width = image_hw
    if min(image_hw) < patch_size:
        raise ValueError(
            f"found an image of {width}x{height} pixels (width x height), expected at least one "
            f"patch of {patch_size}x{patch_size}"
        )
    scale = long_side / max(image_hw)
    rows, columns = (round(side * scale / patch_size) for side in image_hw)
    if min(rows, columns) < 2:
        raise ValueError(
            f"found an image of {width}x{height} pixels (width x height), which at a longer side "
            f"of {long_side} has less than two patches of {patch_size} pixels across; expected a "
            "larger --size"
        )
    if width < shifts * columns or height < shifts * rows:
        raise ValueError(
            f"found an image of {width}x{height} pixels (width x height) for "
            f"{shifts * columns}x{shifts * rows} cells, expected a pixel for each; a smaller "
            "--size or fewer --shifts make fewer cells"
        )
    return rows * patch_size, columns * patch_size


@dataclass(frozen=True)
class ReadyImage:
    """An image for people and for the network.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, as in the file.
        tensor: (3, h, w), normalised, on the network's device; multiples of the patch.
    """

    pixels: np.ndarray
    tensor: Tensor


def read_ready(
    file: str | Path,
    model: MaskedAutoencoder,
    long_side: int,
    input_format: str = "RGB",
    shifts: int = 1,
) -> ReadyImage:
    """Read an image and bring it to its working size, by bicubic filtering as in training.

    Args:
        file: the image.
        model: gives patch, normalisation and device.
        long_side: see `working_size`.
        input_format: ``INPUT.FORMAT``, the network's order of channels.
        shifts: see `working_size`.

    Raises:
        ValueError: the file cannot be read (`ImageReadError`), or see `working_size`; names it.
    """
    pixels = read_image(str(file), "RGB")
    try:
        height, width = working_size(pixels.shape[:2], model.patch_size, long_side, shifts)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    channels = np.asarray(resized) if input_format == "RGB" else np.asarray(resized)[..., ::-1]
    tensor = torch.from_numpy(np.ascontiguousarray(channels.transpose(2, 0, 1)))
    tensor = tensor.to(model.device)
    return ReadyImage(pixels, (tensor - model.pixel_mean) / model.pixel_std)


def default_long_side(model: MaskedAutoencoder) -> int:
    """The longer side of the images that the autoencoder learned from, pixels."""
    return max(model.encoder.grid_hw) * model.patch_size


def load_autoencoder(config_file: str, opts: list[str]) -> tuple[CfgNode, MaskedAutoencoder]:
    """Build the network of a config and load ``MODEL.WEIGHTS``, or what ``OUTPUT_DIR`` holds.

    Args:
        config_file: path, or name below ``configs/``.
        opts: ``KEY VALUE`` pairs.

    Returns:
        The config, frozen, and the network in evaluation mode.

    Raises:
        ValueError: the config is another network's, there are no weights, or they do not fit.
    """
    cfg = load_config(find_config_file(config_file), opts)
    fall_back_to_cpu(cfg)
    check_autoencoder(cfg)
    cfg.MODEL.WEIGHTS = find_weights(cfg)
    cfg.freeze()
    model = build_model(cfg).eval()
    load_for_evaluation(cfg, model)
    return cfg, model


def check_autoencoder(cfg: CfgNode) -> None:
    """Raise a ValueError if the config is another network's."""
    if cfg.MODEL.META_ARCHITECTURE != MaskedAutoencoder.__name__:
        raise ValueError(
            f"MODEL.META_ARCHITECTURE: found {cfg.MODEL.META_ARCHITECTURE!r}, expected "
            f"{MaskedAutoencoder.__name__!r}, which reconstructs patches"
        )


def network_as_json(cfg: CfgNode) -> dict[str, Any]:
    """All that the answers of a network of `load_autoencoder` depend on."""
    weights = cfg.MODEL.WEIGHTS
    crc = checksum(weights) if Path(weights).is_file() else None
    read = {key: value for key, value in flat(cfg).items() if key.startswith(NETWORK_KEYS)}
    return {"weights": weights, "weights_crc32": crc, **read}


def checksum(file: str | Path) -> str:
    """CRC-32 of a file, to know whether weights are the same."""
    value = 0
    with open(file, "rb") as stream:
        while chunk := stream.read(2**24):
            value = zlib.crc32(chunk, value)
    return f"{value:08x}"
