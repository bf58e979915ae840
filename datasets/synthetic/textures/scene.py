"""One striped object on a striped background.

In the kind "same_palette" both have the same two colours and differ in the direction and the period
of their stripes only: colours say nothing about the object, and its outline is no edge. Who can
predict a part of the stripes from the rest can tell them apart. In the kind "other_palette" the
colours differ as well.

``draw_textures`` is a pure function of its arguments: the same pixels on every machine. Only
operations that IEEE 754 rounds exactly are used, and a table of sines rounded to integers.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from synthetic.people.random_stream import RandomStream

T = TypeVar("T")

KINDS = ("same_palette", "other_palette")

_SINE_STEPS = 4096
# One period of (1 + sin) / 2 in 16384ths: integers, because sines differ in their last bit.
_WAVE = np.array(
    [round(8192 + 8192 * math.sin(2 * math.pi * i / _SINE_STEPS)) for i in range(_SINE_STEPS)]
)
_DIAGONAL = math.sqrt(0.5)
# Unit vectors (x, y) across the stripes: 0, 45, 90 and 135 degrees.
_ACROSS_XY = ((1.0, 0.0), (_DIAGONAL, _DIAGONAL), (0.0, 1.0), (-_DIAGONAL, _DIAGONAL))
_SHAPES = ("ellipse", "rectangle")


@dataclass(frozen=True)
class TextureConfig:
    """Settings of the drawn textures. Lengths in pixels, colours in grey levels of 0-255.

    Attributes:
        height: of the image, at least 32.
        width: of the image, at least 32.
        periods: possible periods of the stripes; object and background get different ones.
        area: range of the object's area as a share of the image's.
        aspect_ratio: range of the object's shorter axis / longer axis.
        contrast: smallest distance of the two colours of a texture (Euclidean, RGB).
        palette_distance: smallest distance of the mean colours of two palettes.
        shading: largest change of brightness from one side to the other, as a share.
        noise: amplitude of the pixel noise; its standard deviation is 0.41 times that.
    """

    height: int = 64
    width: int = 64
    periods: tuple[int, ...] = (6, 8, 12)
    area: tuple[float, float] = (0.16, 0.28)
    aspect_ratio: tuple[float, float] = (0.6, 1.0)
    contrast: float = 110.0
    palette_distance: float = 60.0
    shading: float = 0.3
    noise: float = 12.0

    def __post_init__(self) -> None:
        """Raises ValueError for settings that cannot be drawn."""
        for name in ("height", "width"):
            if getattr(self, name) < 32:
                raise ValueError(f"{name}: expected at least 32 pixels, got {getattr(self, name)}")
        if len(set(self.periods)) < 2 or min(self.periods) < 2:
            raise ValueError(
                f"periods: expected two or more different ones from 2 pixels, got {self.periods}"
            )
        for name, highest in (("area", 0.3), ("aspect_ratio", 1.0)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= highest:
                raise ValueError(
                    f"{name}: expected (low, high) above 0 and at most {highest}, got {(low, high)}"
                )
        if not 0 <= self.contrast <= 200 or not 0 <= self.palette_distance <= 100:
            raise ValueError(
                "contrast, palette_distance: expected at most 200 and 100 grey levels, got "
                f"{self.contrast} and {self.palette_distance}"
            )
        if not 0 <= self.shading < 1 or not 0 <= self.noise <= 100:
            raise ValueError(
                "shading, noise: expected numbers in [0, 1) and [0, 100], got "
                f"{self.shading} and {self.noise}"
            )


@dataclass(frozen=True)
class TextureScene:
    """An image and its label.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, the object.
    """

    image: np.ndarray
    mask: np.ndarray


def draw_textures(
    seed: int, kind: str, split: str, index: int, config: TextureConfig | None = None
) -> TextureScene:
    """Draw one image.

    Args:
        seed: in [0, 2**32).
        kind: "same_palette" or "other_palette".
        split: name of the split; other splits have other images.
        index: number of the image.
        config: settings; the defaults if None.

    Raises:
        ValueError: the kind is unknown or a number is out of range.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {KINDS}, got {kind!r}")
    config = config or TextureConfig()
    stream = RandomStream(seed, zlib.crc32(f"{kind}/{split}".encode()), index)
    y, x = np.mgrid[: config.height, : config.width] + 0.5
    mask = _object(stream, x, y, config)
    palette = _palette(stream, config)
    palettes = [palette, palette]
    if kind == "other_palette":
        palettes[1] = _other_palette(stream, palette, config)
    directions = _different(stream, _ACROSS_XY)
    periods = _different(stream, config.periods)
    back, front = (
        _stripes(x, y, across, period, stream.uniform(), colors)
        for across, period, colors in zip(directions, periods, palettes, strict=True)
    )
    image = np.where(mask[..., None], front, back)
    image = image * _shading(stream, x, y, config)[..., None]
    image += config.noise * stream.grain(*image.shape).astype(np.float64)
    return TextureScene(np.rint(image).clip(0, 255).astype(np.uint8), mask)


def _object(
    stream: RandomStream, x: np.ndarray, y: np.ndarray, config: TextureConfig
) -> np.ndarray:
    """(H, W) bool: an ellipse or a rectangle, turned, wholly inside of the image."""
    shape = stream.choice(_SHAPES)
    area = stream.uniform(*config.area) * config.height * config.width
    ratio = stream.uniform(*config.aspect_ratio)
    unit = math.pi if shape == "ellipse" else 4.0  # area of the shape of half axes 1
    long = math.sqrt(area / (unit * ratio))
    # The longer axis in images that are far from square: no longer than the image allows.
    long = min(long, 0.5 * min(config.height, config.width) / math.sqrt(1 + ratio * ratio))
    short = long * ratio
    cos, sin = _direction(stream)
    if shape == "ellipse":
        reach_x = math.sqrt((long * cos) ** 2 + (short * sin) ** 2)
        reach_y = math.sqrt((long * sin) ** 2 + (short * cos) ** 2)
    else:
        reach_x = long * abs(cos) + short * abs(sin)
        reach_y = long * abs(sin) + short * abs(cos)
    center_x = stream.uniform(reach_x, config.width - reach_x)
    center_y = stream.uniform(reach_y, config.height - reach_y)
    u = ((x - center_x) * cos + (y - center_y) * sin) / long
    v = ((y - center_y) * cos - (x - center_x) * sin) / short
    if shape == "ellipse":
        return u * u + v * v <= 1
    return np.maximum(np.abs(u), np.abs(v)) <= 1


def _direction(stream: RandomStream) -> tuple[float, float]:
    """A unit vector without sines: a point of the disc, divided by its length."""
    while True:
        x, y = stream.uniform(-1, 1), stream.uniform(-1, 1)
        length = math.sqrt(x * x + y * y)
        if 0.1 < length <= 1:
            return x / length, y / length


def _palette(stream: RandomStream, config: TextureConfig) -> np.ndarray:
    """(2, 3): two colours that can be told apart."""
    while True:
        colors = 30 + 195 * stream.array(2, 3).astype(np.float64)
        if ((colors[0] - colors[1]) ** 2).sum() >= config.contrast**2:
            return colors


def _other_palette(stream: RandomStream, palette: np.ndarray, config: TextureConfig) -> np.ndarray:
    while True:
        other = _palette(stream, config)
        difference = palette.mean(0) - other.mean(0)
        if (difference**2).sum() >= config.palette_distance**2:
            return other


def _different(stream: RandomStream, options: Sequence[T]) -> tuple[T, T]:
    """Two different ones, in order: background, object."""
    first = stream.integer(0, len(options) - 1)
    second = (first + stream.integer(1, len(options) - 1)) % len(options)
    return options[first], options[second]


def _stripes(
    x: np.ndarray,
    y: np.ndarray,
    across_xy: tuple[float, float],
    period: int,
    phase: float,
    colors: np.ndarray,
) -> np.ndarray:
    """(H, W, 3): a sine between two colours; ``phase`` in periods."""
    position = (x * across_xy[0] + y * across_xy[1]) / period + phase
    step = np.floor(position * _SINE_STEPS).astype(np.int64) % _SINE_STEPS
    share = (_WAVE[step] / 16384.0)[..., None]
    return colors[0] + (colors[1] - colors[0]) * share


def _shading(
    stream: RandomStream, x: np.ndarray, y: np.ndarray, config: TextureConfig
) -> np.ndarray:
    """(H, W): a ramp of brightness about 1."""
    cos, sin = _direction(stream)
    strength = stream.uniform(0, config.shading)
    side = max(config.height, config.width)
    ramp = (x - 0.5 * config.width) * cos + (y - 0.5 * config.height) * sin
    return 1 + strength * ramp / side
