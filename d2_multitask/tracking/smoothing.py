"""One-Euro filter (Casiez, Roussel, Vogel 2012) for the keypoints of all tracks at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MIN_CUTOFF = 1.7  # Hz; the lower, the calmer a still figure
SPEED_FACTOR = 8.0  # Hz per box height a second; the higher, the less a fast one lags
SPEED_CUTOFF = 1.0  # Hz, of the speed itself


class Smooth(NamedTuple):
    """State of n tracks: positions (n, K, 2), pixels, and velocities, pixels a frame."""

    points: np.ndarray
    velocity: np.ndarray


def smooth(
    state: Smooth, keypoints: np.ndarray, heights: np.ndarray, frames: np.ndarray, fps: float
) -> Smooth:
    """The state after one more measurement of each track.

    Args:
        state: before.
        keypoints: (n, K, 3) x, y, confidence.
        heights: (n,) of the boxes, pixels: speed is measured in them, so that near and far
            figures are smoothed alike.
        frames: (n,) since the last measurement.
        fps: frames a second.
    """
    seconds = (frames / fps)[:, None, None]
    velocity = (keypoints[..., :2] - state.points) / frames[:, None, None]
    velocity = state.velocity + _alpha(SPEED_CUTOFF, seconds) * (velocity - state.velocity)
    speed = np.abs(velocity) * fps / np.maximum(heights, 1)[:, None, None]
    alpha = _alpha(MIN_CUTOFF + SPEED_FACTOR * speed, seconds)
    return Smooth(state.points + alpha * (keypoints[..., :2] - state.points), velocity)


def _alpha(cutoff: np.ndarray | float, seconds: np.ndarray) -> np.ndarray:
    """Weight of a new value in a low-pass filter of a cutoff frequency in Hz."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * seconds))
