"""Things that are not people, and some that nearly look like them.

Contract: every thing is painted with the labels of the background (``NOBODY``), so it takes the
pixels of what is behind it. ``scale`` is the size of an adult at its distance, in pixels, and
(x, y) is where it stands.
"""

from __future__ import annotations

from collections.abc import Callable

from synthetic.people.canvas import NOBODY, Canvas, Cone, Light, Material, Stamp
from synthetic.people.geometry import sin_cos
from synthetic.people.outfit import (
    Colour,
    jitter,
    random_cloth,
    random_material,
    random_skin,
    scaled,
)
from synthetic.people.random_stream import RandomStream

NOT_A_PERSON = Stamp(NOBODY, 0)

_LEAVES: tuple[Colour, ...] = ((58, 92, 44), (90, 120, 52), (128, 110, 50), (44, 70, 40))
_WOOD: tuple[Colour, ...] = ((98, 72, 50), (70, 54, 42), (140, 112, 80), (110, 106, 102))


def _body_colour(rng: RandomStream) -> Colour:
    """A colour that people have: of skin or of cloth."""
    return random_skin(rng) if rng.chance(0.5) else random_cloth(rng)


def _paint(canvas: Canvas, light: Light, cones: tuple[Cone, ...], material: Material) -> None:
    canvas.paint(cones, material, light, stamp=NOT_A_PERSON)


def pole(rng: RandomStream, canvas: Canvas, light: Light, x: float, y: float, scale: float) -> None:
    """A pole, sometimes with a lamp or a sign that looks like a head."""
    top = y - rng.uniform(0.8, 2.2) * scale
    radius = rng.uniform(0.012, 0.04) * scale
    tilt = rng.uniform(-0.04, 0.04) * scale
    colour = _body_colour(rng) if rng.chance(0.4) else jitter(rng, rng.choice(_WOOD), 30.0)
    _paint(canvas, light, (Cone(x, y, radius, x + tilt, top, radius),), Material(colour))
    if rng.chance(0.5):
        head = rng.uniform(0.04, 0.09) * scale
        cone = Cone(x + tilt, top, head, x + tilt, top - 0.5 * head, head)
        _paint(canvas, light, (cone,), Material(_body_colour(rng)))


def tree(rng: RandomStream, canvas: Canvas, light: Light, x: float, y: float, scale: float) -> None:
    """A trunk with branches like limbs and a crown of leaves."""
    wood = Material(jitter(rng, rng.choice(_WOOD), 20.0))
    top = y - rng.uniform(0.9, 1.5) * scale
    width = rng.uniform(0.04, 0.08) * scale
    _paint(canvas, light, (Cone(x, y, width, x, top, 0.6 * width),), wood)
    for _ in range(rng.integer(1, 3)):
        start = y + rng.uniform(0.5, 0.95) * (top - y)
        reach, rise = rng.sign() * rng.uniform(0.15, 0.4) * scale, rng.uniform(0.1, 0.4) * scale
        branch = Cone(x, start, 0.45 * width, x + reach, start - rise, 0.2 * width)
        _paint(canvas, light, (branch,), wood)
    if rng.chance(0.75):
        leaves = Material(jitter(rng, rng.choice(_LEAVES), 30.0))
        for _ in range(rng.integer(2, 5)):
            blob_x = x + rng.uniform(-0.3, 0.3) * scale
            blob_y = top + rng.uniform(-0.3, 0.2) * scale
            size = rng.uniform(0.12, 0.3) * scale
            _paint(canvas, light, (Cone(blob_x, blob_y, size, blob_x + 1, blob_y, size),), leaves)


def limbs(
    rng: RandomStream, canvas: Canvas, light: Light, x: float, y: float, scale: float
) -> None:
    """Bars jointed like arms or legs, but on no body."""
    material = Material(_body_colour(rng))
    point_x, point_y = x, y - rng.uniform(0.0, 1.0) * scale
    radius = rng.uniform(0.018, 0.05) * scale
    for _ in range(rng.integer(1, 3)):
        length = rng.uniform(0.12, 0.3) * scale
        s, c = sin_cos(rng.uniform(0, 360))
        end_x, end_y = point_x + length * c, point_y + length * s
        bar = Cone(point_x, point_y, radius, end_x, end_y, 0.75 * radius)
        _paint(canvas, light, (bar,), material)
        point_x, point_y, radius = end_x, end_y, 0.75 * radius


def blobs(
    rng: RandomStream, canvas: Canvas, light: Light, x: float, y: float, scale: float
) -> None:
    """Balls with colours of skin and hair."""
    for _ in range(rng.integer(1, 3)):
        size = rng.uniform(0.035, 0.12) * scale
        ball_x = x + rng.uniform(-0.2, 0.2) * scale
        ball_y = y - rng.uniform(0.0, 1.0) * scale
        ball = Cone(ball_x, ball_y, size, ball_x, ball_y + rng.uniform(0.1, 0.8) * size, size)
        _paint(canvas, light, (ball,), Material(_body_colour(rng)))


def coat(rng: RandomStream, canvas: Canvas, light: Light, x: float, y: float, scale: float) -> None:
    """Clothes on a stand: a torso and sleeves without head, hands and legs."""
    cloth = scaled(random_material(rng), scale)
    shoulder, hip = y - 0.8 * scale, y - rng.uniform(0.3, 0.5) * scale
    half = 0.1 * scale
    stand = Cone(x, y, 0.015 * scale, x, shoulder - 0.06 * scale, 0.015 * scale)
    _paint(canvas, light, (stand,), Material(jitter(rng, rng.choice(_WOOD), 20.0)))
    body = tuple(
        Cone(x + 0.7 * side * half, shoulder, 0.04 * scale, x + side * half, hip, 0.05 * scale)
        for side in (-1.0, 0.0, 1.0)
    )
    sleeves = tuple(
        Cone(
            x + side * half,
            shoulder,
            0.035 * scale,
            x + side * (half + rng.uniform(0.01, 0.06) * scale),
            shoulder + 0.28 * scale,
            0.028 * scale,
        )
        for side in (-1.0, 1.0)
    )
    _paint(canvas, light, body + sleeves, cloth)


def furniture(
    rng: RandomStream, canvas: Canvas, light: Light, x: float, y: float, scale: float
) -> None:
    """A table, a chair or a shelf: a board or box on legs."""
    material = scaled(random_material(rng, jitter(rng, rng.choice(_WOOD), 50.0), 0.8), scale)
    half = rng.uniform(0.12, 0.4) * scale
    top = y - rng.uniform(0.22, 0.55) * scale
    thick = rng.uniform(0.03, 0.25) * scale
    leg = rng.uniform(0.012, 0.03) * scale
    for side in (-1.0, 1.0):
        leg_x = x + side * (half - leg)
        canvas.paint_box(leg_x - leg, top, leg_x + leg, y, material, stamp=NOT_A_PERSON)
    canvas.paint_box(x - half, top, x + half, top + thick, material, stamp=NOT_A_PERSON)
    if rng.chance(0.3):  # the back of a chair
        canvas.paint_box(
            x - half, top - 0.35 * scale, x - half + 3 * leg, top, material, stamp=NOT_A_PERSON
        )


def panel(
    rng: RandomStream, canvas: Canvas, light: Light, x: float, y: float, scale: float
) -> None:
    """A poster, a door or a box: an upright rectangle with another one in it."""
    half, height = rng.uniform(0.08, 0.35) * scale, rng.uniform(0.2, 1.1) * scale
    low = y - rng.uniform(0.0, 0.6) * scale
    outer = scaled(random_material(rng), scale)
    canvas.paint_box(x - half, low - height, x + half, low, outer, stamp=NOT_A_PERSON)
    inner = Material(_body_colour(rng))
    inset = 0.25 * half
    canvas.paint_box(
        x - half + inset,
        low - height + inset,
        x + half - inset,
        low - height * rng.uniform(0.2, 0.6),
        inner,
        stamp=NOT_A_PERSON,
    )


def bush(rng: RandomStream, canvas: Canvas, light: Light, x: float, y: float, scale: float) -> None:
    """Leaves near the ground."""
    leaves = Material(jitter(rng, rng.choice(_LEAVES), 30.0))
    for _ in range(rng.integer(3, 6)):
        size = rng.uniform(0.06, 0.13) * scale
        blob_x = x + rng.uniform(-0.25, 0.25) * scale
        blob_y = y - rng.uniform(0.2, 2.0) * size
        _paint(canvas, light, (Cone(blob_x, blob_y, size, blob_x + size, blob_y, size),), leaves)


Thing = Callable[[RandomStream, Canvas, Light, float, float, float], None]

DISTRACTORS: tuple[Thing, ...] = (pole, tree, limbs, blobs, coat, furniture, panel, bush)
OCCLUDERS: tuple[Thing, ...] = (pole, furniture, bush, limbs)


def paint_distractor(
    rng: RandomStream, canvas: Canvas, light: Light, x: float, y: float, scale: float
) -> None:
    """Paint one thing behind the people."""
    rng.choice(DISTRACTORS)(rng, canvas, light, x, y, scale)


def paint_occluder(
    rng: RandomStream, canvas: Canvas, light: Light, x: float, y: float, scale: float
) -> None:
    """Paint one thing that stands between or before the people."""
    OCCLUDERS[rng.weighted((0.4, 0.2, 0.3, 0.1))](rng, canvas, light, x, y, scale)
