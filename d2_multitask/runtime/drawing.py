"""A result drawn on its image with Pillow: maps, masks, boxes, skeletons."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from d2_multitask.runtime.maps import best_class, resize_maps
from d2_multitask.runtime.palette import (
    MIN_LONG_SIDE,
    class_color,
    line_width,
    object_color,
)
from d2_multitask.runtime.result import Result

Color = tuple[int, int, int]

DARK, WHITE = (20, 20, 26), (255, 255, 255)
TINT, OUTLINE = 0.45, 0.85  # how much of the image a mask and its outline cover


def draw(
    image: np.ndarray,
    result: Result,
    *,
    confidence_threshold: float | None = None,
    keypoint_threshold: float | None = None,
    min_long_side: int = MIN_LONG_SIDE,
) -> np.ndarray:
    """Draw what a network found.

    Objects have a colour each (of the track, if there are tracks); semantic classes and instance
    masks are transparent. A single class is not named.

    Args:
        image: (h, w, 3) uint8 BGR, the image that ``result`` belongs to.
        result: of the network.
        confidence_threshold: objects below it are not drawn; ``None`` = ``info.draw``'s.
        keypoint_threshold: keypoints below it, and the limbs that end there, are not drawn.
        min_long_side: smaller images are enlarged to so many pixels, or nothing could be read.

    Returns:
        (H, W, 3) uint8 BGR.
    """
    result = result.confident(confidence_threshold)
    if keypoint_threshold is None:
        keypoint_threshold = result.info.draw.keypoint_threshold
    height, width = result.image_size
    zoom = max(min_long_side / max(height, width), 1)
    size = max(round(height * zoom), 1), max(round(width * zoom), 1)
    picture = Image.fromarray(image[:, :, ::-1])
    if zoom > 1:
        picture = picture.resize(size[::-1], Image.Resampling.BICUBIC)
    picture = _with_maps(picture, result)
    if len(result):
        _Pen(picture, result).draw_objects(keypoint_threshold)
    return np.ascontiguousarray(np.asarray(picture)[:, :, ::-1])


def result_color(result: Result, index: int) -> Color:
    """RGB colour of an object: of its track, else of its place among the objects."""
    return object_color(index if result.track_ids is None else int(result.track_ids[index]))


def _with_maps(picture: Image.Image, result: Result) -> Image.Image:
    """The picture with the semantic classes, or the foreground, and the instance masks."""
    size = picture.size[::-1]
    if "sem_seg" in result.maps:
        classes = best_class(_enlarged(result.maps["sem_seg"], size))
        names = result.info.maps["sem_seg"].class_names
        first = int(names[0] == "background")
        colors = [None] * first + [class_color(k) for k in range(len(names) - first)]
    elif "foreground" in result.maps:
        foreground = _enlarged(result.maps["foreground"][None], size)[0]
        classes = (foreground >= result.info.draw.mask_threshold).astype(np.uint8)
        colors = [None, class_color(0)]
    else:
        classes, colors = np.zeros(size, np.uint8), [None]
    if result.masks is not None and len(result):
        nobody = np.zeros((1, *result.image_size), bool)
        owner = best_class(np.concatenate([nobody, result.masks]).view(np.uint8))
        owner = np.asarray(Image.fromarray(owner).resize(size[::-1], Image.Resampling.NEAREST))
        classes = np.where(owner, owner.astype(np.uint16) + (len(colors) - 1), classes)
        colors += [result_color(result, index) for index in range(len(result))]
    return _tinted(picture, classes, colors) if classes.any() or colors[0] else picture


def _enlarged(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(C, h, w) at the picture's size; values are resized, not classes, for smooth borders."""
    return maps if maps.shape[1:] == size else resize_maps(maps, 1, maps.shape[1:], size)


def _tinted(picture: Image.Image, ids: np.ndarray, colors: Sequence[Color | None]) -> Image.Image:
    """Tint each pixel in the colour of its id, with an outline where the id changes."""
    table = np.array([color or (0, 0, 0) for color in colors], np.uint8)
    cover = np.array([round(255 * TINT) if color else 0 for color in colors], np.uint8).take(ids)
    border = np.zeros(ids.shape, bool)
    border[:, 1:] = ids[:, 1:] != ids[:, :-1]
    border[1:] |= ids[1:] != ids[:-1]
    cover[border & (cover > 0)] = round(255 * OUTLINE)
    return Image.composite(Image.fromarray(table.take(ids, 0)), picture, Image.fromarray(cover))


class _Pen:
    """Draws the objects of a result on a picture, which may be larger than the image."""

    def __init__(self, picture: Image.Image, result: Result) -> None:
        self.pen = ImageDraw.Draw(picture)
        self.size = np.array(picture.size)
        self.zoom = self.size / result.image_size[::-1]
        self.width = line_width(picture.size)
        self.result = result
        self.corners = result.boxes.reshape(-1, 2, 2) * self.zoom

    def draw_objects(self, keypoint_threshold: float) -> None:
        """Boxes, then skeletons, then tags, so that no tag is hidden; large objects first."""
        objects = self.result.info.objects
        sides = self.corners[:, 1] - self.corners[:, 0]
        order = np.argsort(-sides.prod(1), kind="stable").tolist()
        for index in order if objects.draw_boxes else ():
            self.rectangle(index)
        for index in order if self.result.keypoints is not None else ():
            self.skeleton(index, keypoint_threshold)
        for index in order:
            self.tag(index)

    def thinner(self, side: float) -> float:
        """Width of the lines of an object: small ones have thinner lines, which cover less."""
        return self.width * float(np.clip(side / (40 * self.width), 0.45, 1.0))

    def rectangle(self, index: int) -> None:
        """The box, with a dark rim, so that it is seen on any ground."""
        box = self.corners[index]
        width = self.thinner(np.ptp(box, axis=0).max())
        # Pillow draws the line inside of the box that it is given.
        for color, line in ((DARK, width + 2), (result_color(self.result, index), width)):
            corners = box + np.array([[-line / 2], [line / 2]])
            self.pen.rectangle(corners.ravel().tolist(), outline=color, width=max(round(line), 1))

    def skeleton(self, index: int, threshold: float) -> None:
        """Limbs in the colour of the object, and white keypoints."""
        objects, keypoints = self.result.info.objects, self.result.keypoints[index]
        shown = keypoints[:, 2] >= threshold
        if not shown.any():
            return
        xy = keypoints[:, :2] * self.zoom
        width = self.thinner(np.ptp(xy[shown], axis=0).max() * 1.2) * 1.5
        limbs = [(a, b) for a, b in objects.skeleton if shown[a] and shown[b]]
        color = result_color(self.result, index)
        for rim in (True, False):
            for a, b in limbs:
                line = [tuple(xy[a].tolist()), tuple(xy[b].tolist())]
                self.pen.line(line, DARK if rim else color, round(width + 2 * rim))
        for k in np.flatnonzero(shown).tolist():
            self.pen.circle(xy[k].tolist(), width, WHITE, DARK)

    def tag(self, index: int) -> None:
        """Track, class and score above the box, where it does not hide the object."""
        result, (left_top, right_bottom) = self.result, self.corners[index]
        side = right_bottom[1] - left_top[1]
        size = self.width * 5.5 * float(np.clip(side / (60 * self.width), 0.7, 1))
        size = max(round(size), 10)
        if side < 2 * size:
            return
        names = result.info.objects.class_names
        text = f"{result.scores[index]:.0%}"
        if len(names) > 1:
            text = f"{names[result.classes[index]]} {text}"
        if result.track_ids is not None:
            text = f"#{result.track_ids[index]} {text}"
        font = _font(size)
        extent = np.array([font.getlength(text) + 0.4 * size, 1.3 * size])
        place = left_top - [0, extent[1]] if left_top[1] >= extent[1] else left_top
        place = np.minimum(place, self.size - extent).clip(0)
        color = result_color(result, index)
        self.pen.rectangle([*place.tolist(), *(place + extent).tolist()], fill=color)
        middle = place + [0.2 * size, extent[1] / 2]
        self.pen.text(tuple(middle.tolist()), text, DARK, font, anchor="lm")


@functools.lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
