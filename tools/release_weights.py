#!/usr/bin/env python
"""Writes the tensors that a training made, without those that it started from, in float16.

    python tools/release_weights.py output/mcn_people_seg/model_final.pth --prefix heads.seg. \
        --output d2_multitask/weights/mcn_people_seg.safetensors

Numbers that float16 cannot hold are an error. Whole numbers, such as counts of batches, are left
out. The config and names that the checkpoint carries are written too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from convert_movenet_weights import write
from d2_multitask.checkpoint import read_checkpoint
from d2_multitask.checkpoint.reading import DESCRIPTION_KEY


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--prefix", required=True, help="of the names to write, e.g. heads.seg.")
    parser.add_argument("--output", type=Path, required=True, help="a .safetensors file")
    args = parser.parse_args(arguments)
    try:
        checkpoint = read_checkpoint(str(args.checkpoint))
        weights = chosen(checkpoint["model"], args.prefix)
        write(weights, args.output, checkpoint.get(DESCRIPTION_KEY))
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print(f"{len(weights)} tensors, {args.output.stat().st_size / 1e6:.2f} MB: {args.output}")
    return 0


def chosen(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The floating-point tensors whose names begin with ``prefix``, in float16.

    Raises:
        ValueError: there is none, or a number does not fit into float16.
    """
    found = {
        name: value.half().contiguous()
        for name, value in weights.items()
        if name.startswith(prefix) and value.is_floating_point()
    }
    if not found:
        names = sorted({".".join(name.split(".")[:2]) for name in weights})
        raise ValueError(f"--prefix {prefix}: no tensor has it, expected one of {names}")
    lost = [name for name, value in found.items() if not value.isfinite().all()]
    if lost:
        raise ValueError(f"{lost[:3]} have numbers beyond float16's range of 65504")
    lost = [name for name, value in found.items() if weights[name].any() and not value.any()]
    if lost:
        raise ValueError(f"{lost[:3]} have only numbers that are 0 in float16, below 6e-8")
    return found


if __name__ == "__main__":
    sys.exit(main())
