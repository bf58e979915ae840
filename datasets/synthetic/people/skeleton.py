"""Proportions of a body, and the positions of its joints in a pose, seen by a camera.

Contract: lengths are in statures of an adult (1.0 = from the soles to the top of the head), so
that a figure is drawn at a size by one multiplication. Positions are in camera axes
(``geometry.py``) with the origin between the hips; the projection is orthographic.
"""

from __future__ import annotations

from dataclasses import dataclass

from synthetic.people.geometry import Frame, Vec3, mix, sin_cos, turn
from synthetic.people.poses import Limb, Pose
from synthetic.people.random_stream import RandomStream

SIDES: tuple[tuple[str, float], ...] = (("left", 1.0), ("right", -1.0))
"""The sides of a subject and the sign of its x coordinates there."""


@dataclass(frozen=True)
class Body:
    """Proportions, in adult statures; the defaults are an average adult's.

    Attributes:
        size: stature of this person; a child has less than 1.
        girth: factor of all widths.
        head: radius of the skull.
    """

    size: float = 1.0
    girth: float = 1.0
    head: float = 0.058
    shoulder_half_width: float = 0.100
    hip_half_width: float = 0.052
    torso: float = 0.295
    neck: float = 0.048
    upper_arm: float = 0.168
    lower_arm: float = 0.142
    upper_leg: float = 0.245
    lower_leg: float = 0.235
    foot: float = 0.105


def random_body(rng: RandomStream, child_probability: float) -> Body:
    """A person of random size, girth and proportions."""
    child = rng.chance(child_probability)
    size = rng.uniform(0.55, 0.8) if child else rng.uniform(0.88, 1.08)
    limb = size * (rng.uniform(0.88, 0.97) if child else rng.uniform(0.96, 1.05))
    torso = size * rng.uniform(0.95, 1.05)
    shoulders = rng.uniform(0.86, 0.96) if child else rng.uniform(0.9, 1.12)
    average = Body()
    return Body(
        size=size,
        girth=size * (rng.uniform(0.85, 1.1) if rng.chance(0.75) else rng.uniform(1.1, 1.4)),
        head=average.head * (0.88 if child else 1.0) * rng.uniform(0.94, 1.08),
        shoulder_half_width=average.shoulder_half_width * size * shoulders,
        hip_half_width=average.hip_half_width * size * rng.uniform(0.92, 1.15),
        torso=average.torso * torso,
        neck=average.neck * size,
        upper_arm=average.upper_arm * limb,
        lower_arm=average.lower_arm * limb,
        upper_leg=average.upper_leg * limb,
        lower_leg=average.lower_leg * limb,
        foot=average.foot * size,
    )


@dataclass(frozen=True)
class Skeleton:
    """A posed body in camera axes.

    Attributes:
        points: named positions: COCO's joints and ``neck``, ``skull``, ``jaw``,
            ``{left,right}_{knuckle,toe,heel}``.
        torso: axes of the torso in camera axes.
        head: axes of the head in camera axes.
    """

    points: dict[str, Vec3]
    torso: Frame
    head: Frame


# Positions on the head in radii of the skull, in the head's axes; x for the left side.
_FACE: dict[str, Vec3] = {
    "nose": Vec3(0.0, -0.20, 1.08),
    "eye": Vec3(0.38, 0.14, 0.88),
    "ear": Vec3(0.92, -0.06, -0.02),
    "jaw": Vec3(0.0, -0.62, 0.26),
}


def _bent_limb(
    start: Vec3, limb: Limb, lengths: tuple[float, float], side: float, frame: Frame, forward: float
) -> tuple[Vec3, Vec3, Vec3, Vec3]:
    """Middle joint, end joint, direction of the lower half, and what is "front" there.

    ``forward`` is 1 for an arm, whose elbow bends to the front, and -1 for a leg.
    """
    frame = frame.after(turn(about_z=side * limb.abduction)).after(turn(about_x=-limb.flexion))
    down, front = Vec3(0.0, -1.0, 0.0), Vec3(0.0, 0.0, forward)
    twist_sin, twist_cos = sin_cos(limb.twist)
    bend_sin, bend_cos = sin_cos(limb.bend)
    hinge = front.times(twist_cos).plus(Vec3(-side, 0.0, 0.0), twist_sin)
    lower = down.times(bend_cos).plus(hinge, bend_sin)
    lower_front = hinge.times(bend_cos).plus(down, -bend_sin)
    middle = start.plus(frame.apply(down), lengths[0])
    end = middle.plus(frame.apply(lower), lengths[1])
    return middle, end, frame.apply(lower), frame.apply(lower_front)


def _add_arms(points: dict[str, Vec3], body: Body, pose: Pose, torso: Frame) -> None:
    for (name, side), limb in zip(SIDES, (pose.left_arm, pose.right_arm), strict=True):
        shoulder = points["neck"].plus(
            torso.apply(Vec3(side * body.shoulder_half_width, -0.012, 0.0))
        )
        lengths = (body.upper_arm, body.lower_arm)
        elbow, wrist, along, _ = _bent_limb(shoulder, limb, lengths, side, torso, 1.0)
        points[f"{name}_shoulder"] = shoulder
        points[f"{name}_elbow"] = elbow
        points[f"{name}_wrist"] = wrist
        points[f"{name}_knuckle"] = wrist.plus(along, 0.048 * body.size)


def _add_legs(points: dict[str, Vec3], body: Body, pose: Pose, pelvis: Frame) -> None:
    for (name, side), limb in zip(SIDES, (pose.left_leg, pose.right_leg), strict=True):
        hip = pelvis.apply(Vec3(side * body.hip_half_width, 0.0, 0.0))
        lengths = (body.upper_leg, body.lower_leg)
        knee, ankle, along, back = _bent_limb(hip, limb, lengths, side, pelvis, -1.0)
        sole = ankle.plus(along, 0.022 * body.size)
        outward = pelvis.apply(Vec3(side, 0.0, 0.0))
        points[f"{name}_hip"] = hip
        points[f"{name}_knee"] = knee
        points[f"{name}_ankle"] = ankle
        points[f"{name}_heel"] = sole.plus(back, 0.018 * body.size)
        points[f"{name}_toe"] = sole.plus(back, -0.78 * body.foot).plus(outward, 0.25 * body.foot)


def _add_head(points: dict[str, Vec3], body: Body, head: Frame, torso: Frame) -> None:
    above_neck = torso.apply(Vec3(0.0, 0.45 * body.neck, 0.004))
    skull = points["neck"].plus(above_neck)
    skull = skull.plus(head.apply(Vec3(0.0, 0.55 * body.neck + 0.85 * body.head, 0.14 * body.head)))
    points["skull"] = skull
    points["jaw"] = skull.plus(head.apply(_FACE["jaw"]), body.head)
    points["nose"] = skull.plus(head.apply(_FACE["nose"]), body.head)
    for name, side in SIDES:
        for feature in ("eye", "ear"):
            place = _FACE[feature]
            mirrored = Vec3(side * place.x, place.y, place.z)
            points[f"{name}_{feature}"] = skull.plus(head.apply(mirrored), body.head)


def build_skeleton(body: Body, pose: Pose, camera: Frame) -> Skeleton:
    """Positions of all joints.

    Args:
        body: proportions.
        pose: joint angles.
        camera: axes of the hips in camera axes: where the person looks, the tilt of the camera.

    Returns:
        The skeleton, with the origin between the hips.
    """
    torso = camera.after(turn(pose.lean, pose.torso_twist, pose.side_lean))
    head = torso.after(turn(pose.head_pitch, pose.head_yaw))
    points = {"neck": torso.apply(Vec3(0.0, body.torso, 0.0))}
    _add_legs(points, body, pose, camera)
    _add_arms(points, body, pose, torso)
    _add_head(points, body, head, torso)
    return Skeleton(points, torso, head)


def between(points: dict[str, Vec3], first: str, second: str, fraction: float = 0.5) -> Vec3:
    """A position on the line from one named point to another."""
    return mix(points[first], points[second], fraction)
