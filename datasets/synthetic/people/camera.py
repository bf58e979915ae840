"""What a camera does to a painted image: brightness, colour cast, blur and noise."""

from __future__ import annotations

import numpy as np

from synthetic.people.random_stream import RandomStream
from synthetic.people.scene_config import SceneConfig


def _blur(image: np.ndarray, weight: float) -> np.ndarray:
    """Mix each pixel with its neighbours, ``weight`` on each side, along rows and columns."""
    side, middle = np.float32(weight), np.float32(1.0 - 2.0 * weight)
    padded = np.pad(image, ((1, 1), (0, 0), (0, 0)), mode="edge")
    image = middle * padded[1:-1] + side * (padded[:-2] + padded[2:])
    padded = np.pad(image, ((0, 0), (1, 1), (0, 0)), mode="edge")
    return middle * padded[:, 1:-1] + side * (padded[:, :-2] + padded[:, 2:])


def take_photograph(
    rng: RandomStream, config: SceneConfig, image: np.ndarray, grain: RandomStream | None = None
) -> np.ndarray:
    """Finish an image.

    Args:
        rng: the camera's stream.
        config: noise, blur and brightness.
        image: float32 (H, W, 3), RGB, 0-255.
        grain: another stream for the noise, so that frames of one camera differ in nothing else.

    Returns:
        uint8 (H, W, 3), RGB.
    """
    height, width, _ = image.shape
    gain = rng.uniform(*config.gain)
    cast = np.array([gain * rng.uniform(0.92, 1.08) for _ in range(3)], dtype=np.float32)
    offset = rng.uniform(-14.0, 10.0)
    slope = rng.uniform(-0.2, 0.2)
    ramp = np.arange(width, dtype=np.float32) * np.float32(slope / width)
    image = image * (np.float32(1.0 - 0.5 * slope) + ramp)[None, :, None] * cast
    image += np.float32(offset)
    if rng.chance(config.blur_probability):
        image = _blur(image, rng.uniform(0.05, 0.25))
    amplitude = np.float32(rng.uniform(*config.noise))
    image += amplitude * (grain or rng).grain(height, width, 3)
    return (np.clip(image, 0.0, 255.0) + np.float32(0.5)).astype(np.uint8)
