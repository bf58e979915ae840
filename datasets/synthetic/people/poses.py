"""What people do: a table of poses, each drawn with its own random variation.

Contract: a pose is a set of joint angles in degrees, about which ``skeleton.py`` builds the
figure. It does not depend on the proportions of the body or on the camera.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from synthetic.people.random_stream import RandomStream


@dataclass(frozen=True)
class Limb:
    """Angles of an arm or a leg.

    Attributes:
        abduction: how far the limb is moved away from the body's middle, sideways.
        flexion: how far the limb is moved forward.
        bend: of the elbow or knee; 0 is straight.
        twist: turns the plane of the bend; for an arm 0 bends forward, 90 inward, -90 outward.
    """

    abduction: float
    flexion: float
    bend: float
    twist: float = 0.0


@dataclass(frozen=True)
class Pose:
    """Joint angles of a whole figure in degrees; ``left_*`` is the subject's left.

    Attributes:
        lean: of the torso, forward.
        side_lean: of the torso, to the subject's right.
        torso_twist: of the shoulders against the hips.
        head_yaw: of the head against the shoulders, towards the subject's left.
        head_pitch: of the head against the torso, forward.
        seated: whether something to sit on belongs under the figure.
    """

    left_arm: Limb
    right_arm: Limb
    left_leg: Limb
    right_leg: Limb
    lean: float = 0.0
    side_lean: float = 0.0
    torso_twist: float = 0.0
    head_yaw: float = 0.0
    head_pitch: float = 0.0
    seated: bool = False


def _hanging_arm(rng: RandomStream) -> Limb:
    return Limb(
        rng.uniform(5, 20), rng.uniform(-15, 15), rng.uniform(5, 35), twist=rng.uniform(0, 40)
    )


def _hand_on_hip(rng: RandomStream) -> Limb:
    return Limb(
        rng.uniform(35, 55), rng.uniform(-15, 5), rng.uniform(80, 105), twist=rng.uniform(70, 90)
    )


def _hand_in_front(rng: RandomStream) -> Limb:
    return Limb(
        rng.uniform(5, 20), rng.uniform(0, 30), rng.uniform(70, 125), twist=rng.uniform(15, 55)
    )


def _pointing_arm(rng: RandomStream) -> Limb:
    return Limb(
        rng.uniform(10, 70), rng.uniform(50, 95), rng.uniform(0, 35), twist=rng.uniform(-40, 40)
    )


def _sideways_arm(rng: RandomStream) -> Limb:
    return Limb(
        rng.uniform(60, 100), rng.uniform(-10, 15), rng.uniform(0, 90), twist=rng.uniform(-100, -60)
    )


def _raised_arm(rng: RandomStream) -> Limb:
    return Limb(
        rng.uniform(110, 165),
        rng.uniform(-10, 20),
        rng.uniform(0, 80),
        twist=rng.uniform(-100, -70),
    )


def _idle_arm(rng: RandomStream) -> Limb:
    kinds = (_hanging_arm, _hand_on_hip, _hand_in_front, _pointing_arm, _sideways_arm, _raised_arm)
    return kinds[rng.weighted((6.0, 1.0, 1.2, 0.7, 0.5, 0.5))](rng)


def _straight_leg(rng: RandomStream) -> Limb:
    return Limb(rng.uniform(0, 10), rng.uniform(-6, 8), rng.uniform(0, 8))


def _head(rng: RandomStream) -> dict[str, float]:
    return {"head_yaw": rng.uniform(-45, 45), "head_pitch": rng.uniform(-12, 20)}


def standing(rng: RandomStream) -> Pose:
    """Upright, arms hanging or doing something small."""
    return Pose(
        left_arm=_idle_arm(rng),
        right_arm=_idle_arm(rng),
        left_leg=_straight_leg(rng),
        right_leg=_straight_leg(rng),
        lean=rng.uniform(-4, 6),
        side_lean=rng.uniform(-5, 5),
        torso_twist=rng.uniform(-15, 15),
        **_head(rng),
    )


def _stride(rng: RandomStream, reach: float, arm_bend: tuple[float, float], lean: float) -> Pose:
    """Left leg forward if the reach is positive; the arms swing against the legs."""
    trailing_bend = rng.uniform(0.4, 1.3) * abs(reach)
    leading_bend = rng.uniform(0.1, 0.7) * abs(reach)

    def leg(flexion: float) -> Limb:
        return Limb(rng.uniform(0, 5), flexion, leading_bend if flexion > 0 else trailing_bend)

    def arm(flexion: float) -> Limb:
        return Limb(rng.uniform(4, 16), flexion, rng.uniform(*arm_bend), twist=rng.uniform(0, 30))

    swing = reach * rng.uniform(0.7, 1.3)
    return Pose(
        left_arm=arm(-swing),
        right_arm=arm(swing),
        left_leg=leg(reach),
        right_leg=leg(-reach * rng.uniform(0.7, 1.1)),
        lean=lean,
        torso_twist=-0.4 * reach,
        **_head(rng),
    )


def walking(rng: RandomStream) -> Pose:
    """A step, arms swinging."""
    return _stride(rng, rng.sign() * rng.uniform(12, 30), (5, 50), rng.uniform(0, 8))


def running(rng: RandomStream) -> Pose:
    """A long step, knees and elbows bent."""
    return _stride(rng, rng.sign() * rng.uniform(30, 50), (70, 110), rng.uniform(5, 18))


def arms_raised(rng: RandomStream) -> Pose:
    """Upright with one or both arms up or to the side."""
    kinds = (_raised_arm, _raised_arm, _sideways_arm, _pointing_arm)
    busy = rng.choice(kinds)(rng)
    other = _idle_arm(rng) if rng.chance(0.5) else rng.choice(kinds)(rng)
    left, right = (busy, other) if rng.chance(0.5) else (other, busy)
    return Pose(
        left_arm=left,
        right_arm=right,
        left_leg=_straight_leg(rng),
        right_leg=Limb(rng.uniform(0, 25), rng.uniform(-10, 15), rng.uniform(0, 15)),
        lean=rng.uniform(-8, 10),
        side_lean=rng.uniform(-10, 10),
        torso_twist=rng.uniform(-20, 20),
        **_head(rng),
    )


def sitting(rng: RandomStream) -> Pose:
    """On a seat; thighs forward, hands in front or on the knees."""

    def arm() -> Limb:
        on_knee = Limb(rng.uniform(2, 15), rng.uniform(20, 45), rng.uniform(15, 50), 10.0)
        return on_knee if rng.chance(0.5) else _idle_arm(rng)

    def leg() -> Limb:
        return Limb(rng.uniform(2, 18), rng.uniform(70, 92), rng.uniform(55, 100))

    return Pose(
        left_arm=arm(),
        right_arm=arm(),
        left_leg=leg(),
        right_leg=leg(),
        lean=rng.uniform(-10, 20),
        torso_twist=rng.uniform(-12, 12),
        seated=True,
        **_head(rng),
    )


def crouching(rng: RandomStream) -> Pose:
    """Knees bent deeply, torso forward."""

    def leg() -> Limb:
        flexion = rng.uniform(70, 115)
        return Limb(rng.uniform(5, 22), flexion, flexion + rng.uniform(10, 35))

    return Pose(
        left_arm=_hand_in_front(rng) if rng.chance(0.5) else _pointing_arm(rng),
        right_arm=_hand_in_front(rng) if rng.chance(0.5) else _hanging_arm(rng),
        left_leg=leg(),
        right_leg=leg(),
        lean=rng.uniform(15, 40),
        torso_twist=rng.uniform(-12, 12),
        head_yaw=rng.uniform(-40, 40),
        head_pitch=rng.uniform(-30, 5),
    )


def bending(rng: RandomStream) -> Pose:
    """On straight legs, the torso bent forward or to the side."""
    return Pose(
        left_arm=_hanging_arm(rng) if rng.chance(0.5) else _pointing_arm(rng),
        right_arm=_hanging_arm(rng) if rng.chance(0.5) else _pointing_arm(rng),
        left_leg=Limb(rng.uniform(0, 14), rng.uniform(-5, 25), rng.uniform(0, 30)),
        right_leg=Limb(rng.uniform(0, 14), rng.uniform(-15, 15), rng.uniform(0, 20)),
        lean=rng.uniform(20, 60),
        side_lean=rng.uniform(-18, 18),
        torso_twist=rng.uniform(-20, 20),
        head_yaw=rng.uniform(-40, 40),
        head_pitch=rng.uniform(-35, 10),
    )


POSES: tuple[Callable[[RandomStream], Pose], ...] = (
    standing,
    walking,
    running,
    arms_raised,
    sitting,
    crouching,
    bending,
)
"""The order is that of ``SceneConfig.pose_weights``."""
