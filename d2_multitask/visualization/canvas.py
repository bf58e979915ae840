"""Drawing objects on one image: Detectron2's ``Visualizer`` with one colour per object.

Coordinates are continuous pixels of the image; the picture that is drawn on may be larger, because
small images are enlarged first: thin lines and letters on 160 pixels cannot be read, and enlarging
the finished drawing would blur them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import matplotlib as mpl
import matplotlib.patheffects as patheffects
import numpy as np
from detectron2.data import Metadata
from detectron2.utils.visualizer import Visualizer
from matplotlib.collections import LineCollection

from d2_multitask.visualization import style
from d2_multitask.visualization.metadata import limbs

_DARK = (0.08, 0.08, 0.10)


@dataclass
class DrawnObjects:
    """What is drawn of the n objects of an image, in pixels of the image.

    Attributes:
        boxes: (n, 4) xyxy, or ``None``: no boxes.
        keypoints_xy: (n, K, 2), or ``None``: no skeletons.
        keypoints_shown: (n, K) bool, keypoints that are drawn.
        keypoints_hollow: (n, K) bool, keypoints drawn as rings (occluded), or ``None``.
        labels: n texts; an empty text draws no tag.
    """

    boxes: np.ndarray | None = None
    keypoints_xy: np.ndarray | None = None
    keypoints_shown: np.ndarray | None = None
    keypoints_hollow: np.ndarray | None = None
    labels: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        present = self.boxes if self.boxes is not None else self.keypoints_xy
        return 0 if present is None else len(present)


def draw_objects(
    picture: np.ndarray, objects: DrawnObjects, metadata: Metadata, image_hw: tuple[int, int]
) -> np.ndarray:
    """Draw objects of an image on a picture of it.

    ``metadata`` has the names of keypoints and the limbs, see ``metadata.picture_metadata``;
    ``image_hw`` is the size of the image that the objects' coordinates belong to.
    """
    canvas = _Canvas(picture, metadata, image_hw)
    canvas.draw_objects(objects)
    return np.ascontiguousarray(canvas.output.get_image())


def _color(index: int) -> tuple[float, ...]:
    return tuple(channel / 255 for channel in style.object_color(index))


class _Canvas(Visualizer):
    def __init__(self, picture: np.ndarray, metadata: Metadata, image_hw: tuple[int, int]) -> None:
        super().__init__(picture, metadata)
        self.size_hw = picture.shape[:2]
        self.zoom_xy = np.array([self.size_hw[1] / image_hw[1], self.size_hw[0] / image_hw[0]])
        self.line_width = style.line_width(self.size_hw)

    def draw_objects(self, objects: DrawnObjects) -> None:
        """Draw boxes, then skeletons, then tags, so that no tag is hidden by a neighbour."""
        order = range(len(objects))
        boxes = None
        if objects.boxes is not None:
            boxes = objects.boxes.reshape(-1, 2, 2) * self.zoom_xy
            sides = boxes[:, 1] - boxes[:, 0]
            # Large objects first: a small one in front of it stays visible.
            order = np.argsort(-sides.prod(1), kind="stable").tolist()
            for index in order:
                self._draw_rectangle(boxes[index], _color(index))
        if objects.keypoints_xy is not None:
            for index in order:
                self._draw_skeleton(objects, index)
        if boxes is not None and objects.labels:
            for index in order:
                self._draw_tag(boxes[index], objects.labels[index], _color(index))

    def _points(self, pixels: float) -> float:
        # Matplotlib measures lines and text in points of 1/72 inch.
        return pixels * 72 / self.output.dpi

    def _draw_rectangle(self, corners: np.ndarray, color: tuple[float, float, float]) -> None:
        (left, top), (right, bottom) = corners
        width = self._points(self._thinner(max(right - left, bottom - top)))
        rectangle = mpl.patches.Rectangle(
            (left, top), right - left, bottom - top, fill=False, edgecolor=color, linewidth=width
        )
        rectangle.set_path_effects(_outlined(width))
        self.output.ax.add_patch(rectangle)

    def _draw_skeleton(self, objects: DrawnObjects, index: int) -> None:
        shown = objects.keypoints_shown[index]
        if not shown.any():
            return
        xy, color = objects.keypoints_xy[index] * self.zoom_xy, _color(index)
        side = np.ptp(xy[shown], axis=0).max()
        width = self._thinner(side * 1.2) * 1.5
        segments = [xy[[a, b]] for a, b in limbs(self.metadata) if shown[a] and shown[b]]
        lines = LineCollection(
            segments, colors=[color], linewidths=self._points(width), capstyle="round"
        )
        lines.set_path_effects(_outlined(self._points(width)))
        self.output.ax.add_collection(lines, autolim=False)
        hollow = (
            np.zeros_like(shown)
            if objects.keypoints_hollow is None
            else objects.keypoints_hollow[index]
        )
        for chosen, face in ((shown & ~hollow, "white"), (shown & hollow, _DARK)):
            self.output.ax.plot(
                *xy[chosen].T,
                linestyle="none",
                marker="o",
                markersize=self._points(width * 1.8),
                markerfacecolor=face,
                markeredgecolor=color if face != "white" else _DARK,
                markeredgewidth=self._points(width * 0.4),
                scalex=False,
                scaley=False,
                zorder=3,
            )

    def _thinner(self, side: float) -> float:
        # Lines of small objects are thinner, or they would cover them.
        return self.line_width * float(np.clip(side / (40 * self.line_width), 0.45, 1.0))

    def _draw_tag(self, corners: np.ndarray, text: str, color: tuple[float, float, float]) -> None:
        if not text:
            return
        (left, top), (_, bottom) = corners
        side = bottom - top
        size = max(self.line_width * 5.5 * float(np.clip(side / (60 * self.line_width), 0.7, 1)), 9)
        if side < 2 * size:
            return  # the tag would hide the object and its neighbours
        canvas_h, canvas_w = self.size_hw
        height = size * 1.3
        above = top - height >= 0
        x = float(np.clip(left, 0, max(canvas_w - size * 0.62 * len(text), 0)))
        y = float(np.clip(top if above else top + height, height, canvas_h))
        self.output.ax.text(
            x,
            y,
            text,
            size=self._points(size),
            family="sans-serif",
            weight="bold",
            color=_DARK,
            verticalalignment="bottom",
            horizontalalignment="left",
            bbox={"facecolor": color, "edgecolor": "none", "alpha": 0.9, "pad": size * 0.08},
            zorder=10,
        )


def _outlined(width: float) -> list[patheffects.AbstractPathEffect]:
    # A dark rim makes light lines visible on light ground.
    rim = patheffects.Stroke(linewidth=width * 1.6, foreground=_DARK, alpha=0.55)
    return [rim, patheffects.Normal()]
