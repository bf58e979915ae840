"""Things other than people: bottles, cars, chairs, dogs, potted plants, screens.

Contract: (x, y) is where a thing stands, ``scale`` the size of an adult at its distance in pixels.
Small things are drawn larger than they are, or they could not be told apart. Each painter stamps
``owner`` and the file's part ids.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from synthetic.in_detail.labels import PART_ID, silhouette_part
from synthetic.people.canvas import Canvas, Cone, Light, Material, Stamp
from synthetic.people.outfit import Colour, jitter, random_cloth
from synthetic.people.random_stream import RandomStream

_WOOD: tuple[Colour, ...] = ((150, 96, 52), (176, 124, 72), (110, 70, 40))
_GLASS: tuple[Colour, ...] = ((40, 120, 60), (120, 66, 26), (50, 90, 170))
_FUR: tuple[Colour, ...] = ((196, 150, 96), (120, 80, 48), (60, 48, 40), (226, 214, 196))
_CLAY: tuple[Colour, ...] = ((186, 96, 60), (160, 78, 50), (200, 120, 84))
_LEAVES: tuple[Colour, ...] = ((44, 130, 52), (70, 150, 50), (30, 104, 60))


class Brush(NamedTuple):
    """Paints parts of one thing."""

    canvas: Canvas
    light: Light
    owner: int

    def cones(self, part: str | int, colour: Colour, *cones: Cone) -> None:
        """Rounded shapes as one part, given by its name or id."""
        self.canvas.paint(cones, Material(colour), self.light, stamp=self._stamp(part))

    def box(self, part: str | int, colour: Colour, *corners: float) -> None:
        """An upright rectangle: left, top, right, bottom."""
        self.canvas.paint_box(*corners, Material(colour), stamp=self._stamp(part))

    def _stamp(self, part: str | int) -> Stamp:
        return Stamp(self.owner, part if isinstance(part, int) else PART_ID[part])


def bottle(rng: RandomStream, brush: Brush, x: float, y: float, scale: float) -> None:
    """A bottle with shoulders, a neck and a cap."""
    height, radius = rng.uniform(0.42, 0.58) * scale, rng.uniform(0.065, 0.085) * scale
    glass = jitter(rng, rng.choice(_GLASS), 20.0)
    shoulder, top = y - 0.62 * height, y - height
    brush.cones(
        "body",
        glass,
        Cone(x, y - radius, radius, x, shoulder, radius),
        Cone(x, shoulder, 0.8 * radius, x, top, 0.4 * radius),
    )
    label = jitter(rng, (230, 226, 210), 20.0)
    brush.box("body", label, x - radius, y - 0.5 * height, x + radius, y - 0.25 * height)
    brush.cones("cap", random_cloth(rng), Cone(x, top, 0.5 * radius, x, top + 2, 0.5 * radius))


def car(rng: RandomStream, brush: Brush, x: float, y: float, scale: float) -> None:
    """A car seen from its left or right."""
    half, forward = rng.uniform(0.42, 0.55) * scale, rng.sign()
    height = rng.uniform(0.42, 0.5) * scale
    paint = random_cloth(rng, (0.6, 0.95))
    # Driving to the image's left it shows its own left side.
    side = "leftside" if forward < 0 else "rightside"
    low, middle = y - 0.16 * height, y - 0.42 * height
    radius, roof = 0.22 * height, y - 0.86 * height
    brush.cones(side, paint, Cone(x - 0.5 * half, roof, 0.13 * height, x + 0.3 * half, roof, 5))
    brush.cones(
        side,
        paint,
        Cone(x - half + radius, middle, radius, x + half - radius, middle, radius),
        Cone(x - 0.66 * half, middle - radius, 4, x - 0.42 * half, roof, 0.13 * height),
        Cone(x + 0.66 * half, middle - radius, 4, x + 0.42 * half, roof, 0.13 * height),
    )
    brush.box(side, paint, x - 0.5 * half, roof, x + 0.5 * half, middle)
    glass = jitter(rng, (150, 190, 215), 15.0)
    for left, right in ((-0.46, -0.04), (0.04, 0.46)):
        top = roof + 0.02 * height
        brush.box("window", glass, x + left * half, top, x + right * half, middle - 0.7 * radius)
    door = tuple(0.85 * channel for channel in paint)
    brush.box("door", door, x - 0.03 * half, middle - 0.6 * radius, x + 0.4 * half, low - 3)
    for wheel_x in (x - 0.56 * half, x + 0.56 * half):
        tyre = Cone(wheel_x, low, 0.2 * height, wheel_x + 0.1, low, 0.2 * height)
        hub = Cone(wheel_x, low, 0.09 * height, wheel_x + 0.1, low, 0.09 * height)
        brush.cones("wheel", (34, 34, 38), tyre)
        brush.cones("wheel", (170, 172, 176), hub)
    lamp = x + forward * 0.92 * half
    brush.cones("headlight", (250, 240, 180), Cone(lamp, middle, 3, lamp, middle + 1, 3))


def chair(rng: RandomStream, brush: Brush, x: float, y: float, scale: float) -> None:
    """A chair with a back; it has no parts, as in the dataset."""
    part = silhouette_part("chair")
    wood = jitter(rng, rng.choice(_WOOD), 15.0)
    half, seat = rng.uniform(0.14, 0.18) * scale, y - rng.uniform(0.26, 0.32) * scale
    leg, back = 0.022 * scale + 0.8, seat - rng.uniform(0.3, 0.4) * scale
    side = rng.sign()
    for leg_x in (x - half + leg, x + half - leg):
        brush.box(part, wood, leg_x - leg, seat, leg_x + leg, y)
    dark = tuple(0.75 * channel for channel in wood)
    for leg_x in (x - 0.45 * half, x + 0.6 * half):
        brush.box(part, dark, leg_x - 0.8 * leg, seat, leg_x + 0.8 * leg, y - 0.05 * scale)
    brush.box(part, wood, x - half, seat - 0.03 * scale, x + half, seat + 0.03 * scale)
    post = x + side * (half - leg)
    brush.box(part, wood, post - leg, back, post + leg, seat)
    inner = post - side * 1.5 * half
    left, right = min(post, inner), max(post, inner)
    for rung in range(3):
        top = back + rung * 0.1 * scale
        brush.box(part, dark, left, top, right, top + 0.045 * scale)


def dog(rng: RandomStream, brush: Brush, x: float, y: float, scale: float) -> None:
    """A dog from the side."""
    fur, ahead = jitter(rng, rng.choice(_FUR), 18.0), rng.sign()
    size = rng.uniform(0.9, 1.15) * scale
    body, half = y - 0.27 * size, 0.19 * size
    dark = tuple(0.7 * channel for channel in fur)
    # The dog's own left is the viewer's near side if it looks to the image's left.
    near, far = ("l", "r") if ahead < 0 else ("r", "l")
    for name, colour, shift in ((far, dark, 0.03), (near, fur, -0.03)):
        for leg, place in (("f", 1.0), ("b", -1.0)):
            leg_x = x + ahead * place * 0.85 * half + shift * size
            bone = Cone(leg_x, body, 0.045 * size, leg_x, y - 0.02 * size, 0.028 * size)
            brush.cones(f"{name}{leg}leg", colour, bone)
    rump, chest = x - ahead * half, x + ahead * half
    tail = Cone(rump, body - 0.03 * size, 0.022 * size, rump - ahead * 0.12 * size, 0, 0.015 * size)
    brush.cones("tail", fur, tail._replace(by=body - rng.uniform(0.08, 0.2) * size))
    brush.cones("torso", fur, Cone(rump, body, 0.085 * size, chest, body, 0.1 * size))
    head_x, head_y = chest + ahead * 0.1 * size, body - 0.17 * size
    brush.cones(
        "neck", fur, Cone(chest, body - 0.03 * size, 0.07 * size, head_x, head_y, 0.06 * size)
    )
    brush.cones("head", fur, Cone(head_x, head_y, 0.08 * size, head_x + ahead, head_y, 0.08 * size))
    snout = Cone(
        head_x + ahead * 0.05 * size, head_y + 0.025 * size, 0.045 * size, 0, 0, 0.03 * size
    )
    snout = snout._replace(bx=head_x + ahead * 0.14 * size, by=head_y + 0.035 * size)
    brush.cones("muzzle", dark, snout)
    ear_x = head_x - ahead * 0.04 * size
    ear = Cone(ear_x, head_y - 0.04 * size, 0.03 * size, ear_x, head_y + 0.05 * size, 0.022 * size)
    brush.cones(f"{near}ear", dark, ear)


def potted_plant(rng: RandomStream, brush: Brush, x: float, y: float, scale: float) -> None:
    """Leaves in a clay pot."""
    clay, leaves = jitter(rng, rng.choice(_CLAY), 12.0), rng.choice(_LEAVES)
    width, height = rng.uniform(0.1, 0.13) * scale, rng.uniform(0.16, 0.2) * scale
    rim = y - height
    for _ in range(rng.integer(5, 8)):
        reach, rise = rng.uniform(-0.16, 0.16) * scale, rng.uniform(0.16, 0.36) * scale
        leaf = Cone(x, rim, 0.02 * scale, x + reach, rim - rise, rng.uniform(0.03, 0.06) * scale)
        brush.cones("plant", jitter(rng, leaves, 25.0), leaf)
    pot = (
        Cone(x - 0.35 * width, rim, 0.65 * width, x - 0.2 * width, y - 0.4 * width, 0.4 * width),
        Cone(x + 0.35 * width, rim, 0.65 * width, x + 0.2 * width, y - 0.4 * width, 0.4 * width),
    )
    brush.cones("pot", clay, *pot)
    brush.box("pot", clay, x - width, rim - 0.25 * width, x + width, rim + 0.3 * width)


def tv_monitor(rng: RandomStream, brush: Brush, x: float, y: float, scale: float) -> None:
    """A screen on a foot."""
    half, height = rng.uniform(0.22, 0.3) * scale, rng.uniform(0.3, 0.38) * scale
    frame = jitter(rng, (36, 36, 40), 14.0)
    foot, rim = 0.08 * scale, 0.03 * scale + 1
    brush.box("frame", frame, x - 0.1 * half, y - 1.5 * foot, x + 0.1 * half, y)
    brush.box("frame", frame, x - 0.5 * half, y - 0.35 * foot, x + 0.5 * half, y)
    brush.box("frame", frame, x - half, y - foot - height, x + half, y - foot)
    light = jitter(rng, rng.choice(((120, 200, 240), (90, 150, 230), (180, 230, 210))), 20.0)
    brush.box(
        "framescreen",
        light,
        x - half + rim,
        y - foot - height + rim,
        x + half - rim,
        y - foot - rim,
    )
    if rng.chance(0.6):  # what it shows
        half_width = rng.uniform(0.2, 0.5) * half
        middle = y - foot - 0.5 * height
        colours = random_cloth(rng)
        brush.box("framescreen", colours, x - half_width, middle, x + half_width, middle + rim)


Painter = Callable[[RandomStream, Brush, float, float, float], None]

THINGS: dict[str, Painter] = {
    "bottle": bottle,
    "car": car,
    "chair": chair,
    "dog": dog,
    "pottedplant": potted_plant,
    "tvmonitor": tv_monitor,
}
