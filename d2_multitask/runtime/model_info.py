"""What an exported file says about itself: the JSON under the key ``d2_multitask`` of its metadata.

It is written by `d2_multitask.export` and is all that prediction needs besides the network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

METADATA_KEY = "d2_multitask"
FORMAT_VERSION = 1
KINDS = ("", "logits", "values", "tokens")
# output -> the part of the JSON that describes it.
NEEDED = (("scores", "objects"), ("sem_seg", "maps"))
RESIZES = ("shortest_edge", "stretch", "center_crop", "centernet_keep")


class ModelFileError(ValueError):
    """A file that cannot be used as a network; one sentence with its path."""


@dataclass(frozen=True)
class InputInfo:
    """How an image becomes the network input.

    Attributes:
        format: order of the channels, ``"BGR"`` or ``"RGB"``.
        divisor: both sides of the padded input are multiples of it.
        resize: ``"shortest_edge"`` (Detectron2's, ``min_size`` and ``max_size``; ``min_size`` 0
            keeps the image's size), ``"stretch"`` (to ``size``), ``"center_crop"`` (the largest
            window in the middle with the proportions of ``size``, resized to it) or
            ``"centernet_keep"`` (the image's size, in the middle of a black frame).
        min_size: pixels.
        max_size: pixels.
        size: (h, w), or ``None``.
        square: side that inputs are padded to at least, 0 = none.
    """

    format: str
    divisor: int
    resize: str
    min_size: int
    max_size: int
    size: tuple[int, int] | None
    square: int


@dataclass(frozen=True)
class OutputInfo:
    """One output of the network.

    Attributes:
        task: the task that gives it.
        stride: of a map, pixels of the network input per cell; else 1.
        kind: of a map, ``"logits"`` or ``"values"``; ``"tokens"`` stay on the grid; else "".
    """

    task: str
    stride: int = 1
    kind: str = ""


@dataclass(frozen=True)
class ObjectsInfo:
    """Objects that the network finds.

    Attributes:
        score_threshold: objects that score no more are left out.
        nms_threshold: IoU above which the weaker of two boxes of a class goes, 0 = no NMS.
        class_names: by class number.
        category_ids: the dataset's ids, by class number.
        keypoint_names: K names, none without pose.
        keypoint_sigmas: K numbers of COCO's OKS, or none.
        skeleton: pairs of keypoint numbers that are joined by a line.
        draw_boxes: whether boxes are drawn; without a box head they are the keypoints' hull.
    """

    score_threshold: float
    nms_threshold: float
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    keypoint_names: tuple[str, ...]
    keypoint_sigmas: tuple[float, ...]
    skeleton: tuple[tuple[int, int], ...]
    draw_boxes: bool


@dataclass(frozen=True)
class MapInfo:
    """Classes of a map of classes, by channel, and their ids in the dataset."""

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]


@dataclass(frozen=True)
class DrawInfo:
    """Least scores of the objects, keypoints and mask pixels that are drawn."""

    confidence_threshold: float = 0.3
    keypoint_threshold: float = 0.1
    mask_threshold: float = 0.5


@dataclass(frozen=True)
class ModelInfo:
    """All of it.

    Attributes:
        package_version: of the d2_multitask that wrote the file.
        config: name of the network's config.
        input: see :class:`InputInfo`.
        outputs: by the output's name.
        objects: ``None`` for networks that find none.
        maps: of maps of classes, by the output's name.
        draw: thresholds of pictures.
    """

    package_version: str
    config: str
    input: InputInfo
    outputs: dict[str, OutputInfo]
    objects: ObjectsInfo | None
    maps: dict[str, MapInfo]
    draw: DrawInfo

    @property
    def tasks(self) -> list[str]:
        """The tasks that give an output, in the order of the outputs."""
        return list(dict.fromkeys(output.task for output in self.outputs.values()))


def parse_model_info(text: str | None, where: str) -> ModelInfo:
    """The metadata of a file.

    Args:
        text: JSON, ``None`` if the file has no such metadata.
        where: the file's path, for messages.

    Raises:
        ModelFileError: missing, not JSON, of another format version, or a field is wrong.
    """
    if not text:
        raise ModelFileError(
            f"{where}: found no metadata {METADATA_KEY!r}, expected a file written by d2mt export"
        )
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ModelFileError(
            f"{where}: metadata {METADATA_KEY!r}: found broken JSON ({error}), expected a file "
            "written by d2mt export"
        ) from error
    root = _Node(content, where, "")
    version = root.get("format_version", int)
    if version != FORMAT_VERSION:
        raise ModelFileError(
            f"{where}: found format version {version}, expected {FORMAT_VERSION}: export the "
            "network again, or install the d2_multitask that wrote the file "
            f"({content.get('package_version', 'unknown')})"
        )
    return _model_info(root)


class _Node:
    """An object of the JSON whose fields are checked as they are read."""

    def __init__(self, content: Any, where: str, path: str) -> None:
        self.content, self.where = content, where
        self.path = f"{path}." if path else ""
        if not isinstance(content, Mapping):
            raise self.error(path or "the whole", content, "an object")

    def error(self, field: str, found: Any, expected: str) -> ModelFileError:
        return ModelFileError(
            f"{self.where}: metadata {METADATA_KEY!r}: {field}: found {str(found)[:60]!r}, "
            f"expected {expected}"
        )

    def get(self, key: str, kind: type, default: Any = ...) -> Any:
        """A value of a type; an int is a float, too."""
        value = self.content.get(key, default)
        if value is ...:
            raise self.error(f"{self.path}{key}", "nothing", kind.__name__)
        kinds = (int, float) if kind is float else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
            raise self.error(f"{self.path}{key}", value, kind.__name__)
        return value

    def items(self, key: str, kind: type) -> tuple[Any, ...]:
        """A list of values of a type."""
        values = self.get(key, list)
        return tuple(
            _Node({key: value}, self.where, self.path.rstrip(".")).get(key, kind)
            for value in values
        )

    def node(self, key: str) -> _Node:
        return _Node(self.content.get(key), self.where, f"{self.path}{key}")

    def nodes(self, key: str) -> dict[str, _Node]:
        node = self.node(key)
        return {name: node.node(name) for name in node.content}


def _model_info(root: _Node) -> ModelInfo:
    outputs = {
        name: OutputInfo(
            node.get("task", str), node.get("stride", int, 1), node.get("kind", str, "")
        )
        for name, node in root.nodes("outputs").items()
    }
    for name, output in outputs.items():
        if output.stride < 1:
            raise root.error(f"outputs.{name}.stride", output.stride, "a positive number")
        if output.kind not in KINDS:
            raise root.error(f"outputs.{name}.kind", output.kind, f"one of {KINDS}")
    for output, part in NEEDED:
        if output in outputs and not root.content.get(part):
            raise root.error(part, root.content.get(part), f"the names of {output!r}")
    draw, default = root.node("draw"), DrawInfo()
    return ModelInfo(
        package_version=root.get("package_version", str),
        config=root.get("config", str),
        input=_input(root.node("input")),
        outputs=outputs,
        objects=None if root.content.get("objects") is None else _objects(root.node("objects")),
        maps={name: MapInfo(*_classes(node)) for name, node in root.nodes("maps").items()},
        draw=DrawInfo(**{key: draw.get(key, float, value) for key, value in vars(default).items()}),
    )


def _input(node: _Node) -> InputInfo:
    size = None if node.content.get("size") is None else node.items("size", int)
    info = InputInfo(
        format=node.get("format", str),
        divisor=node.get("divisor", int),
        resize=node.get("resize", str),
        min_size=node.get("min_size", int, 0),
        max_size=node.get("max_size", int, 0),
        size=size,
        square=node.get("square", int, 0),
    )
    if info.format not in ("BGR", "RGB"):
        raise node.error("input.format", info.format, "'BGR' or 'RGB'")
    if info.resize not in RESIZES:
        raise node.error("input.resize", info.resize, f"one of {RESIZES}")
    if info.divisor < 1:
        raise node.error("input.divisor", info.divisor, "a positive number")
    if info.resize in ("stretch", "center_crop") and (
        size is None or len(size) != 2 or min(size) < 1
    ):
        raise node.error("input.size", size, "height and width")
    return info


def _objects(node: _Node) -> ObjectsInfo:
    names, ids = _classes(node)
    keypoint_names = node.items("keypoint_names", str)
    sigmas = node.items("keypoint_sigmas", float)
    if len(sigmas) not in (0, len(keypoint_names)):
        raise node.error("objects.keypoint_sigmas", len(sigmas), f"{len(keypoint_names)} numbers")
    skeleton = node.items("skeleton", list)
    points = range(len(keypoint_names))
    if not all(len(limb) == 2 and limb[0] in points and limb[1] in points for limb in skeleton):
        raise node.error("objects.skeleton", skeleton, "pairs of keypoint numbers")
    return ObjectsInfo(
        score_threshold=node.get("score_threshold", float),
        nms_threshold=node.get("nms_threshold", float),
        class_names=names,
        category_ids=ids,
        keypoint_names=keypoint_names,
        keypoint_sigmas=sigmas,
        skeleton=tuple((limb[0], limb[1]) for limb in skeleton),
        draw_boxes=node.get("draw_boxes", bool, True),
    )


def _classes(node: _Node) -> tuple[tuple[str, ...], tuple[int, ...]]:
    names, ids = node.items("class_names", str), node.items("category_ids", int)
    if len(names) != len(ids) or not names:
        raise node.error(f"{node.path}category_ids", ids, f"an id for each of {list(names)}")
    return names, ids
