"""One synthetic video: its frames, and the labels of everyone in them.

``draw_video`` is a pure function of the seed, the split's name, the index of the video and the
settings, as ``people.scene.draw_scene`` is. The camera stands still; noise differs in each frame.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from synthetic.people.annotate import person_annotation
from synthetic.people.camera import take_photograph
from synthetic.people.canvas import Canvas
from synthetic.people.figure import Figure
from synthetic.people.geometry import turn
from synthetic.people.layout import Layout, Purpose, SceneStreams, Spot, random_layout, stand
from synthetic.people.outfit import Outfit, random_outfit
from synthetic.people.place import Place
from synthetic.people.random_stream import RandomStream
from synthetic.people.scene import paint_empty, paint_shadow
from synthetic.people.scene_config import SceneConfig
from synthetic.people.skeleton import Body, build_skeleton, random_body
from synthetic.videos.walk import Gait, Step, random_gait, random_way, walking_pose

NOISE, WAY = 6, 7
"""Purposes of streams, beside those of ``layout.Purpose``."""


@dataclass(frozen=True)
class VideoConfig:
    """Settings of the videos.

    Attributes:
        num_frames: of each video, at 25 a second.
        people: range of the number of people.
        scene: of the surroundings; its crowds and occluders are left out.
    """

    num_frames: int = 150
    people: tuple[int, int] = (2, 3)
    scene: SceneConfig = SceneConfig(
        short_side=(192, 192),
        aspect_ratio=(1.34, 1.34),
        portrait_probability=0.0,
        crowd_probability=0.0,
    )


class Walker(NamedTuple):
    """A person through the whole video."""

    track_id: int
    body: Body
    outfit: Outfit
    gait: Gait
    way: list[Step]


def draw_video(
    seed: int, split: str, index: int, config: VideoConfig
) -> Iterator[tuple[np.ndarray, list[dict[str, Any]]]]:
    """Draw one video.

    Args:
        seed: of the dataset, in [0, 2**32).
        split: name of the split; different names give different videos.
        index: number of the video in the split, from 0.
        config: settings.

    Yields:
        Each frame, uint8 (H, W, 3) RGB, and its annotations as ``people.annotate`` makes them,
        with ``track_id`` (1, 2, ...) and ``ignore``: 1 for people who can hardly be seen, because
        others cover them or their middle is outside of the picture. Who cannot be seen at all has
        no annotation in the frame.
    """
    streams = SceneStreams(seed, split, index)
    layout = random_layout(streams, config.scene)
    empty = paint_empty(streams, layout, config.scene)
    walkers = _random_walkers(streams, layout, config)
    noise_name = (seed, zlib.crc32(split.encode("utf-8")), index, NOISE)
    for frame in range(config.num_frames):
        canvas = empty.copy()
        annotations = _paint_frame(canvas, layout, walkers, frame, config.scene)
        camera, noise = streams.stream(Purpose.CAMERA), RandomStream(*noise_name, frame)
        yield take_photograph(camera, config.scene, canvas.image, noise), annotations


def _random_walkers(streams: SceneStreams, layout: Layout, config: VideoConfig) -> list[Walker]:
    count = streams.stream(Purpose.PERSON).integer(*config.people)
    walkers = []
    for number in range(1, count + 1):
        rng = streams.stream(Purpose.PERSON, number)
        body = random_body(rng, config.scene.child_probability)
        outfit, gait = random_outfit(rng, config.scene), random_gait(rng)
        way = random_way(
            streams.stream(WAY, number), gait, config.num_frames, layout.width, layout.height
        )
        walkers.append(Walker(number, body, outfit, gait, way))
    return walkers


def _paint_frame(
    canvas: Canvas, layout: Layout, walkers: list[Walker], frame: int, config: SceneConfig
) -> list[dict[str, Any]]:
    """Paint everyone from far to near; returns the annotations, nearest first."""
    order = sorted(walkers, key=lambda walker: walker.way[frame].scale)
    painted = []
    for owner, walker in enumerate(order):
        spot, figure = _figure(layout, walker, walker.way[frame])
        paint_shadow(canvas, spot, 0.3)
        figure.paint(canvas, layout.light, owner)
        painted.append((owner, walker, figure, int(np.count_nonzero(canvas.owner == owner))))
    annotations = []
    for owner, walker, figure, silhouette in reversed(painted):
        visible = int(np.count_nonzero(canvas.owner == owner))
        if not visible:
            continue
        depth_order = len(annotations)
        annotation = person_annotation(canvas, figure, owner, depth_order, silhouette)
        least = max(config.min_visible_pixels, config.min_visible_fraction * silhouette)
        outside = not 0 <= walker.way[frame].x <= canvas.width
        ignore = int(outside or visible < least)
        annotations.append({**annotation, "track_id": walker.track_id, "ignore": ignore})
    return annotations


def _figure(layout: Layout, walker: Walker, step: Step) -> tuple[Spot, Figure]:
    """Where the person stands in a frame, and how it looks there."""
    view = turn(about_x=layout.pitch, about_y=walker.gait.yaw * step.pace)
    skeleton = build_skeleton(walker.body, walking_pose(walker.gait, step), view)
    ground = min(max(layout.horizon + step.scale, 1.04 * step.scale), 0.99 * layout.height)
    spot = Spot(walker.track_id, step.x, ground, step.scale)
    figure = Figure(walker.body, skeleton, walker.outfit, Place(step.x, 0.0, step.scale))
    return spot, stand(figure, spot, layout.height)
