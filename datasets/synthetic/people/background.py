"""What is behind the people: sky and ground, rooms, streets, foliage, and plain texture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from synthetic.people.canvas import Canvas, Material
from synthetic.people.outfit import (
    Colour,
    jitter,
    random_cloth,
    random_material,
)
from synthetic.people.random_stream import RandomStream

_SKIES: tuple[Colour, ...] = (
    (150, 190, 230),
    (200, 205, 212),
    (236, 200, 170),
    (90, 110, 150),
    (120, 170, 220),
)
_GROUNDS: tuple[Colour, ...] = (
    (96, 128, 66),
    (120, 118, 114),
    (196, 178, 140),
    (82, 84, 88),
    (140, 110, 82),
    (222, 224, 228),
)
_LEAVES: tuple[Colour, ...] = ((52, 84, 40), (88, 112, 50), (120, 118, 52), (60, 70, 46))


def value_noise(rng: RandomStream, height: int, width: int, cell: float) -> np.ndarray:
    """Smooth noise (height, width) in [0, 1): random values ``cell`` pixels apart, interpolated."""
    rows, columns = int(height / cell) + 2, int(width / cell) + 2
    values = rng.array(rows, columns)
    y = np.arange(height, dtype=np.float32) / np.float32(cell)
    x = np.arange(width, dtype=np.float32) / np.float32(cell)
    row, column = y.astype(np.int64), x.astype(np.int64)
    part_y, part_x = (y - row.astype(np.float32))[:, None], (x - column.astype(np.float32))[None]
    lines = values[row] + part_y * (values[row + 1] - values[row])
    return lines[:, column] + part_x * (lines[:, column + 1] - lines[:, column])


def _colours(noise: np.ndarray, low: Colour, high: Colour) -> np.ndarray:
    """Colours (..., 3) between two, by noise in [0, 1]."""
    start, end = np.array(low, np.float32), np.array(high, np.float32)
    return start + noise[..., None] * (end - start)


def _texture(rng: RandomStream, canvas: Canvas, top: int, bottom: int, colour: Colour) -> None:
    """Fill rows [top, bottom) with a colour under one or two scales of noise."""
    height, width = bottom - top, canvas.width
    if height <= 0:
        return
    noise = value_noise(rng, height, width, rng.uniform(10, 40))
    if rng.chance(0.7):
        noise = 0.6 * noise + 0.4 * value_noise(rng, height, width, rng.uniform(2, 6))
    spread = rng.uniform(10, 45)
    low, high = jitter(rng, colour, 8.0), jitter(rng, colour, 8.0)
    low = tuple(value - spread for value in low)
    high = tuple(value + spread for value in high)
    canvas.image[top:bottom] = _colours(noise, low, high)


def _gradient(rng: RandomStream, canvas: Canvas, bottom: int) -> None:
    """A sky over rows [0, bottom), with clouds now and then."""
    if bottom <= 0:
        return
    low = jitter(rng, rng.choice(_SKIES), 20.0)
    high = jitter(rng, (236, 238, 240), 20.0)
    ramp = np.arange(bottom, dtype=np.float32)[:, None] / np.float32(bottom)
    ramp = np.broadcast_to(ramp, (bottom, canvas.width))
    if rng.chance(0.5):
        clouds = value_noise(rng, bottom, canvas.width, rng.uniform(14, 40))
        ramp = np.clip(ramp + rng.uniform(0.3, 1.0) * (clouds - 0.4), 0.0, 1.0)
    canvas.image[:bottom] = _colours(ramp, low, high)


def _outdoor(rng: RandomStream, canvas: Canvas, horizon: int) -> None:
    _gradient(rng, canvas, horizon)
    if rng.chance(0.6):  # hills or a far wood
        skyline = value_noise(rng, 1, canvas.width, rng.uniform(8, 50))[0]
        top = np.float32(horizon) - skyline * np.float32(rng.uniform(0.2, 0.8) * horizon)
        rows = np.arange(horizon, dtype=np.float32)[:, None]
        hill = np.array(jitter(rng, rng.choice(_LEAVES), 25.0), np.float32)
        canvas.image[:horizon][rows >= top[None]] = hill
    _texture(rng, canvas, horizon, canvas.height, rng.choice(_GROUNDS))


def _room(rng: RandomStream, canvas: Canvas, horizon: int) -> None:
    floor = horizon + int(rng.uniform(0.08, 0.25) * canvas.height)
    _texture(rng, canvas, 0, floor, random_cloth(rng))
    if rng.chance(0.5):  # wallpaper, tiles or boards
        wall = random_material(rng, plain=0.0)
        period = rng.uniform(8, 40)
        wall = Material(wall.colour, wall.second, wall.pattern, period, wall.phase)
        keep = canvas.image[:floor].copy()
        canvas.paint_box(-5, -5, canvas.width + 5, floor, wall)
        strength = np.float32(rng.uniform(0.2, 0.8))
        canvas.image[:floor] = keep + strength * (canvas.image[:floor] - keep)
    _texture(rng, canvas, floor, canvas.height, rng.choice(_GROUNDS))
    canvas.paint_box(-5, floor - 3, canvas.width + 5, floor, random_material(rng, plain=1.0))


def _street(rng: RandomStream, canvas: Canvas, horizon: int) -> None:
    _gradient(rng, canvas, horizon)
    _texture(rng, canvas, horizon, canvas.height, rng.choice(_GROUNDS[1:]))
    left = rng.uniform(-30, 0)
    while left < canvas.width:
        width = rng.uniform(25, 90)
        top = rng.uniform(-0.2, 0.5) * canvas.height
        bottom = max(horizon + rng.uniform(0, 0.3) * canvas.height, top + 30)
        canvas.paint_box(left, top, left + width, bottom, random_material(rng, plain=1.0))
        _windows(rng, canvas, left, top, width, bottom)
        left += width + (rng.uniform(0, 20) if rng.chance(0.4) else 0.0)


def _windows(
    rng: RandomStream, canvas: Canvas, left: float, top: float, width: float, bottom: float
) -> None:
    columns, step = rng.integer(2, 4), rng.uniform(16, 30)
    glass = random_material(rng, plain=1.0)
    pane = width / columns
    y = top + 0.3 * step
    while y + 0.6 * step < bottom:
        for column in range(columns):
            x = left + (column + 0.25) * pane
            canvas.paint_box(x, y, x + 0.5 * pane, y + 0.6 * step, glass)
        y += step


def _foliage(rng: RandomStream, canvas: Canvas, horizon: int) -> None:
    height, width = canvas.height, canvas.width
    noise = value_noise(rng, height, width, rng.uniform(18, 40))
    noise = 0.4 * noise + 0.3 * value_noise(rng, height, width, rng.uniform(6, 12))
    noise = noise + 0.4 * value_noise(rng, height, width, rng.uniform(2, 4))
    low = jitter(rng, rng.choice(_LEAVES), 20.0)
    high = jitter(rng, rng.choice(_LEAVES), 60.0)
    canvas.image[:] = _colours(noise, tuple(0.6 * v for v in low), tuple(1.4 * v for v in high))
    if rng.chance(0.6):
        _texture(rng, canvas, horizon + int(0.2 * height), height, rng.choice(_GROUNDS))


def _abstract(rng: RandomStream, canvas: Canvas, horizon: int) -> None:
    height, width = canvas.height, canvas.width
    for channel in range(3):
        noise = value_noise(rng, height, width, rng.uniform(12, 90))
        low, high = rng.uniform(0, 130), rng.uniform(100, 255)
        canvas.image[..., channel] = np.float32(low) + noise * np.float32(high - low)
    canvas.image += (value_noise(rng, height, width, 3.0)[..., None] - 0.5) * rng.uniform(0, 60)


BACKGROUNDS: tuple[Callable[[RandomStream, Canvas, int], None], ...] = (
    _outdoor,
    _room,
    _street,
    _foliage,
    _abstract,
)


def paint_background(rng: RandomStream, canvas: Canvas, horizon: int, contrast: float) -> None:
    """Fill the whole canvas with one of the kinds of background.

    Args:
        rng: the stream of the background.
        canvas: is painted over; its labels stay as they are.
        horizon: row where the ground begins in the open air.
        contrast: 1 keeps the colours, 0 leaves plain grey.
    """
    kind = BACKGROUNDS[rng.weighted((0.27, 0.25, 0.2, 0.13, 0.15))]
    kind(rng, canvas, horizon)
    _fade(canvas, rng.uniform(60.0, 200.0), contrast)


def _fade(canvas: Canvas, grey: float, contrast: float) -> None:
    """Take contrast and as much of the colour from what is painted so far."""
    image, keep = canvas.image, np.float32(contrast)
    brightness = (image[..., 0:1] + image[..., 1:2] + image[..., 2:3]) * np.float32(1 / 3)
    muted = brightness + keep * (image - brightness)
    canvas.image[:] = np.float32(grey) + keep * (muted - np.float32(grey))
