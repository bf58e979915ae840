"""What people wear, as the colours along their limbs: tells apart who covered each other."""

from __future__ import annotations

import numpy as np

STEPS = np.array([0.3, 0.5, 0.7])  # where along a limb
SPREAD = 0.12  # mean difference of colours, 0 to 1, at which the likeness is 1 / e
ADAPTATION = 0.1  # share of a new sight in what is remembered


def limb_colours(image: np.ndarray, keypoints: np.ndarray, skeleton: np.ndarray) -> np.ndarray:
    """Mean colour of each limb.

    Args:
        image: (h, w, 3) uint8.
        keypoints: (n, K, 3) x, y, confidence, pixels.
        skeleton: (L, 2) the keypoints that are joined by a limb.

    Returns:
        (n, L, 3), 0 to 1.
    """
    start, end = (keypoints[:, skeleton[:, side], None, :2] for side in (0, 1))
    places = start + (end - start) * STEPS[:, None]  # (n, L, steps, 2)
    last = np.array(image.shape[1::-1]) - 1
    columns, rows = np.moveaxis(places.astype(np.int64).clip(0, last), -1, 0)
    return image[rows, columns].sum(2, dtype=np.int64) / (255 * len(STEPS))


def likeness(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n, m) of colours (n, L, 3) and (m, L, 3), 0 to 1.

    The most alike of the second is 1 for each of the first, so that a change of the light, which
    makes all look different, changes nothing.
    """
    count = max(first[0].size if len(first) else 0, 1)
    difference = np.abs(first[:, None] - second).sum((-1, -2)) / count
    alike = np.exp(-((difference / SPREAD) ** 2))
    return alike / alike.max(1, initial=1e-30)[:, None]
