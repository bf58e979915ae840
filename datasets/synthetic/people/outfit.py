"""Colours and clothes of a person."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace

from synthetic.people.canvas import Material
from synthetic.people.random_stream import RandomStream
from synthetic.people.scene_config import SceneConfig

Colour = tuple[float, float, float]

_SKINS: tuple[Colour, ...] = (
    (244, 208, 184),
    (232, 186, 152),
    (214, 163, 124),
    (186, 132, 94),
    (146, 98, 66),
    (104, 68, 48),
    (76, 50, 38),
)
_HAIRS: tuple[Colour, ...] = (
    (24, 20, 18),
    (48, 34, 26),
    (86, 58, 36),
    (134, 92, 52),
    (196, 158, 96),
    (150, 70, 38),
    (150, 148, 146),
    (222, 220, 214),
)
_PATTERNS = ("hoops", "stripes", "checks", "dots", "halves")


@dataclass(frozen=True)
class Outfit:
    """What a person looks like. Pattern periods are in adult statures.

    Attributes:
        top: cloth of the torso and the sleeves.
        bottom: cloth of the trousers, shorts or skirt.
        sleeves: how much of the arm is covered: 0 none, 1 to the elbow, 2 to the wrist.
        legs: "trousers", "shorts" or "skirt".
        hair_style: "short", "long", "bald" or "hat".
        front: what the chest shows: "plain", "zip", "jacket", "print" or "tie".
        tucked: the trousers' waist is seen.
        backpack: its cloth, or None.
    """

    skin: Colour
    hair: Colour
    top: Material
    bottom: Material
    shoes: Colour
    accent: Colour
    sleeves: float
    legs: str
    leg_length: float
    hair_style: str
    front: str
    tucked: bool
    backpack: Material | None


def jitter(rng: RandomStream, colour: Colour, amount: float) -> Colour:
    """The colour with each channel and the brightness changed by up to ``amount``."""
    common = rng.uniform(-amount, amount)
    red, green, blue = (
        min(max(value + common + 0.5 * rng.uniform(-amount, amount), 0.0), 255.0)
        for value in colour
    )
    return red, green, blue


def random_skin(rng: RandomStream) -> Colour:
    """A colour of human skin."""
    return jitter(rng, rng.choice(_SKINS), 14.0)


def random_cloth(rng: RandomStream, saturation: tuple[float, float] = (0.15, 0.9)) -> Colour:
    """A colour of cloth: any hue of a saturation in [0, 1], sometimes nearly black or white."""
    kind = rng.weighted((0.7, 0.15, 0.1, 0.05))
    if kind == 0:
        red, green, blue = colorsys.hsv_to_rgb(
            rng.uniform(), rng.uniform(*saturation), rng.uniform(0.3, 0.95)
        )
        return 255.0 * red, 255.0 * green, 255.0 * blue
    low, high = ((0, 0), (20, 70), (185, 240), (80, 170))[kind]
    return jitter(rng, (rng.uniform(low, high),) * 3, 10.0)


def random_material(
    rng: RandomStream, colour: Colour | None = None, plain: float = 0.5
) -> Material:
    """A cloth, with a pattern unless ``plain`` (a probability) decides against it."""
    colour = colour or random_cloth(rng)
    if rng.chance(plain):
        return Material(colour)
    second = random_cloth(rng) if rng.chance(0.6) else jitter(rng, colour, 60.0)
    return Material(colour, second, rng.choice(_PATTERNS), rng.uniform(0.022, 0.075), rng.uniform())


def random_outfit(
    rng: RandomStream, config: SceneConfig, camouflage: Colour | None = None
) -> Outfit:
    """Random looks.

    Args:
        rng: the stream of this person.
        config: settings.
        camouflage: a colour of the background; if given, the clothes resemble it.
    """

    def cloth(likeness: float) -> Material:
        own = random_cloth(rng, config.cloth_saturation)
        colour = jitter(rng, camouflage, likeness) if camouflage else own
        return random_material(rng, colour, config.plain_probability)

    top, bottom = cloth(22.0), cloth(30.0)
    legs = ("trousers", "shorts", "skirt")[rng.weighted((0.66, 0.2, 0.14))]
    if legs == "skirt" and rng.chance(0.5):
        bottom = top  # a dress
    return Outfit(
        skin=random_skin(rng),
        hair=jitter(rng, rng.choice(_HAIRS), 12.0),
        top=top,
        bottom=bottom,
        shoes=random_cloth(rng),
        accent=random_cloth(rng),
        sleeves=(0.0, rng.uniform(0.35, 0.95), 2.0)[rng.weighted((0.12, 0.4, 0.48))],
        legs=legs,
        leg_length=rng.uniform(0.55, 1.0),
        hair_style=("short", "long", "bald", "hat")[rng.weighted((0.5, 0.3, 0.07, 0.13))],
        front=("plain", "zip", "jacket", "print", "tie")[rng.weighted((0.3, 0.2, 0.2, 0.2, 0.1))],
        tucked=rng.chance(0.5),
        backpack=random_material(rng, plain=0.8) if rng.chance(0.1) else None,
    )


def scaled(material: Material, pixels: float) -> Material:
    """The material with its pattern's period given in pixels instead of statures."""
    return replace(material, period=max(material.period * pixels, 2.0))
