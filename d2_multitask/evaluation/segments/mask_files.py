"""Folders of masks: one grey-scale file per image, bright = object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from d2_multitask.data.datasets.folders import images_by_stem, stem_of
from d2_multitask.data.io import read_image


def mask_files(mask_root: str | Path, names: Sequence[str]) -> dict[str, Path]:
    """Find the masks of images.

    Args:
        mask_root: the folder.
        names: paths of the images in their own folder, such as ``birds/1.jpg``, whose mask is
            ``birds/1`` with the extension of any image format.

    Returns:
        Name -> file, in the order of ``names``.

    Raises:
        ValueError: the folder does not exist, or masks are missing; names some of them.
    """
    root = Path(mask_root)
    if not root.is_dir():
        raise ValueError(f"{root}: found no folder, expected a folder of masks")
    files = images_by_stem(root)
    found = {name: files.get(stem_of(name)) for name in names}
    missing = [name for name, file in found.items() if file is None]
    if missing:
        raise ValueError(
            f"{root}: found no mask for {len(missing)} of {len(names)} images (such as "
            f"{', '.join(missing[:3])}), expected files of the same name with any extension"
        )
    return {name: file for name, file in found.items() if file is not None}


def read_object_mask(file: str | Path, size_hw: tuple[int, int] | None = None) -> np.ndarray:
    """Read a mask: the object has 1 in masks of 0 and 1, else 128 to 255.

    Args:
        file: the image.
        size_hw: (h, w) to resize to, by nearest pixels; ``None`` = as it is.

    Returns:
        (H, W) bool.

    Raises:
        ImageReadError: the file is missing or broken; names it.
    """
    with_channel = read_image(str(file), "L")
    values = with_channel.reshape(with_channel.shape[:2])
    mask = values >= (1 if values.max(initial=0) <= 1 else 128)
    if size_hw is not None and mask.shape != tuple(size_hw):
        size_wh = (size_hw[1], size_hw[0])
        mask = np.asarray(Image.fromarray(mask).resize(size_wh, Image.Resampling.NEAREST))
    return mask
