"""One synthetic image with who is seen at each pixel, from which every label follows.

``draw_detail_scene`` is a pure function of the seed, the phase, the index of the image and the
settings: the same arguments give the same pixels and labels on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from synthetic.in_detail.stuff import paint_stuff
from synthetic.in_detail.things import THINGS, Brush
from synthetic.people.camera import take_photograph
from synthetic.people.canvas import Canvas
from synthetic.people.distractors import limbs, panel, pole
from synthetic.people.figure import Figure
from synthetic.people.layout import (
    Layout,
    Purpose,
    SceneStreams,
    Spot,
    make_figure,
    random_layout,
)
from synthetic.people.scene_config import SceneConfig

PERSON = "person"

DETAIL_CONFIG = SceneConfig(
    short_side=(150, 176),
    aspect_ratio=(1.2, 1.4),
    portrait_probability=0.2,
    people_weights=(0.2, 0.42, 0.28, 0.1),
    stature_range=(0.45, 0.95),
    small_stature_limit=0.6,
    near_probability=0.55,
    crowd_probability=0.0,
    occluder_probability=0.0,
    distractors=(0, 2),
    min_visible_fraction=0.2,
)
"""Settings of the people's layout and of the camera; crowds are not part of this dataset."""

# Weights of 0, 1, 2, ... things beside the people, and of the classes in the order of THINGS.
_NUM_THINGS = (0.12, 0.34, 0.32, 0.22)
_CLASS_WEIGHTS = (1.0, 1.2, 1.0, 1.1, 0.9, 0.9)
# A thing stands so near to another instance that they may cover each other.
_NEAR_PROBABILITY = 0.5
_UNLABELLED = (limbs, panel, pole)

# Streams for what the synthetic people do not have; their own purposes end at 5.
_THINGS, _THING = 10, 11


class Instance(NamedTuple):
    """One thing of the finished scene.

    Attributes:
        class_name: one of the 20 classes.
        figure: the person, or None for other things.
    """

    class_name: str
    figure: Figure | None


@dataclass(frozen=True)
class DetailScene:
    """An image and who is seen where.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        owner: int16 (H, W), index into ``instances`` or negative; larger = nearer.
        part: uint8 (H, W): of a person the part code of the synthetic people, of other things the
            file's part id, elsewhere the code of the stuff.
        instances: far to near; each owns at least a few pixels.
    """

    image: np.ndarray
    owner: np.ndarray
    part: np.ndarray
    instances: tuple[Instance, ...]


class _Placed(NamedTuple):
    """What stands at a spot; ``class_name`` decides how it is drawn."""

    class_name: str
    spot: Spot


def draw_detail_scene(
    seed: int, phase: str, index: int, config: SceneConfig | None = None
) -> DetailScene:
    """Draw one image.

    Args:
        seed: of the dataset, in [0, 2**32).
        phase: "train" or "val"; different names give different images.
        index: number of the image in the phase, from 0.
        config: settings; ``DETAIL_CONFIG`` if None.

    Raises:
        ValueError: the seed or the index is negative or too large.
    """
    config = config or DETAIL_CONFIG
    streams = SceneStreams(seed, phase, index)
    layout = random_layout(streams, config)
    empty = _paint_surroundings(streams, layout, config)
    placed = _place_things(streams, layout, config)
    while True:
        canvas = empty.copy()
        instances, silhouettes = _paint_instances(streams, canvas, layout, config, placed)
        visible = np.bincount(canvas.owner[canvas.owner >= 0], minlength=len(placed))
        least = np.maximum(config.min_visible_pixels, config.min_visible_fraction * silhouettes)
        if (visible >= least).all():
            break
        # Of whom too little is seen is left out, or its few pixels would teach nonsense.
        placed = [item for item, seen in zip(placed, visible >= least, strict=True) if seen]
    image = take_photograph(streams.stream(Purpose.CAMERA), config, canvas.image)
    return DetailScene(image, canvas.owner, canvas.part, tuple(instances))


def _paint_surroundings(streams: SceneStreams, layout: Layout, config: SceneConfig) -> Canvas:
    canvas = Canvas(layout.height, layout.width)
    rng = streams.stream(Purpose.BACKGROUND)
    horizon = max(layout.horizon, 0.12 * layout.height)
    paint_stuff(rng, canvas, layout.light, horizon)
    for _ in range(rng.integer(*config.distractors)):
        scale = rng.uniform(0.4, 0.9) * layout.height
        x, y = rng.uniform(0.0, layout.width), horizon + rng.uniform(0.5, 0.9) * scale
        rng.choice(_UNLABELLED)(rng, canvas, layout.light, x, y, scale)
    return canvas


def _place_things(streams: SceneStreams, layout: Layout, config: SceneConfig) -> list[_Placed]:
    """People and things, far to near."""
    rng = streams.stream(Purpose(Purpose.LAYOUT), _THINGS)
    placed = [_Placed(PERSON, spot) for spot in layout.people]
    for number in range(rng.weighted(_NUM_THINGS)):
        scale = rng.uniform(0.5, 1.0) * layout.height
        x = rng.uniform(0.08, 0.92) * layout.width
        if placed and rng.chance(_NEAR_PROBABILITY):
            x = rng.choice(placed).spot.x + rng.sign() * rng.uniform(0.08, 0.35) * scale
        x = min(max(x, 0.05 * layout.width), 0.95 * layout.width)
        # Nearer things stand lower in the image; some are cut by its lower edge.
        ground = layout.horizon + rng.uniform(0.85, 1.1) * scale
        ground = min(max(ground, 0.5 * layout.height), 1.02 * layout.height)
        name = tuple(THINGS)[rng.weighted(_CLASS_WEIGHTS)]
        placed.append(_Placed(name, Spot(number, x, ground, scale)))
    return sorted(placed, key=lambda item: item.spot.scale)


def _paint_instances(
    streams: SceneStreams,
    canvas: Canvas,
    layout: Layout,
    config: SceneConfig,
    placed: list[_Placed],
) -> tuple[list[Instance], np.ndarray]:
    """Paint far to near; returns the instances and their pixels when painted (n,)."""
    instances: list[Instance] = []
    silhouettes = np.zeros(len(placed))
    for owner, (class_name, spot) in enumerate(placed):
        figure = None
        if class_name == PERSON:
            rng = streams.stream(Purpose.PERSON, spot.number)
            figure, _ = make_figure(rng, config, layout, spot, (128.0, 128.0, 128.0))
            figure.paint(canvas, layout.light, owner)
        else:
            rng = streams.stream(Purpose.OCCLUDER, _THING + spot.number)
            brush = Brush(canvas, layout.light, owner)
            THINGS[class_name](rng, brush, spot.x, spot.ground, spot.scale)
        instances.append(Instance(class_name, figure))
        silhouettes[owner] = np.count_nonzero(canvas.owner == owner)
    return instances, silhouettes
