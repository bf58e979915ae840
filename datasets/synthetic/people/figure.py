"""A person on the canvas: body, clothes and head as rounded cones, sorted by depth.

Contract: ``Figure`` joins a skeleton, an outfit and a place in the image; ``paint`` draws it on a
canvas and stamps the labels. Radii are in adult statures, as in ``skeleton.py``; ``Place`` brings
them to pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from synthetic.people.canvas import (
    NOBODY,
    Canvas,
    Cone,
    Light,
    Material,
    Stamp,
)
from synthetic.people.geometry import Vec3, mix
from synthetic.people.head import Head
from synthetic.people.labels import KEYPOINT_NAMES, PART_ID
from synthetic.people.outfit import Outfit, scaled
from synthetic.people.place import Place
from synthetic.people.skeleton import SIDES, Body, Skeleton, between


class Layer(NamedTuple):
    """A shape of one material; layers of a piece are painted one over the other.

    ``on_piece`` keeps it within what this part of the person already covers (a zip, a collar).
    """

    cones: tuple[Cone, ...]
    material: Material
    axis: Cone | None = None
    on_piece: bool = False


class Piece(NamedTuple):
    """A part of the figure, painted as one: larger depth is nearer to the viewer."""

    part: str
    depth: float
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Figure:
    """A person at a place in the image."""

    body: Body
    skeleton: Skeleton
    outfit: Outfit
    place: Place

    def joints(self) -> list[tuple[float, float]]:
        """COCO's 17 joints in continuous image coordinates (x, y), in pixels."""
        return [self.place.point(self.skeleton.points[name]) for name in KEYPOINT_NAMES]

    def turned_away(self) -> frozenset[str]:
        """Joints on the side of the torso or head that does not face the viewer."""
        points = self.skeleton.points
        middles = {
            "nose": ("skull", 0.0),
            "eye": ("skull", 0.05 * self.body.head),
            "ear": ("skull", -0.5 * self.body.head),
            "shoulder": ("neck", -0.75 * self.body.shoulder_half_width),
            "hip": (None, -0.75 * self.body.hip_half_width),
        }
        away = set()
        for name in KEYPOINT_NAMES:
            kind = name.rpartition("_")[2]
            if kind in middles:
                middle, limit = middles[kind]
                depth = points[name].z - (points[middle].z if middle else 0.0)
                if depth < limit or (kind == "ear" and self.outfit.hair_style == "long"):
                    away.add(name)
        return frozenset(away)

    def lowest(self) -> float:
        """y of the lowest point, in statures above the hips (negative)."""
        points = self.skeleton.points
        ends = ("toe", "heel", "knee", "knuckle", "hip")
        low = min(points[f"{side}_{end}"].y for side, _ in SIDES for end in ends)
        return low - 0.02 * self.body.girth

    def highest(self) -> float:
        """y of the top of the head, in statures above the hips."""
        return self.skeleton.points["skull"].y + self.body.head

    def paint(self, canvas: Canvas, light: Light, owner: int) -> None:
        """Draw the person and stamp its pixels with ``owner`` and the parts."""
        for piece in sorted(self._pieces(), key=lambda piece: piece.depth):
            if piece.part == "skull":
                head = Head(self.skeleton, self.body.head, self.outfit, self.place)
                head.paint(canvas, light, owner)
                continue
            carried = piece.part == "background"
            stamp = Stamp(NOBODY if carried else owner, PART_ID[piece.part])
            for layer in piece.layers:
                canvas.paint(
                    layer.cones,
                    layer.material,
                    light,
                    axis=layer.axis,
                    stamp=None if layer.on_piece else stamp,
                    only_on=stamp if layer.on_piece else None,
                )

    def _pieces(self) -> Iterator[Piece]:
        skull = self.skeleton.points["skull"]
        yield Piece("skull", skull.z + 0.06, ())
        if self.outfit.hair_style == "long":
            yield self._long_hair()
        yield from self._torso_pieces()
        if self.outfit.backpack:
            yield self._backpack()
        for side, _ in SIDES:
            yield from self._arm_pieces(side)
            yield from self._leg_pieces(side)

    def _cone(self, start: Vec3, start_radius: float, end: Vec3, end_radius: float) -> Cone:
        girth = self.body.girth
        return self.place.cone(start, start_radius * girth, end, end_radius * girth)

    def _cloth(self, material: Material) -> Material:
        return scaled(material, self.place.scale)

    def _limb(
        self, names: tuple[str, str], radii: tuple[float, float], part: float = 1.0
    ) -> tuple[Cone, ...]:
        """The first ``part`` of a limb between two named points."""
        points = self.skeleton.points
        end = between(points, *names, part)
        end_radius = radii[0] + part * (radii[1] - radii[0])
        return (self._cone(points[names[0]], radii[0], end, end_radius),)

    def _depth(self, first: str, second: str) -> float:
        points = self.skeleton.points
        return 0.5 * (points[first].z + points[second].z)

    def _arm_pieces(self, side: str) -> Iterator[Piece]:
        skin, top = Material(self.outfit.skin), self._cloth(self.outfit.top)
        shoulder, elbow, wrist = (f"{side}_{name}" for name in ("shoulder", "elbow", "wrist"))
        sleeves = self.outfit.sleeves
        upper = [Layer(self._limb((shoulder, elbow), (0.029, 0.023)), skin)]
        if sleeves > 0.0:
            cones = self._limb((shoulder, elbow), (0.035, 0.029), min(sleeves, 1.0))
            upper.append(Layer(cones, top))
        lower = [Layer(self._limb((elbow, wrist), (0.023, 0.016)), skin)]
        if sleeves > 1.0:
            lower.append(Layer(self._limb((elbow, wrist), (0.028, 0.021), 0.97), top))
        hand = Layer(self._limb((wrist, f"{side}_knuckle"), (0.017, 0.021)), skin)
        upper_depth = self._depth(shoulder, elbow) + 0.012
        lower_depth = self._depth(elbow, wrist) + 0.02
        yield Piece(f"{side}_upper_arm", upper_depth, tuple(upper))
        yield Piece(f"{side}_hand", lower_depth - 0.001, (hand,))
        yield Piece(f"{side}_lower_arm", lower_depth, tuple(lower))

    def _leg_pieces(self, side: str) -> Iterator[Piece]:
        skin, cloth = Material(self.outfit.skin), self._cloth(self.outfit.bottom)
        hip, knee, ankle = (f"{side}_{name}" for name in ("hip", "knee", "ankle"))
        trousers = self.outfit.legs == "trousers"
        upper = [Layer(self._limb((hip, knee), (0.054, 0.036)), cloth if trousers else skin)]
        lower = [Layer(self._limb((knee, ankle), (0.036, 0.021)), skin)]
        if trousers:
            lower.append(Layer(self._limb((knee, ankle), (0.038, 0.029), 0.94), cloth))
        elif self.outfit.legs == "shorts":
            cones = self._limb((hip, knee), (0.057, 0.047), self.outfit.leg_length)
            upper.append(Layer(cones, cloth))
        else:
            upper.append(Layer(self._skirt(hip, knee), cloth))
        foot = Layer(
            self._limb((f"{side}_heel", f"{side}_toe"), (0.024, 0.018)),
            Material(self.outfit.shoes),
        )
        lower_depth = self._depth(knee, ankle) - 0.02
        yield Piece(f"{side}_foot", lower_depth - 0.004, (foot,))
        yield Piece(f"{side}_lower_leg", lower_depth, tuple(lower))
        yield Piece(f"{side}_upper_leg", self._depth(hip, knee) - 0.03, tuple(upper))

    def _skirt(self, hip: str, knee: str) -> tuple[Cone, ...]:
        """One half of a skirt; it overlaps with the other half in the middle."""
        points = self.skeleton.points
        length = self.outfit.leg_length
        middle_top = between(points, "left_hip", "right_hip")
        middle_low = mix(middle_top, between(points, "left_knee", "right_knee"), length)
        outer = self._limb((hip, knee), (0.058, 0.07), length)
        return (*outer, self._cone(middle_top, 0.055, middle_low, 0.06))

    def _torso_pieces(self) -> Iterator[Piece]:
        points, top = self.skeleton.points, self._cloth(self.outfit.top)
        depth = 0.5 * points["neck"].z
        hips = self._cone(points["left_hip"], 0.056, points["right_hip"], 0.056)
        waist = self._cone(
            Vec3(0.0, 0.0, 0.0), 0.062, mix(Vec3(0, 0, 0), points["neck"], 0.3), 0.06
        )
        pelvis = Layer((hips, waist), self._cloth(self.outfit.bottom), waist)
        axis = self._cone(points["neck"], 0.125, Vec3(0.0, 0.0, 0.0), 0.105)
        neck = Layer((self._cone(points["neck"], 0.031, points["skull"], 0.027),), self._skin())
        layers = [pelvis, Layer(self._torso_cones(), top, axis), *self._front()]
        yield Piece("torso", depth, tuple(layers))
        yield Piece("torso", depth + 0.002, (neck,))

    def _skin(self) -> Material:
        return Material(self.outfit.skin)

    def _torso_cones(self) -> tuple[Cone, ...]:
        """Cones side by side from the shoulders to the hips, and from the neck to each shoulder."""
        points = self.skeleton.points
        reach = 0.84 if self.outfit.tucked else 1.04
        nape = self._on_torso(0.0, 0.014, 0.0)
        cones = [self._cone(nape, 0.03, points[f"{side}_shoulder"], 0.033) for side, _ in SIDES]
        radii = ((0.034, 0.046), (0.05, 0.058), (0.058, 0.064), (0.05, 0.058), (0.034, 0.046))
        for index, (top_radius, low_radius) in enumerate(radii):
            across = 0.06 + 0.22 * index
            shoulder = between(points, "left_shoulder", "right_shoulder", across)
            hip = between(points, "left_hip", "right_hip", across)
            drop = (top_radius - 0.03) / self.body.torso * self.body.girth
            cones.append(
                self._cone(
                    mix(shoulder, hip, drop), top_radius, mix(shoulder, hip, reach), low_radius
                )
            )
        return tuple(cones)

    def _on_torso(self, x: float, y: float, z: float) -> Vec3:
        """A point from the neck's base: left, up and forward in statures of this person."""
        offset = self.skeleton.torso.apply(Vec3(x, y, z)).times(self.body.size)
        return self.skeleton.points["neck"].plus(offset)

    def _front(self) -> Iterator[Layer]:
        """What tells the front of the torso from its back; nothing when it looks away."""
        if self.skeleton.torso.z.z < 0.15:
            return
        chest, belly = self._on_torso(0.0, -0.02, 0.062), self._on_torso(0.0, -0.27, 0.06)
        accent = Material(self.outfit.accent)
        if self.outfit.front == "zip":
            yield Layer((self._cone(chest, 0.005, belly, 0.005),), accent, on_piece=True)
        elif self.outfit.front == "jacket":
            yield Layer((self._cone(chest, 0.022, belly, 0.03),), accent, on_piece=True)
        elif self.outfit.front == "tie":
            middle = self._on_torso(0.0, -0.18, 0.065)
            yield Layer((self._cone(chest, 0.008, middle, 0.015),), accent, on_piece=True)
        elif self.outfit.front == "print":
            left, right = self._on_torso(0.03, -0.11, 0.06), self._on_torso(-0.03, -0.11, 0.06)
            yield Layer((self._cone(left, 0.026, right, 0.026),), accent, on_piece=True)
        low = self._on_torso(0.0, -0.03, 0.055)
        collar = self._cone(self._on_torso(0.0, 0.015, 0.03), 0.034, low, 0.012)
        yield Layer((collar,), self._skin(), on_piece=True)

    def _long_hair(self) -> Piece:
        points, axes, radius = self.skeleton.points, self.skeleton.head, self.body.head
        start = points["skull"].plus(axes.apply(Vec3(0.0, 0.1, -0.35)), radius)
        end = points["skull"].plus(axes.apply(Vec3(0.0, -1.7, -0.6)), radius)
        cone = self.place.cone(start, 0.98 * radius, end, 0.7 * radius)
        # Seen from the front the neck and the torso cover its lower end, from the side it covers
        # them, and from behind it covers the head, too.
        facing = axes.z.z
        depth = points["skull"].z + (0.059 if facing > -0.6 else 0.061)
        if facing > 0.0:
            depth = 0.5 * points["neck"].z - 0.001
        return Piece("head", depth, (Layer((cone,), Material(self.outfit.hair)),))

    def _backpack(self) -> Piece:
        top, low = self._on_torso(0.0, -0.06, -0.085), self._on_torso(0.0, -0.2, -0.085)
        cloth = self._cloth(self.outfit.backpack or self.outfit.top)
        layer = Layer((self._cone(top, 0.062, low, 0.074),), cloth)
        return Piece("background", 0.5 * (top.z + low.z), (layer,))
