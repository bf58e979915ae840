"""How a figure walks: its way through the picture, and its joint angles on the way.

Contract: as in ``people/geometry.py``, only additions, multiplications, divisions and comparisons
of Python floats, so that a way is the same on every machine.
"""

from __future__ import annotations

from typing import NamedTuple

from synthetic.people.geometry import sin_cos
from synthetic.people.poses import Limb, Pose
from synthetic.people.random_stream import RandomStream

FPS = 25
_STRIDE = 0.75  # statures that two steps take
_TURNING = 0.12  # share of the missing speed that a frame makes up for


class Step(NamedTuple):
    """A figure in one frame.

    Attributes:
        x: of its middle, pixels.
        scale: pixels per adult stature.
        pace: -1 to 1: full speed to the left ... to the right; 0 stands.
        phase: of the gait, degrees; 360 are two steps.
    """

    x: float
    scale: float
    pace: float
    phase: float


class Gait(NamedTuple):
    """What is a walker's own."""

    speed: float  # statures a second
    yaw: float  # degrees that it turns from the viewer when it walks sideways
    reach: float  # degrees that a leg swings forward and back
    arm_bend: float
    abduction: float
    head_yaw: float


def random_gait(rng: RandomStream) -> Gait:
    """The gait of one person."""
    return Gait(
        speed=rng.uniform(0.3, 0.75),
        yaw=rng.uniform(25, 65),
        reach=rng.uniform(16, 28),
        arm_bend=rng.uniform(10, 45),
        abduction=rng.uniform(5, 14),
        head_yaw=rng.uniform(-15, 15),
    )


def random_way(
    rng: RandomStream, gait: Gait, num_frames: int, width: int, height: int
) -> list[Step]:
    """A walk of one person: it comes, turns round, waits, and may leave.

    Args:
        rng: the stream of this walk.
        gait: its speed.
        num_frames: how long the video is.
        width: of the picture, pixels.
        height: likewise.

    Returns:
        (num_frames,) steps; ``x`` may be outside of the picture.
    """
    scale = rng.uniform(0.5, 0.8) * height
    growth = rng.uniform(-0.1, 0.1) * height / num_frames
    wanted = rng.sign()
    if rng.chance(0.35):  # comes in from the side
        x = -0.2 * scale if wanted > 0 else width + 0.2 * scale
        x -= wanted * rng.uniform(0.0, 1.5) * scale * gait.speed
    else:
        x = rng.uniform(0.1, 0.9) * width
    leaves = rng.chance(0.3)
    pace, phase, left = wanted, rng.uniform(0, 360), rng.integer(FPS, 4 * FPS)
    way = []
    for _ in range(num_frames):
        way.append(Step(x, scale, pace, phase))
        left -= 1
        outward = x < 0.12 * width if wanted < 0 else x > 0.88 * width
        if outward and not leaves:
            wanted = -wanted
        elif left <= 0 and 0.12 * width <= x <= 0.88 * width:
            wanted = (wanted or rng.sign()) * (1.0, -1.0, 0.0)[rng.weighted((0.65, 0.15, 0.2))]
            left = rng.integer(FPS, 4 * FPS) if wanted else rng.integer(FPS // 2, FPS)
        pace += _TURNING * (wanted - pace)
        moved = pace * gait.speed / FPS  # statures
        x, scale = x + moved * scale, scale + growth
        phase += 360.0 * abs(moved) / _STRIDE
    return way


def walking_pose(gait: Gait, step: Step) -> Pose:
    """Joint angles at a step; a figure that stands has its legs together."""
    sine, cosine = sin_cos(step.phase)
    effort = min(1.0, 1.6 * abs(step.pace))

    def leg(sine: float, cosine: float) -> Limb:
        lifted = cosine if cosine > 0.0 else 0.0  # the leg that swings forward
        return Limb(3.0, effort * gait.reach * sine, 4.0 + effort * 38.0 * lifted)

    def arm(sine: float) -> Limb:
        return Limb(gait.abduction, effort * 0.9 * gait.reach * sine, gait.arm_bend, twist=15.0)

    return Pose(
        left_arm=arm(-sine),
        right_arm=arm(sine),
        left_leg=leg(sine, cosine),
        right_leg=leg(-sine, -cosine),
        lean=3.0 * effort,
        torso_twist=-0.3 * effort * gait.reach * sine,
        head_yaw=gait.head_yaw,
    )
