"""The rasteriser: rounded cones, boxes and heads, painted one over the other with their labels.

Contract: everything is painted in order, far things first. A pixel belongs to what covers its
centre last; the colour at an edge is mixed by coverage, so edges are smooth while the labels are
exact. Coordinates are continuous image coordinates in pixels: x to the right, y down, the centre
of the pixel in row i and column j is (j + 0.5, i + 0.5).

Only element-wise float32 additions, multiplications, divisions, square roots and comparisons are
used. IEEE 754 fixes their results, so an image is the same, bit for bit, on every machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

NOBODY = -1
CROWD = -2
_LEAST_RADIUS = 1e-3


class Cone(NamedTuple):
    """All discs between two discs: a limb that may get thinner. Pixels, image coordinates."""

    ax: float
    ay: float
    a_radius: float
    bx: float
    by: float
    b_radius: float


class Light(NamedTuple):
    """Direction to the light (camera axes, length 1) and how strongly it counts."""

    x: float
    y: float
    z: float
    ambient: float
    diffuse: float


class Stamp(NamedTuple):
    """The labels of what is painted: the person (or ``NOBODY``, ``CROWD``) and the part id."""

    owner: int
    part: int


@dataclass(frozen=True)
class Material:
    """A colour with a pattern.

    Attributes:
        colour: RGB, 0-255.
        second: the other colour of the pattern.
        pattern: "plain", "hoops", "stripes", "checks", "dots" or "halves".
        period: of the pattern, in pixels.
        phase: shift of the pattern, in periods.
    """

    colour: tuple[float, float, float]
    second: tuple[float, float, float] = (0.0, 0.0, 0.0)
    pattern: str = "plain"
    period: float = 8.0
    phase: float = 0.0


class Patch(NamedTuple):
    """Where something is painted: a window of the canvas and values for its pixels (h, w)."""

    rows: slice
    columns: slice
    alpha: np.ndarray
    inside: np.ndarray


def _unit(values: np.ndarray) -> np.ndarray:
    """Values cut to [0, 1]."""
    return np.minimum(np.maximum(values, np.float32(0.0)), np.float32(1.0))


def _fraction(values: np.ndarray) -> np.ndarray:
    return values - np.floor(values)


def material_colour(material: Material, along: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Colours (h, w, 3) or (1, 1, 3) at positions along and across a limb, in pixels."""
    first = np.array(material.colour, dtype=np.float32)
    if material.pattern == "plain":
        return first[None, None]
    second = np.array(material.second, dtype=np.float32)
    u = _fraction(across / np.float32(material.period) + np.float32(material.phase))
    v = _fraction(along / np.float32(material.period) + np.float32(material.phase))
    if material.pattern == "hoops":
        chosen = v < 0.5
    elif material.pattern == "stripes":
        chosen = u < 0.5
    elif material.pattern == "checks":
        chosen = (u < 0.5) != (v < 0.5)
    elif material.pattern == "dots":
        chosen = (u - 0.5) * (u - 0.5) + (v - 0.5) * (v - 0.5) < 0.07
    elif material.pattern == "halves":
        chosen = across + 0.0 * along < 0.0
    else:
        raise ValueError(f"material: unknown pattern {material.pattern!r}")
    return np.where(chosen[..., None], second, first)


class Canvas:
    """An image under construction with the labels of each pixel.

    Attributes:
        image: float32 (H, W, 3), RGB, 0-255.
        owner: int16 (H, W), index of the person seen at the pixel, or ``NOBODY`` or ``CROWD``.
        part: uint8 (H, W), part id (``labels.PART_NAMES``).
    """

    def __init__(self, height: int, width: int) -> None:
        self.height = height
        self.width = width
        self.image = np.zeros((height, width, 3), dtype=np.float32)
        self.owner = np.full((height, width), NOBODY, dtype=np.int16)
        self.part = np.zeros((height, width), dtype=np.uint8)
        self._x = np.arange(width, dtype=np.float32)[None, :] + np.float32(0.5)
        self._y = np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5)

    def copy(self) -> Canvas:
        """A canvas with the same content, to paint on without changing this one."""
        other = Canvas(self.height, self.width)
        other.image[:] = self.image
        other.owner[:] = self.owner
        other.part[:] = self.part
        return other

    def window(
        self, left: float, top: float, right: float, bottom: float
    ) -> tuple[slice, slice] | None:
        """Rows and columns of a region with a margin of a pixel; None if outside of the canvas."""
        x0, x1 = max(int(left) - 2, 0), min(int(right) + 3, self.width)
        y0, y1 = max(int(top) - 2, 0), min(int(bottom) + 3, self.height)
        if right < -1.0 or bottom < -1.0 or x0 >= x1 or y0 >= y1:
            return None
        return slice(y0, y1), slice(x0, x1)

    def grid(self, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """x (1, w) and y (h, 1) of the pixel centres of a window."""
        return self._x[:, columns], self._y[rows]

    def fill(
        self, patch: Patch, colour: np.ndarray, stamp: Stamp | None, only_on: Stamp | None = None
    ) -> None:
        """Mix a colour into the image and set the labels.

        Args:
            patch: the window with its coverage ``alpha`` in [0, 1] and the mask ``inside``.
            colour: (h, w, 3), or anything that broadcasts to it.
            stamp: labels of the pixels inside; None leaves the labels alone (shadows, buttons).
            only_on: paint only where the canvas has these labels.
        """
        rows, columns, alpha, inside = patch
        owner, part = self.owner[rows, columns], self.part[rows, columns]
        if only_on is not None:
            alpha = alpha * ((owner == only_on.owner) & (part == only_on.part))
        view = self.image[rows, columns]
        view += alpha[..., None] * (colour - view)
        if stamp is not None:
            owner[inside] = stamp.owner
            part[inside] = stamp.part

    def cover(self, cones: tuple[Cone, ...], softness: float = 1.0) -> Patch | None:
        """The pixels covered by the union of cones; None if all lie outside of the canvas.

        ``softness`` is the width of the edge's coverage ramp in pixels.
        """
        margin = 0.5 * softness
        window = self.window(
            min(min(c.ax - c.a_radius, c.bx - c.b_radius) for c in cones) - margin,
            min(min(c.ay - c.a_radius, c.by - c.b_radius) for c in cones) - margin,
            max(max(c.ax + c.a_radius, c.bx + c.b_radius) for c in cones) + margin,
            max(max(c.ay + c.a_radius, c.by + c.b_radius) for c in cones) + margin,
        )
        if window is None:
            return None
        x, y = self.grid(*window)
        distance = cone_coordinates(cones[0], x, y).distance
        for cone in cones[1:]:
            distance = np.minimum(distance, cone_coordinates(cone, x, y).distance)
        alpha = _unit(np.float32(0.5) - distance * np.float32(1.0 / softness))
        return Patch(*window, alpha, distance < 0.0)

    def paint(
        self,
        cones: tuple[Cone, ...],
        material: Material,
        light: Light | None = None,
        *,
        axis: Cone | None = None,
        stamp: Stamp | None = None,
        only_on: Stamp | None = None,
    ) -> None:
        """Paint a union of cones as one thing.

        Args:
            cones: the shape.
            material: colour and pattern; the pattern runs along ``axis``.
            light: shades the shape as if it were round about ``axis``; None paints it flat.
            axis: the cone that gives the shading; the first cone if None.
            stamp: the labels, see ``fill``.
            only_on: see ``fill``.
        """
        patch = self.cover(cones)
        if patch is None:
            return
        if light is None and material.pattern == "plain":
            self.fill(patch, np.array(material.colour, np.float32), stamp, only_on)
            return
        axis = axis or cones[0]
        local = cone_coordinates(axis, *self.grid(patch.rows, patch.columns))
        colour = material_colour(material, local.along, local.across)
        if light is not None:
            colour = colour * _cone_shade(axis, local, light)[..., None]
        self.fill(patch, colour, stamp, only_on)

    def paint_box(
        self,
        left: float,
        top: float,
        right: float,
        bottom: float,
        material: Material,
        *,
        stamp: Stamp | None = None,
    ) -> None:
        """Paint an upright rectangle, its labels where it covers the pixel centres."""
        window = self.window(left, top, right, bottom)
        if window is None:
            return
        x, y = self.grid(*window)
        cover_x = np.minimum(x - np.float32(left), np.float32(right) - x) + np.float32(0.5)
        cover_y = np.minimum(y - np.float32(top), np.float32(bottom) - y) + np.float32(0.5)
        alpha = _unit(cover_x) * _unit(cover_y)
        inside = (cover_x > 0.5) & (cover_y > 0.5)
        colour = material_colour(material, y - np.float32(top), x - np.float32(left))
        self.fill(Patch(*window, alpha, inside), colour, stamp)


class ConeCoordinates(NamedTuple):
    """Pixels (h, w) as a cone sees them, in pixels.

    ``distance`` to its surface (negative inside), position ``along`` and signed offset ``across``
    the axis, the offset ``beyond`` its ends, and the ``radius`` at this position.
    """

    distance: np.ndarray
    along: np.ndarray
    across: np.ndarray
    beyond: np.ndarray
    radius: np.ndarray


def cone_coordinates(cone: Cone, x: np.ndarray, y: np.ndarray) -> ConeCoordinates:
    """Coordinates of pixel centres ``x`` (1, w) and ``y`` (h, 1) relative to a cone."""
    direction_x, direction_y, length = _direction(cone)
    from_x, from_y = x - np.float32(cone.ax), y - np.float32(cone.ay)
    position = from_x * np.float32(direction_x) + from_y * np.float32(direction_y)
    across = from_x * np.float32(direction_y) - from_y * np.float32(direction_x)
    along = np.minimum(np.maximum(position, np.float32(0.0)), np.float32(length))
    beyond = position - along
    growth = (cone.b_radius - cone.a_radius) / length
    radius = np.maximum(
        along * np.float32(growth) + np.float32(cone.a_radius), np.float32(_LEAST_RADIUS)
    )
    distance = np.sqrt(across * across + beyond * beyond) - radius
    return ConeCoordinates(distance, along, across, beyond, radius)


def _direction(cone: Cone) -> tuple[float, float, float]:
    """Unit vector of the axis and its length; down if the cone is a disc."""
    x, y = cone.bx - cone.ax, cone.by - cone.ay
    length = math.sqrt(x * x + y * y)
    if length < _LEAST_RADIUS:
        return 0.0, 1.0, _LEAST_RADIUS
    return x / length, y / length, length


def _cone_shade(cone: Cone, local: ConeCoordinates, light: Light) -> np.ndarray:
    """Brightness (h, w): long cones are shaded as cylinders, so that joints show no seam."""
    direction_x, direction_y, length = _direction(cone)
    roundness = max(0.0, 1.0 - length / max(2.0 * cone.a_radius, _LEAST_RADIUS))
    across = local.across / local.radius
    beyond = local.beyond * np.float32(roundness) / local.radius
    return shade(
        across * np.float32(direction_y) + beyond * np.float32(direction_x),
        beyond * np.float32(direction_y) - across * np.float32(direction_x),
        light,
    )


def shade(normal_x: np.ndarray, normal_y: np.ndarray, light: Light) -> np.ndarray:
    """Brightness (h, w) of a round surface.

    Args:
        normal_x: x and
        normal_y: y (image coordinates, so down) of the surface's normal; beyond length 1 the
            surface is at its edge.
        light: the light.

    Returns:
        Factors of the colour, about 0.4-1.2.
    """
    squared = np.minimum(normal_x * normal_x + normal_y * normal_y, np.float32(1.0))
    normal_z = np.sqrt(np.float32(1.0) - squared)
    facing = (
        normal_x * np.float32(light.x)
        - normal_y * np.float32(light.y)
        + normal_z * np.float32(light.z)
    )
    facing = np.maximum(facing, np.float32(0.0))
    return np.float32(light.ambient) + np.float32(light.diffuse) * facing
