"""One synthetic image with all its labels.

``draw_scene`` is a pure function of the seed, the split's name, the index of the image and the
settings: the same arguments give the same pixels and labels on every machine, whatever else is
drawn before or in parallel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from synthetic.people.annotate import crowd_annotation, person_annotation
from synthetic.people.background import paint_background
from synthetic.people.camera import take_photograph
from synthetic.people.canvas import CROWD, Canvas, Cone, Material
from synthetic.people.distractors import (
    NOT_A_PERSON,
    paint_distractor,
    paint_occluder,
)
from synthetic.people.figure import Figure
from synthetic.people.labels import IGNORE_VALUE
from synthetic.people.layout import (
    Layout,
    Purpose,
    SceneStreams,
    Spot,
    make_distant_figure,
    make_figure,
    random_layout,
)
from synthetic.people.outfit import Colour, random_material
from synthetic.people.random_stream import RandomStream
from synthetic.people.scene_config import SceneConfig


@dataclass(frozen=True)
class Scene:
    """An image and its labels.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        annotations: COCO annotations without ``id`` and ``image_id``, nearest person first, a
            crowd last. Beyond COCO's fields, ``depth_order`` counts from the nearest person (0) to
            the farthest, and ``visible_fraction`` is the share of the person's pixels inside of
            the image that nothing covers.
        sem_seg: uint8 (H, W): 0 background, 1 person, 255 crowd.
        parts: uint8 (H, W): part ids (``labels.PART_NAMES``), 0 background, 255 crowd.
    """

    image: np.ndarray
    annotations: list[dict[str, Any]]
    sem_seg: np.ndarray
    parts: np.ndarray


@dataclass(frozen=True)
class _Painted:
    """A person on the canvas: its number in the layout, its label, and its pixels when painted."""

    number: int
    owner: int
    figure: Figure
    silhouette: int


def draw_scene(seed: int, split: str, index: int, config: SceneConfig | None = None) -> Scene:
    """Draw one image with its labels.

    Args:
        seed: of the dataset, in [0, 2**32).
        split: name of the split; different names give different images.
        index: number of the image in the split, from 0.
        config: settings; the defaults if None.

    Returns:
        The scene.

    Raises:
        ValueError: if the seed or the index is negative or too large.
    """
    config = config or SceneConfig()
    streams = SceneStreams(seed, split, index)
    layout = random_layout(streams, config)
    empty = paint_empty(streams, layout, config)
    hidden: frozenset[int] = frozenset()
    while True:
        canvas = empty.copy()
        painted = _paint_people(streams, canvas, layout, config, hidden)
        unseen = _unseen(canvas, painted, config)
        if not unseen:
            break
        # Whoever can hardly be seen is left out, or its few pixels would be unlabelled people.
        hidden |= unseen
    return _label(streams, config, canvas, painted)


def _label(
    streams: SceneStreams, config: SceneConfig, canvas: Canvas, painted: list[_Painted]
) -> Scene:
    """The scene of a finished canvas."""
    nearest_first = list(reversed(painted))
    annotations = [
        person_annotation(canvas, person.figure, person.owner, order, person.silhouette)
        for order, person in enumerate(nearest_first)
    ]
    sem_seg = (canvas.owner >= 0).astype(np.uint8)
    parts = canvas.part.copy()
    crowd = canvas.owner == CROWD
    if crowd.any():
        region = _grown(crowd, 2) & (canvas.owner < 0)
        annotations.append(crowd_annotation(region, len(nearest_first)))
        sem_seg[region] = IGNORE_VALUE
        parts[region] = IGNORE_VALUE
    image = take_photograph(streams.stream(Purpose.CAMERA), config, canvas.image)
    return Scene(image, annotations, sem_seg, parts)


def _unseen(canvas: Canvas, painted: list[_Painted], config: SceneConfig) -> frozenset[int]:
    """Numbers of the people of whom too little is visible."""
    unseen = set()
    for person in painted:
        visible = int(np.count_nonzero(canvas.owner == person.owner))
        least = max(config.min_visible_pixels, config.min_visible_fraction * person.silhouette)
        if visible < least:
            unseen.add(person.number)
    return frozenset(unseen)


def _grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The bool mask (H, W) grown by a square of ``2 * pixels + 1``."""
    for _ in range(pixels):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        mask = grown.copy()
        mask[:, 1:] |= grown[:, :-1]
        mask[:, :-1] |= grown[:, 1:]
    return mask


def paint_empty(streams: SceneStreams, layout: Layout, config: SceneConfig) -> Canvas:
    """The scene before anyone who is annotated enters it."""
    canvas = Canvas(layout.height, layout.width)
    _paint_surroundings(streams.stream(Purpose.BACKGROUND), canvas, layout, config)
    if layout.has_crowd:
        _paint_crowd(streams.stream(Purpose.CROWD), canvas, layout, config)
    return canvas


def _paint_people(
    streams: SceneStreams,
    canvas: Canvas,
    layout: Layout,
    config: SceneConfig,
    hidden: frozenset[int],
) -> list[_Painted]:
    """Paint people and occluders from far to near, without the people numbered in ``hidden``."""
    painted: list[_Painted] = []
    people = [(spot.scale, 0, spot) for spot in layout.people if spot.number not in hidden]
    things = [(spot.scale, 1, spot) for spot in layout.occluders]
    for _, is_thing, spot in sorted(people + things, key=lambda item: item[:2]):
        if is_thing:
            rng = streams.stream(Purpose.OCCLUDER, spot.number)
            paint_occluder(rng, canvas, layout.light, spot.x, spot.ground, spot.scale)
        else:
            rng = streams.stream(Purpose.PERSON, spot.number)
            painted.append(_paint_person(rng, canvas, layout, config, spot, len(painted)))
    return painted


def _paint_surroundings(
    rng: RandomStream, canvas: Canvas, layout: Layout, config: SceneConfig
) -> None:
    paint_background(rng, canvas, int(layout.horizon), config.background_contrast)
    spots = []
    for number in range(rng.integer(*config.distractors)):
        scale = rng.uniform(0.25, 1.0) * layout.height
        ground = layout.horizon + rng.uniform(0.75, 1.05) * scale
        spots.append(Spot(number, rng.uniform(0.0, layout.width), ground, scale))
    for spot in sorted(spots, key=lambda spot: spot.scale):
        paint_distractor(rng, canvas, layout.light, spot.x, spot.ground, spot.scale)


def _paint_crowd(rng: RandomStream, canvas: Canvas, layout: Layout, config: SceneConfig) -> None:
    """Tiny people side by side near the horizon."""
    count = rng.integer(*config.crowd_people)
    scale = rng.uniform(0.09, 0.15) * layout.height
    left = rng.uniform(-0.1, 0.7) * layout.width
    for number in range(count):
        x = left + (number + rng.uniform(-0.3, 0.3)) * 0.26 * scale
        ground = layout.horizon + rng.uniform(0.95, 1.3) * scale
        figure = make_distant_figure(rng, config, layout, Spot(number, x, ground, scale))
        figure.paint(canvas, layout.light, CROWD)


def _paint_person(
    rng: RandomStream,
    canvas: Canvas,
    layout: Layout,
    config: SceneConfig,
    spot: Spot,
    owner: int,
) -> _Painted:
    """Paint one person with its shadow and its seat."""
    figure, seated = make_figure(rng, config, layout, spot, _colour_at(canvas, spot))
    paint_shadow(canvas, spot, rng.uniform(0.1, 0.5))
    if seated:
        _paint_seat(rng, canvas, figure, spot)
    figure.paint(canvas, layout.light, owner)
    silhouette = int(np.count_nonzero(canvas.owner == owner))
    return _Painted(spot.number, owner, figure, silhouette)


def _colour_at(canvas: Canvas, spot: Spot) -> Colour:
    """The colour that the canvas has behind the chest of a person."""
    row = min(max(int(spot.ground - 0.65 * spot.scale), 0), canvas.height - 1)
    column = min(max(int(spot.x), 0), canvas.width - 1)
    red, green, blue = (float(value) for value in canvas.image[row, column])
    return red, green, blue


def paint_shadow(canvas: Canvas, spot: Spot, strength: float) -> None:
    """Darken the ground about the feet."""
    half, radius = 0.1 * spot.scale, 0.035 * spot.scale
    cone = Cone(spot.x - half, spot.ground, radius, spot.x + half, spot.ground, radius)
    patch = canvas.cover((cone,), softness=0.08 * spot.scale)
    if patch is not None:
        patch = patch._replace(alpha=patch.alpha * np.float32(strength))
        canvas.fill(patch, np.zeros(3, np.float32), None)


def _paint_seat(rng: RandomStream, canvas: Canvas, figure: Figure, spot: Spot) -> None:
    """A box or stool under a seated person, sometimes with a back."""
    material: Material = random_material(rng, plain=0.8)
    half = rng.uniform(0.1, 0.16) * spot.scale
    top = figure.place.y + 0.045 * spot.scale
    if rng.chance(0.4):
        canvas.paint_box(
            spot.x - half,
            top - rng.uniform(0.15, 0.35) * spot.scale,
            spot.x + half,
            top,
            material,
            stamp=NOT_A_PERSON,
        )
    canvas.paint_box(spot.x - half, top, spot.x + half, spot.ground, material, stamp=NOT_A_PERSON)
