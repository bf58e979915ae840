"""Files in the layout of BSDS500, so small that numbers can be worked out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from d2_multitask.evaluation.regions import boundary_of


def cell(values: list) -> np.ndarray:
    """A MATLAB cell (1, n)."""
    array = np.empty((1, len(values)), dtype=object)
    array[0] = values
    return array


def write_ground_truth(file: Path, maps: list[np.ndarray]) -> None:
    """As BSDS500's: for each person ``Segmentation`` and ``Boundaries``."""
    people = [
        {"Segmentation": one.astype(np.uint16), "Boundaries": boundary_of(one).astype(np.uint8)}
        for one in maps
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(file, {"groundTruth": cell(people)})


def write_image(root: Path, name: str, maps: list[np.ndarray], split: str = "test") -> None:
    """A black image and how people divided it, below ``root/BSDS500``."""
    file = root / "BSDS500" / "data" / "images" / split / f"{name}.jpg"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", maps[0].shape[::-1]).save(file)
    write_ground_truth(root / "BSDS500" / "data" / "groundTruth" / split / f"{name}.mat", maps)


def halves(height: int = 20, width: int = 30, column: int = 15) -> np.ndarray:
    """Left 1, right 2."""
    return np.where(np.arange(width) < column, 1, 2) * np.ones((height, 1), int)
