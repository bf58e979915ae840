"""Surroundings with labels: open air, streets, rooms, the shore.

Contract: every pixel of the canvas is painted, with owner ``NOBODY`` and the code of the stuff that
is seen (``labels.STUFF_CODE``), or 0 where it is none of the classes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from synthetic.in_detail.labels import STUFF_CODE
from synthetic.people.background import value_noise
from synthetic.people.canvas import NOBODY, Canvas, Cone, Light, Material, Stamp
from synthetic.people.outfit import (
    Colour,
    jitter,
    random_cloth,
    random_material,
    scaled,
)
from synthetic.people.random_stream import RandomStream

# Colours between which the texture of a class varies, and the size of its grain in pixels.
_LOOKS: dict[str, tuple[tuple[tuple[Colour, Colour], ...], tuple[float, float]]] = {
    "sky": ((((150, 195, 240), (215, 230, 245)), ((185, 195, 208), (228, 232, 238))), (25, 60)),
    "mountain": ((((98, 108, 128), (132, 138, 152)), ((92, 96, 104), (140, 142, 148))), (8, 20)),
    "grass": ((((72, 122, 42), (120, 166, 74)), ((96, 134, 54), (150, 172, 88))), (2, 5)),
    "ground": ((((150, 116, 78), (196, 162, 118)), ((176, 150, 112), (214, 190, 150))), (4, 12)),
    "water": ((((34, 92, 126), (84, 150, 176)), ((44, 110, 120), (106, 164, 170))), (5, 12)),
    "road": ((((74, 74, 80), (102, 102, 106)), ((88, 88, 90), (112, 110, 110))), (3, 8)),
    "sidewalk": ((((158, 152, 146), (186, 180, 174)), ((148, 144, 144), (178, 174, 172))), (3, 6)),
    "wall": ((((206, 196, 172), (226, 218, 200)), ((190, 178, 196), (214, 206, 220))), (30, 70)),
    "floor": ((((136, 92, 58), (172, 124, 84)), ((118, 84, 66), (150, 112, 90))), (10, 30)),
}
_LEAVES: tuple[Colour, ...] = ((40, 88, 40), (62, 104, 44), (34, 72, 50))
_BARK: tuple[Colour, ...] = ((84, 60, 42), (70, 54, 44))
_BRICKS: tuple[Colour, ...] = ((172, 92, 70), (190, 150, 120), (150, 120, 110), (200, 180, 150))


# With this, 13 % of the pixels have no label, as in the dataset.
_UNLABELLED_PROBABILITY = 0.8


def _stamp(name: str) -> Stamp:
    return Stamp(NOBODY, STUFF_CODE[name])


def _fill(rng: RandomStream, canvas: Canvas, name: str, region: np.ndarray) -> None:
    """Paint a bool region (H, W) with the look of a class."""
    pairs, grain = _LOOKS[name]
    low, high = (jitter(rng, colour, 9.0) for colour in rng.choice(pairs))
    noise = value_noise(rng, canvas.height, canvas.width, rng.uniform(*grain))
    start, end = np.array(low, np.float32), np.array(high, np.float32)
    colours = start + noise[..., None] * (end - start)
    if name == "floor":  # boards
        rows = np.arange(canvas.height) % rng.integer(7, 13) == 0
        colours[rows] *= np.float32(0.8)
    canvas.image[region] = colours[region]
    canvas.owner[region], canvas.part[region] = NOBODY, STUFF_CODE[name]


def _rows(canvas: Canvas, top: float, bottom: float) -> np.ndarray:
    rows = np.arange(canvas.height)[:, None]
    inside = (rows >= top) & (rows < bottom)
    return np.broadcast_to(inside, (canvas.height, canvas.width))


def _skyline(rng: RandomStream, canvas: Canvas, horizon: float, height: float) -> np.ndarray:
    """The region between a wavy line and the horizon."""
    line = value_noise(rng, 1, canvas.width, rng.uniform(18, 60))[0] * np.float32(height)
    rows = np.arange(canvas.height, dtype=np.float32)[:, None]
    return (rows >= np.float32(horizon) - line[None]) & (rows < np.float32(horizon))


def _tree(rng: RandomStream, canvas: Canvas, light: Light, x: float, y: float) -> None:
    """A trunk with a crown of leaves that stands at (x, y)."""
    height = rng.uniform(0.35, 0.65) * canvas.height
    bark, stamp = Material(jitter(rng, rng.choice(_BARK), 10.0)), _stamp("tree")
    trunk = Cone(x, y, 0.05 * height, x, y - 0.6 * height, 0.035 * height)
    canvas.paint((trunk,), bark, light, stamp=stamp)
    for _ in range(rng.integer(5, 8)):
        leaf_x = x + rng.uniform(-0.24, 0.24) * height
        leaf_y = y - rng.uniform(0.55, 0.95) * height
        size = rng.uniform(0.13, 0.2) * height
        leaves = Material(jitter(rng, rng.choice(_LEAVES), 16.0))
        canvas.paint(
            (Cone(leaf_x, leaf_y, size, leaf_x + 1, leaf_y, size),), leaves, light, stamp=stamp
        )


def _trees(rng: RandomStream, canvas: Canvas, light: Light, horizon: float, most: int) -> None:
    for _ in range(rng.integer(0, most)):
        y = horizon + rng.uniform(0.0, 0.12) * canvas.height
        _tree(rng, canvas, light, rng.uniform(0, canvas.width), y)


def _window(rng: RandomStream, canvas: Canvas, *corners: float) -> None:
    left, top, right, bottom = corners
    stamp = _stamp("window")
    frame, glass = Material((238, 238, 234)), Material(jitter(rng, (110, 160, 205), 20.0))
    canvas.paint_box(left, top, right, bottom, frame, stamp=stamp)
    middle, rim = 0.5 * (left + right), 0.06 * (right - left) + 0.7
    for start, end in ((left + rim, middle - 0.5 * rim), (middle + 0.5 * rim, right - rim)):
        canvas.paint_box(start, top + rim, end, bottom - rim, glass, stamp=stamp)


def _open_air(rng: RandomStream, canvas: Canvas, light: Light, horizon: float) -> None:
    _fill(rng, canvas, "sky", _rows(canvas, 0, horizon))
    if rng.chance(0.45):
        region = _skyline(rng, canvas, horizon, rng.uniform(0.5, 1.0) * horizon)
        _fill(rng, canvas, "mountain", region)
    _fill(rng, canvas, rng.choice(("grass", "grass", "ground")), _rows(canvas, horizon, 1e6))
    _trees(rng, canvas, light, horizon, 3)


def _shore(rng: RandomStream, canvas: Canvas, light: Light, horizon: float) -> None:
    _fill(rng, canvas, "sky", _rows(canvas, 0, horizon))
    beach = horizon + rng.uniform(0.15, 0.4) * (canvas.height - horizon)
    _fill(rng, canvas, "water", _rows(canvas, horizon, beach))
    _fill(rng, canvas, rng.choice(("ground", "ground", "grass")), _rows(canvas, beach, 1e6))


def _street(rng: RandomStream, canvas: Canvas, light: Light, horizon: float) -> None:
    _fill(rng, canvas, "sky", _rows(canvas, 0, horizon))
    kerb = horizon + rng.uniform(0.2, 0.45) * (canvas.height - horizon)
    _fill(rng, canvas, "sidewalk", _rows(canvas, horizon, kerb))
    _fill(rng, canvas, "road", _rows(canvas, kerb, 1e6))
    left = rng.uniform(-30, 0)
    while left < canvas.width:
        width, height = rng.uniform(40, 90), rng.uniform(0.6, 1.3) * horizon
        brick = Material(jitter(rng, rng.choice(_BRICKS), 12.0))
        top = horizon - height
        stamp = _stamp("building")
        canvas.paint_box(left, top, left + width, horizon + 1, brick, stamp=stamp)
        if height > 24:
            for column in range(2):
                x = left + (0.18 + 0.4 * column) * width
                _window(rng, canvas, x, top + 7, x + 0.24 * width, top + 7 + 0.45 * height)
        left += width + (rng.uniform(5, 40) if rng.chance(0.5) else 0.0)
    _trees(rng, canvas, light, horizon + 4, 2)


def _room(rng: RandomStream, canvas: Canvas, light: Light, horizon: float) -> None:
    floor = horizon + rng.uniform(0.12, 0.28) * canvas.height
    _fill(rng, canvas, "wall", _rows(canvas, 0, floor))
    _fill(rng, canvas, "floor", _rows(canvas, floor, 1e6))
    x, width = rng.uniform(0.05, 0.5) * canvas.width, rng.uniform(0.2, 0.32) * canvas.width
    kind = rng.weighted((0.3, 0.3, 0.25, 0.15))
    if kind == 0:
        _window(rng, canvas, x, 0.12 * floor, x + width, 0.62 * floor)
        cloth = Material(random_cloth(rng), random_cloth(rng), "stripes", rng.uniform(5, 9))
        for left in (x - 0.5 * width, x + width):
            corners = (left, 0.06 * floor, left + 0.5 * width, 0.9 * floor)
            canvas.paint_box(*corners, cloth, stamp=_stamp("curtain"))
    elif kind == 1:
        wood = Material(jitter(rng, (120, 76, 44), 18.0))
        canvas.paint_box(x, 0.15 * floor, x + 0.8 * width, floor, wood, stamp=_stamp("door"))
        knob = (x + 0.68 * width, 0.58 * floor, x + 0.74 * width, 0.63 * floor)
        canvas.paint_box(*knob, Material((220, 190, 90)), stamp=_stamp("door"))
    elif kind == 2:
        wood, dark = Material(jitter(rng, (190, 150, 104), 15.0)), Material((96, 70, 48))
        top = 0.4 * floor
        canvas.paint_box(x, top, x + 1.4 * width, floor + 3, wood, stamp=_stamp("cabinet"))
        for column in (0.45, 0.92):
            left = x + column * width
            canvas.paint_box(left, top, left + 1.5, floor + 3, dark, stamp=_stamp("cabinet"))


_KINDS: tuple[Callable[[RandomStream, Canvas, Light, float], None], ...] = (
    _open_air,
    _shore,
    _street,
    _room,
)


def paint_stuff(rng: RandomStream, canvas: Canvas, light: Light, horizon: float) -> None:
    """Fill the whole canvas with one of the kinds of surroundings.

    Args:
        rng: the stream of the surroundings.
        canvas: is painted over, labels as well.
        light: the light.
        horizon: row where the ground begins in the open air.
    """
    _KINDS[rng.weighted((0.3, 0.15, 0.25, 0.3))](rng, canvas, light, float(int(horizon)))
    if rng.chance(_UNLABELLED_PROBABILITY):
        _unlabelled(rng, canvas)


def _unlabelled(rng: RandomStream, canvas: Canvas) -> None:
    """A carpet, a placard, a stage: something that is none of the classes."""
    width, height = rng.uniform(0.3, 0.8) * canvas.width, rng.uniform(0.15, 0.4) * canvas.height
    left = rng.uniform(-0.1, 0.9) * canvas.width
    top = rng.uniform(0.0, 0.75) * canvas.height
    cloth = random_material(rng, plain=0.5)
    cloth = scaled(cloth, canvas.height)
    canvas.paint_box(left, top, left + width, top + height, cloth, stamp=Stamp(NOBODY, 0))
