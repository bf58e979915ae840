"""From a figure's own units to pixels."""

from __future__ import annotations

from typing import NamedTuple

from synthetic.people.canvas import Cone
from synthetic.people.geometry import Vec3


class Place(NamedTuple):
    """Where a figure stands: the pixel position of its origin, and pixels per adult stature."""

    x: float
    y: float
    scale: float

    def point(self, position: Vec3) -> tuple[float, float]:
        """Continuous image coordinates (x, y) of a position in camera axes."""
        return self.x + self.scale * position.x, self.y - self.scale * position.y

    def cone(self, start: Vec3, start_radius: float, end: Vec3, end_radius: float) -> Cone:
        """A cone in pixels from positions and radii in statures."""
        start_x, start_y = self.point(start)
        end_x, end_y = self.point(end)
        return Cone(
            start_x, start_y, self.scale * start_radius, end_x, end_y, self.scale * end_radius
        )
