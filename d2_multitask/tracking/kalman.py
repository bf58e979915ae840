"""A Kalman filter with constant velocity for all boxes of a frame at once.

As in SORT and ByteTrack, the noise of a box is in proportion to its height, and neither the noise
nor the motion couples centre, width and height. The 8x8 covariance of ByteTrack is therefore four
blocks of 2x2, one a coordinate, and is kept as such: everything is element-wise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

POSITION_NOISE, VELOCITY_NOISE = 1 / 20, 1 / 160  # of the height, ByteTrack's


class Motion(NamedTuple):
    """State of n tracks; the last axis but one is centre x, centre y, width, height.

    Attributes:
        mean: (n, 4, 2) float64, value and velocity, pixels and pixels a frame.
        cov: (n, 4, 3) float64, variance of the value, covariance, variance of the velocity.
    """

    mean: np.ndarray
    cov: np.ndarray

    @property
    def boxes(self) -> np.ndarray:
        """(n, 4) xyxy; sides are at least a pixel."""
        centre, half = self.mean[:, :2, 0], np.maximum(self.mean[:, 2:, 0], 1) / 2
        return np.concatenate((centre - half, centre + half), 1)


def start(boxes: np.ndarray) -> Motion:
    """Tracks that begin at boxes (n, 4) xyxy, with velocity 0."""
    values = _values(boxes)
    scale = values[:, 3:] ** 2  # of variances
    position = np.broadcast_to((2 * POSITION_NOISE) ** 2 * scale, values.shape)
    velocity = np.broadcast_to((10 * VELOCITY_NOISE) ** 2 * scale, values.shape)
    zeros = np.zeros_like(values)
    return Motion(np.stack((values, zeros), -1), np.stack((position, zeros, velocity), -1))


def predict(motion: Motion, resting: np.ndarray) -> Motion:
    """One frame later.

    Args:
        motion: the tracks.
        resting: (n,) bool, tracks that were not seen: their size no longer changes.
    """
    value, velocity = motion.mean[..., 0], motion.mean[..., 1].copy()
    velocity[resting, 2:] = 0
    scale = np.maximum(value[:, 3:], 1) ** 2
    vv = motion.cov[..., 2]
    pv = motion.cov[..., 1] + vv
    pp = motion.cov[..., 0] + motion.cov[..., 1] + pv + POSITION_NOISE**2 * scale
    cov = np.stack((pp, pv, vv + VELOCITY_NOISE**2 * scale), -1)
    return Motion(np.stack((value + velocity, velocity), -1), cov)


def update(motion: Motion, boxes: np.ndarray) -> Motion:
    """Correct n tracks by what was seen of each.

    Args:
        motion: the tracks.
        boxes: (n, 4) xyxy.
    """
    pp, pv, vv = np.moveaxis(motion.cov, -1, 0)
    noise = (POSITION_NOISE * np.maximum(motion.mean[:, 3:, 0], 1)) ** 2
    gain_p, gain_v = pp / (pp + noise), pv / (pp + noise)
    error = _values(boxes) - motion.mean[..., 0]
    mean = motion.mean + np.stack((gain_p * error, gain_v * error), -1)
    cov = np.stack(((1 - gain_p) * pp, (1 - gain_p) * pv, vv - gain_v * pv), -1)
    return Motion(mean, cov)


def _values(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) xyxy -> centre x, centre y, width, height."""
    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    return np.concatenate(((low + high) / 2, high - low), 1)
