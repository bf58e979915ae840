#!/usr/bin/env python
"""Converts MAE weights between the authors' names, timm's, Hugging Face's (old and new) and ours.

    python tools/convert_mae_weights.py facebook_vit-mae-base.safetensors mae_base.pth
    python tools/convert_mae_weights.py mae_pretrain_vit_huge.pth huge_p14to16.pth --patch-size 16
    python tools/convert_mae_weights.py model_final.pth mae.safetensors --to huggingface_v4

The dialect of the input is found out. Training (MODEL.WEIGHTS) reads all of them as they are; this
is for other programs, and to see what a file holds. Files are read without running code from them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from d2_multitask.checkpoint.mae_names import DIALECTS
from d2_multitask.modeling.mae.convert import convert_mae_file
from d2_multitask.modeling.mae.position_embedding import RESIZE_MODES
from d2_multitask.modeling.mae.weights import LICENSE_NOTE


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", help=".pth, .pkl or .safetensors")
    parser.add_argument("output", help=".pth or .safetensors")
    parser.add_argument("--to", choices=DIALECTS, default="authors", help="default: authors")
    parser.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="make the position embedding for images of this size (default: the file's)",
    )
    parser.add_argument("--patch-size", type=int, help="pixels (default: the file's)")
    parser.add_argument(
        "--position-resize",
        choices=RESIZE_MODES,
        default="bicubic",
        help="bicubic as all public code, sincos exact (default: bicubic)",
    )
    parser.add_argument(
        "--ema", action="store_true", help="take the file's moving average, if it has one"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_args(arguments)
    try:
        report = convert_mae_file(
            args.input,
            args.output,
            args.to,
            image_size=tuple(args.image_size) if args.image_size else None,
            patch_size=args.patch_size,
            position_resize=args.position_resize,
            prefer_ema=args.ema,
        )
    except (ValueError, OSError, ImportError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print(f"{report}\nWritten, with the names of {args.to}: {args.output}\n{LICENSE_NOTE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
