"""Who stands where: image size, camera, people and occluders of a scene, before any drawing.

Contract: everything is drawn from streams named by (seed, split, image, purpose, index), so the
looks of one person do not depend on how many others there are. Things are ordered by distance;
the nearer, the larger and, but for jitter, the lower in the image.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace
from enum import IntEnum

from synthetic.people.canvas import Light
from synthetic.people.figure import Figure
from synthetic.people.geometry import Frame, turn
from synthetic.people.outfit import Colour, random_outfit
from synthetic.people.place import Place
from synthetic.people.poses import POSES, standing
from synthetic.people.random_stream import RandomStream
from synthetic.people.scene_config import SceneConfig
from synthetic.people.skeleton import build_skeleton, random_body


class Purpose(IntEnum):
    """What a random stream of an image is for."""

    LAYOUT = 0
    BACKGROUND = 1
    PERSON = 2
    OCCLUDER = 3
    CROWD = 4
    CAMERA = 5


@dataclass(frozen=True)
class SceneStreams:
    """The random streams of one image."""

    seed: int
    split: str
    index: int

    def stream(self, purpose: Purpose, number: int = 0) -> RandomStream:
        """The stream for a purpose, for example the looks of person ``number``."""
        split = zlib.crc32(self.split.encode("utf-8"))
        return RandomStream(self.seed, split, self.index, purpose, number)


@dataclass(frozen=True)
class Spot:
    """Where a person or thing stands.

    Attributes:
        number: which one of the image.
        x: of its middle, in pixels.
        ground: y of what it stands on, in pixels.
        scale: pixels per adult stature; larger is nearer.
    """

    number: int
    x: float
    ground: float
    scale: float


@dataclass(frozen=True)
class Layout:
    """A scene before it is drawn; ``people`` and ``occluders`` are sorted far to near."""

    height: int
    width: int
    horizon: float
    light: Light
    pitch: float
    people: tuple[Spot, ...]
    occluders: tuple[Spot, ...]
    has_crowd: bool


def random_layout(streams: SceneStreams, config: SceneConfig) -> Layout:
    """Draw the layout of one image."""
    rng = streams.stream(Purpose.LAYOUT)
    short = rng.integer(*config.short_side)
    long = int(short * rng.uniform(*config.aspect_ratio))
    portrait = rng.chance(config.portrait_probability)
    height, width = (long, short) if portrait else (short, long)
    horizon = rng.uniform(0.02, 0.35) * height
    light = _random_light(rng)
    pitch = rng.uniform(-0.3, 1.0) * config.camera_pitch
    people: list[Spot] = []
    for number in range(rng.weighted(config.people_weights)):
        people.append(_random_spot(rng, config, people, (height, width), horizon, number))
    return Layout(
        height=height,
        width=width,
        horizon=horizon,
        light=light,
        pitch=pitch,
        people=tuple(sorted(people, key=lambda spot: spot.scale)),
        occluders=_random_occluders(rng, config, people, width),
        has_crowd=rng.chance(config.crowd_probability),
    )


def _random_light(rng: RandomStream) -> Light:
    x, y, z = rng.uniform(-1, 1), rng.uniform(0.1, 1.0), rng.uniform(0.5, 1.0)
    length = math.sqrt(x * x + y * y + z * z)
    ambient = rng.uniform(0.35, 0.65)
    return Light(x / length, y / length, z / length, ambient, 1.1 - ambient)


def _random_spot(
    rng: RandomStream,
    config: SceneConfig,
    others: list[Spot],
    size: tuple[int, int],
    horizon: float,
    number: int,
) -> Spot:
    """A place for one more person; ``size`` is (height, width) of the image."""
    height, width = size
    low, high = config.stature_range
    middle = config.small_stature_limit
    if rng.chance(config.small_probability):
        scale = rng.uniform(low, middle) * height
    else:
        scale = rng.uniform(middle, high) * height
    cut_bottom = rng.chance(config.cut_bottom_probability)
    if cut_bottom:
        scale = rng.uniform(0.7, 1.25) * height
    x = _random_x(rng, config, others, width, scale)
    ground = horizon + rng.uniform(0.9, 1.1) * scale + rng.uniform(-0.02, 0.02) * height
    if cut_bottom:
        ground = height + rng.uniform(0.1, 0.5) * scale
    else:
        ground = min(max(ground, 1.04 * scale), 0.99 * height)
    return Spot(number, x, ground, scale)


def _random_x(
    rng: RandomStream, config: SceneConfig, others: list[Spot], width: int, scale: float
) -> float:
    """The x coordinate of one more person: beside another, at the edge, or anywhere inside."""
    margin = min(0.17 * scale, 0.4 * width)
    if others and rng.chance(config.near_probability):
        other = rng.choice(others)
        x = other.x + rng.sign() * rng.uniform(0.06, 0.3) * max(scale, other.scale)
        return min(max(x, 0.5 * margin), width - 0.5 * margin)
    if rng.chance(config.cut_side_probability):
        x = rng.uniform(-0.05, 0.08) * scale
        return width - x if rng.chance(0.5) else x
    return rng.uniform(margin, width - margin)


def _random_occluders(
    rng: RandomStream, config: SceneConfig, people: list[Spot], width: int
) -> tuple[Spot, ...]:
    if not people or not rng.chance(config.occluder_probability):
        return ()
    spots = []
    for number in range(rng.integer(1, 2)):
        hidden = rng.choice(people)
        x = hidden.x + rng.uniform(-0.25, 0.25) * hidden.scale
        nearer = rng.uniform(1.0, 1.25)
        ground = hidden.ground + (nearer - 1.0) * 0.8 * hidden.scale
        spots.append(Spot(number, min(max(x, 0.0), float(width)), ground, nearer * hidden.scale))
    return tuple(sorted(spots, key=lambda spot: spot.scale))


def _random_view(rng: RandomStream, config: SceneConfig, pitch: float) -> Frame:
    """Where the person looks, the camera's tilt, and the person's own tilt."""
    view = rng.weighted(config.view_weights)
    if view == 3:
        yaw = rng.uniform(-180, 180)
    else:
        middle = (0.0, 180.0, 90.0 * rng.sign())[view]
        yaw = middle + rng.uniform(-25, 25)
    roll = rng.uniform(-config.roll, config.roll)
    if rng.chance(config.tilted_probability):
        roll = rng.sign() * rng.uniform(config.roll, config.tilted_roll)
    return turn(about_x=pitch, about_y=yaw, about_z=roll)


def stand(figure: Figure, spot: Spot, height: int) -> Figure:
    """The figure moved to where its lowest point is on the spot's ground.

    A figure that is cut by the lower edge of an image of this height is moved up as far as needed
    to show its upper half: someone who crouches would be nearly out of sight otherwise.
    """
    y = spot.ground + figure.lowest() * spot.scale
    middle = 0.5 * (figure.highest() + figure.lowest())
    return replace(figure, place=figure.place._replace(y=min(y, height + middle * spot.scale)))


def make_figure(
    rng: RandomStream,
    config: SceneConfig,
    layout: Layout,
    spot: Spot,
    background: Colour,
) -> tuple[Figure, bool]:
    """Body, pose and looks of the person at a spot, and whether it needs a seat.

    Args:
        rng: the stream of this person.
        config: settings.
        layout: the scene.
        spot: where it stands.
        background: colour behind the person, for clothes that may resemble it.
    """
    body = random_body(rng, config.child_probability)
    pose = POSES[rng.weighted(config.pose_weights)](rng)
    view = _random_view(rng, config, layout.pitch)
    camouflage = background if rng.chance(config.camouflage_probability) else None
    outfit = random_outfit(rng, config, camouflage)
    figure = Figure(body, build_skeleton(body, pose, view), outfit, Place(spot.x, 0.0, spot.scale))
    return stand(figure, spot, layout.height), pose.seated


def make_distant_figure(
    rng: RandomStream, config: SceneConfig, layout: Layout, spot: Spot
) -> Figure:
    """A person of a crowd: any looks, standing."""
    body = random_body(rng, 0.2)
    view = turn(layout.pitch, rng.uniform(-180, 180), 0.0)
    skeleton = build_skeleton(body, standing(rng), view)
    figure = Figure(body, skeleton, random_outfit(rng, config), Place(spot.x, 0.0, spot.scale))
    return stand(figure, spot, layout.height)
