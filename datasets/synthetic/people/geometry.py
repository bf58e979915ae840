"""Small vector algebra whose results are the same, bit for bit, on every machine.

Contract: only additions, multiplications, divisions and square roots of Python floats are used;
IEEE 754 fixes the result of each of them. The sine of the C library and the matrix products of
BLAS differ between machines in the last bit, so neither is used.

Body axes: x to the subject's left, y up, z forward. Camera axes: x to the image's right, y up,
z towards the viewer. A subject with identity rotation faces the viewer, and its left is on the
image's right. Angles are in degrees.
"""

from __future__ import annotations

import math
from typing import NamedTuple

RADIANS_PER_DEGREE = 0.017453292519943295


class Vec3(NamedTuple):
    """A point or direction in three dimensions."""

    x: float
    y: float
    z: float

    def plus(self, other: Vec3, scale: float = 1.0) -> Vec3:
        """``self + scale * other``."""
        return Vec3(self.x + scale * other.x, self.y + scale * other.y, self.z + scale * other.z)

    def times(self, scale: float) -> Vec3:
        """``scale * self``."""
        return Vec3(scale * self.x, scale * self.y, scale * self.z)


def mix(start: Vec3, end: Vec3, fraction: float) -> Vec3:
    """The point at ``fraction`` of the way from ``start`` to ``end``."""
    return start.times(1.0 - fraction).plus(end, fraction)


def sin_cos(degrees: float) -> tuple[float, float]:
    """Sine and cosine of an angle, from their power series on [-45, 45] degrees."""
    quarter = math.floor(degrees / 90.0 + 0.5)
    a = (degrees - 90.0 * quarter) * RADIANS_PER_DEGREE
    b = a * a
    sine = a * (1 - b / 6 * (1 - b / 20 * (1 - b / 42 * (1 - b / 72 * (1 - b / 110)))))
    cosine = 1 - b / 2 * (1 - b / 12 * (1 - b / 30 * (1 - b / 56 * (1 - b / 90 * (1 - b / 132)))))
    return ((sine, cosine), (cosine, -sine), (-sine, -cosine), (-cosine, sine))[quarter % 4]


def rotate_x(v: Vec3, degrees: float) -> Vec3:
    """Turn about the x axis; positive angles bring "up" towards "forward"."""
    s, c = sin_cos(degrees)
    return Vec3(v.x, v.y * c - v.z * s, v.y * s + v.z * c)


def rotate_y(v: Vec3, degrees: float) -> Vec3:
    """Turn about the y axis; positive angles bring "forward" towards the subject's left."""
    s, c = sin_cos(degrees)
    return Vec3(v.x * c + v.z * s, v.y, v.z * c - v.x * s)


def rotate_z(v: Vec3, degrees: float) -> Vec3:
    """Turn about the z axis; positive angles bring "down" towards the subject's left."""
    s, c = sin_cos(degrees)
    return Vec3(v.x * c - v.y * s, v.x * s + v.y * c, v.z)


class Frame(NamedTuple):
    """A rotation, given by where it takes the three axes."""

    x: Vec3
    y: Vec3
    z: Vec3

    def apply(self, v: Vec3) -> Vec3:
        """The rotated vector."""
        return self.x.times(v.x).plus(self.y, v.y).plus(self.z, v.z)

    def after(self, first: Frame) -> Frame:
        """The rotation that does ``first`` and then this one."""
        return Frame(self.apply(first.x), self.apply(first.y), self.apply(first.z))


def turn(about_x: float = 0.0, about_y: float = 0.0, about_z: float = 0.0) -> Frame:
    """The rotation about y first, then x, then z."""

    def rotate(v: Vec3) -> Vec3:
        return rotate_z(rotate_x(rotate_y(v, about_y), about_x), about_z)

    return Frame(
        rotate(Vec3(1.0, 0.0, 0.0)), rotate(Vec3(0.0, 1.0, 0.0)), rotate(Vec3(0.0, 0.0, 1.0))
    )
