"""The head: a skull and a jaw, hair or a hat over the right part of it, and a face.

Each pixel of the skull is a point of a sphere; turned into the head's own axes it tells whether
hair or skin is seen there. So a head looks right from every side: a face in front, hair behind.
"""

from __future__ import annotations

import numpy as np

from d2_multitask.data.synthetic_people.canvas import (
    Canvas,
    Cone,
    Light,
    Material,
    Patch,
    Stamp,
    shade,
)
from d2_multitask.data.synthetic_people.geometry import Frame, Vec3
from d2_multitask.data.synthetic_people.labels import PART_ID
from d2_multitask.data.synthetic_people.outfit import Outfit
from d2_multitask.data.synthetic_people.place import Place
from d2_multitask.data.synthetic_people.skeleton import SIDES, Body, Skeleton

# Hair grows where up * y - front * z > limit on the unit sphere: (front, limit) by style.
_HAIRLINE: dict[str, tuple[float, float]] = {
    "short": (0.62, 0.12),
    "long": (0.85, 0.0),
    "bald": (1.2, 0.9),
    "hat": (0.1, 0.3),
}


def paint_head(
    canvas: Canvas,
    skeleton: Skeleton,
    body: Body,
    outfit: Outfit,
    place: Place,
    light: Light,
    owner: int,
) -> None:
    """Draw the head of a figure and stamp its pixels."""
    stamp = Stamp(owner, PART_ID["head"])
    skin = Material(outfit.skin)
    ears = {side: _feature(skeleton, body, place, f"{side}_ear", 0.2) for side, _ in SIDES}
    behind = {side: _direction(skeleton, body, f"{side}_ear").z < -0.1 for side in ears}
    for side, ear in ears.items():
        if behind[side]:
            canvas.paint((ear,), skin, light, stamp=stamp)
    patch = canvas.cover(_shape(skeleton, body, place))
    if patch is not None:
        canvas.fill(patch, _surface(canvas, patch, skeleton, body, outfit, place, light), stamp)
    for side, ear in ears.items():
        if not behind[side] and outfit.hair_style != "long":
            canvas.paint((ear,), skin, light, stamp=stamp)
    _paint_face(canvas, skeleton, body, outfit, place, stamp)
    if outfit.hair_style == "hat":
        _paint_brim(canvas, skeleton, body, outfit, place, stamp)


def _direction(skeleton: Skeleton, body: Body, name: str) -> Vec3:
    """From the middle of the skull to a named point, in radii of the skull."""
    return skeleton.points[name].plus(skeleton.points["skull"], -1.0).times(1.0 / body.head)


def _feature(
    skeleton: Skeleton,
    body: Body,
    place: Place,
    name: str,
    radius: float,
    reach: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Cone:
    """A mark at a named point; ``reach`` is its half extent in the head's axes; skull radii."""
    half = skeleton.head.apply(Vec3(*reach)).times(body.head)
    middle = skeleton.points[name]
    size = radius * body.head
    return place.cone(middle.plus(half, -1.0), size, middle.plus(half), size)


def _shape(skeleton: Skeleton, body: Body, place: Place) -> tuple[Cone, ...]:
    """The silhouette: skull and jaw, and the nose, which stands out in profile."""
    points, radius = skeleton.points, body.head
    bridge = points["skull"].plus(skeleton.head.apply(Vec3(0.0, 0.15, 0.85)), radius)
    return (
        place.cone(points["skull"], radius, points["jaw"], 0.62 * radius),
        place.cone(bridge, 0.1 * radius, points["nose"], 0.13 * radius),
    )


def _surface(
    canvas: Canvas,
    patch: Patch,
    skeleton: Skeleton,
    body: Body,
    outfit: Outfit,
    place: Place,
    light: Light,
) -> np.ndarray:
    """Colours (h, w, 3) of skin and hair with their shading."""
    x, y = canvas.grid(patch.rows, patch.columns)
    center_x, center_y = place.point(skeleton.points["skull"])
    per_radius = np.float32(1.0 / (place.scale * body.head))
    normal_x = (x - np.float32(center_x)) * per_radius
    normal_y = (y - np.float32(center_y)) * per_radius
    squared = normal_x * normal_x + normal_y * normal_y
    normal_z = np.sqrt(np.maximum(np.float32(1.0) - squared, np.float32(0.0)))
    front, limit = _HAIRLINE[outfit.hair_style]
    axes: Frame = skeleton.head
    growth = axes.y.plus(axes.z, -front)  # the hair's direction, in camera axes
    height = (
        normal_x * np.float32(growth.x)
        - normal_y * np.float32(growth.y)
        + normal_z * np.float32(growth.z)
    )
    covered = height > np.float32(limit)
    hair = outfit.accent if outfit.hair_style == "hat" else outfit.hair
    colours = np.where(
        covered[..., None], np.array(hair, np.float32), np.array(outfit.skin, np.float32)
    )
    return colours * shade(normal_x, normal_y, light)[..., None]


def _paint_face(
    canvas: Canvas,
    skeleton: Skeleton,
    body: Body,
    outfit: Outfit,
    place: Place,
    stamp: Stamp,
) -> None:
    """Eyes, brows, nose and mouth where they face the viewer; labels stay as they are."""
    red, green, blue = outfit.skin
    darker = Material((0.72 * red, 0.68 * green, 0.66 * blue))
    for name, _ in SIDES:
        if _direction(skeleton, body, f"{name}_eye").z < 0.12:
            continue
        white = _feature(skeleton, body, place, f"{name}_eye", 0.1, (0.1, 0.0, 0.0))
        pupil = _feature(skeleton, body, place, f"{name}_eye", 0.11)
        canvas.paint((white,), Material((225.0, 222.0, 215.0)), only_on=stamp)
        canvas.paint((pupil,), Material((35.0, 26.0, 22.0)), only_on=stamp)
        brow = skeleton.points[f"{name}_eye"].plus(skeleton.head.y, 0.24 * body.head)
        half = skeleton.head.x.times(0.17 * body.head)
        arch = place.cone(
            brow.plus(half, -1.0), 0.05 * body.head, brow.plus(half), 0.05 * body.head
        )
        canvas.paint((arch,), Material(outfit.hair), only_on=stamp)
    if _direction(skeleton, body, "nose").z > 0.2:
        tip = _feature(skeleton, body, place, "nose", 0.13, (0.03, 0.0, 0.0))
        canvas.paint((tip,), darker, only_on=stamp)
    mouth = skeleton.points["skull"].plus(skeleton.head.apply(Vec3(0.0, -0.62, 0.86)), body.head)
    if mouth.z - skeleton.points["skull"].z > 0.15 * body.head:
        half = skeleton.head.x.times(0.22 * body.head)
        lips = place.cone(
            mouth.plus(half, -1.0), 0.07 * body.head, mouth.plus(half), 0.07 * body.head
        )
        canvas.paint((lips,), Material((0.68 * red, 0.38 * green, 0.4 * blue)), only_on=stamp)


def _paint_brim(
    canvas: Canvas, skeleton: Skeleton, body: Body, outfit: Outfit, place: Place, stamp: Stamp
) -> None:
    """The peak of a cap, when it is on the viewer's side or stands out to the side."""
    start = skeleton.points["skull"].plus(skeleton.head.apply(Vec3(0.0, 0.42, 0.8)), body.head)
    end = skeleton.points["skull"].plus(skeleton.head.apply(Vec3(0.0, 0.36, 1.4)), body.head)
    if end.z - skeleton.points["skull"].z > -0.2 * body.head:
        brim = place.cone(start, 0.3 * body.head, end, 0.12 * body.head)
        red, green, blue = outfit.accent
        canvas.paint((brim,), Material((0.8 * red, 0.8 * green, 0.8 * blue)), stamp=stamp)
