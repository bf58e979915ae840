"""The head: a skull and a jaw, hair or a hat over the right part of it, and a face.

Each pixel of the skull is a point of a sphere; turned into the head's own axes it tells whether
hair or skin is seen there. So a head looks right from every side: a face in front, hair behind.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from synthetic.people.canvas import (
    Canvas,
    Cone,
    Light,
    Material,
    Patch,
    Stamp,
    shade,
)
from synthetic.people.geometry import Vec3
from synthetic.people.labels import PART_ID
from synthetic.people.outfit import Colour, Outfit
from synthetic.people.place import Place
from synthetic.people.skeleton import SIDES, Skeleton

# Hair grows where up * y - front * z > limit on the unit sphere: (front, limit) by style.
_HAIRLINE: dict[str, tuple[float, float]] = {
    "short": (0.62, 0.12),
    "long": (0.85, 0.0),
    "bald": (1.2, 0.9),
    "hat": (0.1, 0.3),
}
_EYE_WHITE: Colour = (225.0, 222.0, 215.0)
_PUPIL: Colour = (35.0, 26.0, 22.0)


@dataclass(frozen=True)
class Head:
    """The head of a figure; positions and sizes below are in radii of the skull, head's axes.

    Attributes:
        skeleton: of the figure.
        radius: of the skull, in adult statures.
        outfit: skin, hair and hat.
        place: of the figure.
    """

    skeleton: Skeleton
    radius: float
    outfit: Outfit
    place: Place

    def paint(self, canvas: Canvas, light: Light, owner: int) -> None:
        """Draw the head and stamp its pixels with the person ``owner``."""
        stamp = Stamp(owner, PART_ID["head"])
        skin = Material(self.outfit.skin)
        ears = [(self.depth(f"{side}_ear"), self._ear(side)) for side, _ in SIDES]
        for depth, ear in ears:
            if depth < -0.1:
                canvas.paint((ear,), skin, light, stamp=stamp)
        patch = canvas.cover(self._shape())
        if patch is not None:
            canvas.fill(patch, self._surface(canvas, patch, light), stamp)
        for depth, ear in ears:
            if depth >= -0.1 and self.outfit.hair_style != "long":
                canvas.paint((ear,), skin, light, stamp=stamp)
        for cone, colour in self._face():
            canvas.paint((cone,), Material(colour), only_on=stamp)
        peak_depth = self._at(0.0, 0.36, 1.4).z - self.skeleton.points["skull"].z
        if self.outfit.hair_style == "hat" and peak_depth > -0.2 * self.radius:
            canvas.paint((self._brim(),), Material(_tinted(self.outfit.accent)), stamp=stamp)

    def depth(self, name: str) -> float:
        """How far a named point is nearer to the viewer than the middle of the skull."""
        return (self.skeleton.points[name].z - self.skeleton.points["skull"].z) / self.radius

    def _at(self, x: float, y: float, z: float) -> Vec3:
        """A position given from the middle of the skull."""
        offset = self.skeleton.head.apply(Vec3(x, y, z))
        return self.skeleton.points["skull"].plus(offset, self.radius)

    def _bar(self, middle: Vec3, half_width: float, radius: float) -> Cone:
        """A bar from the head's right to its left."""
        half = self.skeleton.head.x.times(half_width * self.radius)
        size = radius * self.radius
        return self.place.cone(middle.plus(half, -1.0), size, middle.plus(half), size)

    def _ear(self, side: str) -> Cone:
        return self._bar(self.skeleton.points[f"{side}_ear"], 0.0, 0.2)

    def _brim(self) -> Cone:
        """The peak of a cap."""
        start, end = self._at(0.0, 0.42, 0.8), self._at(0.0, 0.36, 1.4)
        return self.place.cone(start, 0.3 * self.radius, end, 0.12 * self.radius)

    def _shape(self) -> tuple[Cone, ...]:
        """The silhouette: skull and jaw, and the nose, which stands out in profile."""
        points, radius = self.skeleton.points, self.radius
        return (
            self.place.cone(points["skull"], radius, points["jaw"], 0.62 * radius),
            self.place.cone(self._at(0.0, 0.15, 0.85), 0.1 * radius, points["nose"], 0.13 * radius),
        )

    def _surface(self, canvas: Canvas, patch: Patch, light: Light) -> np.ndarray:
        """Colours (h, w, 3) of skin and hair with their shading."""
        x, y = canvas.grid(patch.rows, patch.columns)
        center_x, center_y = self.place.point(self.skeleton.points["skull"])
        per_radius = np.float32(1.0 / (self.place.scale * self.radius))
        normal_x = (x - np.float32(center_x)) * per_radius
        normal_y = (y - np.float32(center_y)) * per_radius
        squared = normal_x * normal_x + normal_y * normal_y
        normal_z = np.sqrt(np.maximum(np.float32(1.0) - squared, np.float32(0.0)))
        front, limit = _HAIRLINE[self.outfit.hair_style]
        growth = self.skeleton.head.y.plus(self.skeleton.head.z, -front)
        height = (
            normal_x * np.float32(growth.x)
            - normal_y * np.float32(growth.y)
            + normal_z * np.float32(growth.z)
        )
        on_top = self.outfit.accent if self.outfit.hair_style == "hat" else self.outfit.hair
        colours = np.where(
            (height > np.float32(limit))[..., None],
            np.array(on_top, np.float32),
            np.array(self.outfit.skin, np.float32),
        )
        return colours * shade(normal_x, normal_y, light)[..., None]

    def _face(self) -> list[tuple[Cone, Colour]]:
        """Eyes, brows, nose and mouth as far as they face the viewer."""
        points, skin = self.skeleton.points, self.outfit.skin
        marks = []
        for side, _ in SIDES:
            eye = points[f"{side}_eye"]
            if self.depth(f"{side}_eye") > 0.12:
                brow = eye.plus(self.skeleton.head.y, 0.24 * self.radius)
                marks.append((self._bar(eye, 0.1, 0.1), _EYE_WHITE))
                marks.append((self._bar(eye, 0.0, 0.11), _PUPIL))
                marks.append((self._bar(brow, 0.17, 0.05), self.outfit.hair))
        if self.depth("nose") > 0.2:
            marks.append((self._bar(points["nose"], 0.03, 0.13), _tinted(skin, 0.72, 0.68, 0.66)))
        mouth = self._at(0.0, -0.62, 0.86)
        if mouth.z - points["skull"].z > 0.15 * self.radius:
            marks.append((self._bar(mouth, 0.22, 0.07), _tinted(skin, 0.68, 0.38, 0.4)))
        return marks


def _tinted(colour: Colour, red: float = 0.8, green: float = 0.8, blue: float = 0.8) -> Colour:
    """The colour with its channels multiplied."""
    return colour[0] * red, colour[1] * green, colour[2] * blue
