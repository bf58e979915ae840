"""Colours and sizes of all pictures."""

from __future__ import annotations

# One colour per object, in this order, so that neighbours in the list differ in hue. All are light
# enough to be seen on photographs and carry dark text.
OBJECT_COLORS: tuple[tuple[int, int, int], ...] = (
    (255, 92, 92),
    (90, 235, 255),
    (255, 215, 64),
    (105, 240, 174),
    (234, 108, 255),
    (255, 150, 30),
    (186, 255, 92),
    (255, 140, 180),
    (40, 225, 220),
    (200, 165, 255),
    (255, 178, 145),
)
# Semantic classes (background excluded). The first one is the person of two-class maps; it is used
# as an object's colour nowhere, so that a mask and a box are not mistaken for one another.
CLASS_COLORS: tuple[tuple[int, int, int], ...] = (
    (0, 140, 255),
    (255, 120, 60),
    (90, 210, 90),
    (220, 90, 220),
    (240, 200, 40),
    (120, 110, 255),
    (0, 200, 170),
    (235, 80, 110),
    (160, 130, 90),
    (150, 200, 255),
)

MIN_LONG_SIDE = 640  # pixels; smaller images are enlarged before drawing, to be readable


def object_color(index: int) -> tuple[int, int, int]:
    """RGB colour of the ``index``-th object of an image; the palette repeats."""
    return OBJECT_COLORS[index % len(OBJECT_COLORS)]


def class_color(class_id: int) -> tuple[int, int, int]:
    """RGB colour of a semantic class, counted without the background; the palette repeats."""
    return CLASS_COLORS[class_id % len(CLASS_COLORS)]


def line_width(image_hw: tuple[int, int]) -> float:
    """Width of lines in pixels for a picture of this size: 2 at 512 x 512, growing with it."""
    return max((image_hw[0] * image_hw[1]) ** 0.5 / 256, 1.2)
