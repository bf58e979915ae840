"""Whether an exported file answers as the network does, whole results on real images."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import Tensor, nn

from d2_multitask.data.transforms.build import build_test_resize
from d2_multitask.engine.predictor import MultitaskPredictor
from d2_multitask.export.network import TOKENS, ExportedNetwork
from d2_multitask.runtime import Predictor, Result
from d2_multitask.runtime.images import network_input

logger = logging.getLogger(__name__)

MOST_PIXELS, MOST_SCORE = 1e-3, 1e-4
# Of maps, in parts of their largest value (at least 1); the share of the values that must be within
# it: the direction of a very short vector, as occlusion has, is decided by rounding.
MOST_MAP, SHARE = 1e-3, 0.9999
OBJECTS = ("scores", "classes", "boxes", "keypoints")


@dataclass
class Differences:
    """The largest differences between a file's results and the network's.

    Attributes:
        images: how many were compared.
        objects: how many objects the network found in them.
        pixels: of boxes and keypoints, pixels of the image.
        score: of the objects' and keypoints' scores.
        maps: name -> of its values but one in 10,000, in parts of the largest.
        unmatched: objects that only one of the two found.
    """

    images: int = 0
    objects: int = 0
    pixels: float = 0.0
    score: float = 0.0
    maps: dict[str, float] = field(default_factory=dict)
    unmatched: int = 0

    @property
    def within_limits(self) -> bool:
        """Whether the file may be used in place of the network; NaN may not."""
        return (
            not self.unmatched
            and self.pixels <= MOST_PIXELS
            and self.score <= MOST_SCORE
            and all(value <= MOST_MAP for value in self.maps.values())
        )

    def __str__(self) -> str:
        """For the console."""
        parts = [f"{self.images} images, {self.objects} objects"]
        if self.objects or self.unmatched:
            parts.append(f"boxes and keypoints {self.pixels:.1e} px, scores {self.score:.1e}")
        parts += [f"{name} {value:.1e}" for name, value in self.maps.items()]
        if self.unmatched:
            parts.append(f"{self.unmatched} objects found by one of the two only")
        return "; ".join(parts)


def compare_file(
    path: Path,
    cfg: CfgNode,
    model: nn.Module,
    images: Sequence[np.ndarray],
    tasks: Sequence[str] | None = None,
) -> Differences:
    """Run a file and the network, as `MultitaskPredictor` runs it, on images.

    Args:
        path: ``.onnx`` or ``.xml``.
        cfg: the network's config.
        model: the network itself, not fused.
        images: (H, W, 3) uint8 BGR each.
        tasks: those in the file.
    """
    predictor, network = Predictor(path), None
    eager = MultitaskPredictor(
        model=model, resize=build_test_resize(cfg), input_format=cfg.INPUT.FORMAT
    )
    if TOKENS in predictor.info.outputs:
        network = ExportedNetwork(model).eval()
    found = Differences()
    for image in images:
        result = predictor(image)
        if network is not None:
            batch = network_input([image], predictor.info.input)
            with torch.no_grad():
                expected: dict[str, Any] = network(*map(torch.from_numpy, batch))
            expected = {name: value[0] for name, value in expected.items()}
        else:
            expected = eager(image, tasks)
        _compare(result, expected, found)
    if predictor.info.objects is not None and not found.objects:
        logger.warning(
            "The network found no object in these images, so that boxes were not compared; give "
            "images in which it does: --images FOLDER"
        )
    return found


def _compare(result: Result, expected: dict[str, Any], found: Differences) -> None:
    found.images += 1
    if "instances" in expected:
        _compare_objects(result, expected["instances"], found)
    arrays = {**result.maps, "image_labels": result.image_labels}
    for name, value in expected.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            reference = value.numpy()
            _compare_map(name, arrays[name], reference, found)


def _compare_map(name: str, value: np.ndarray, reference: np.ndarray, found: Differences) -> None:
    if reference.size:
        scale = max(float(np.abs(reference).max()), 1.0)
        difference = float(np.quantile(np.abs(value - reference), SHARE)) / scale
        found.maps[name] = _larger(found.maps.get(name, 0.0), difference)


def _compare_objects(result: Result, instances: Instances, found: Differences) -> None:
    """Match each object to the nearest of the file's with its class, and compare their fields.

    Objects that score within ``MOST_SCORE`` of the threshold may be on either side of it.
    """
    threshold = result.info.objects.score_threshold
    sure = instances.scores.numpy() > threshold + MOST_SCORE
    instances, result = instances[torch.from_numpy(sure)], result.select(_all(result))
    found.objects += len(instances)
    extra = result.scores > threshold + MOST_SCORE
    if not len(instances) or not len(result):
        found.unmatched += len(instances) + int(extra.sum())
        return
    expected = _fields(instances)
    mine = {"boxes": result.boxes, "scores": result.scores, "classes": result.classes}
    if "keypoints" in expected:
        mine["keypoints"] = result.keypoints
    # (n, m): the farthest coordinate, and classes and scores that differ.
    apart = np.abs(expected["boxes"][:, None] - mine["boxes"]).max(-1)
    apart += np.abs(expected["scores"][:, None] - mine["scores"])
    if "keypoints" in expected:
        apart += np.abs(expected["keypoints"][:, None] - mine["keypoints"]).max((-1, -2))
    apart[expected["classes"][:, None] != mine["classes"]] = np.inf
    nearest = apart.argmin(1)
    missing = ~np.isfinite(apart[np.arange(len(apart)), nearest])
    found.unmatched += int(missing.sum())
    unused = np.ones(len(result), bool)
    unused[nearest] = False
    found.unmatched += int((unused & extra).sum())
    kept = ~missing
    for name, value in expected.items():
        difference = np.abs(value[kept] - mine[name][nearest[kept]])
        if name == "keypoints":
            # Where both say that there is none, its place means nothing.
            difference[np.maximum(value[kept], mine[name][nearest[kept]])[..., 2] <= MOST_SCORE] = 0
            found.pixels = _larger(found.pixels, float(difference[..., :2].max(initial=0)))
            found.score = _larger(found.score, float(difference[..., 2].max(initial=0)))
        elif name == "boxes":
            found.pixels = _larger(found.pixels, float(difference.max(initial=0)))
        elif name == "scores":
            found.score = _larger(found.score, float(difference.max(initial=0)))


def _all(result: Result) -> np.ndarray:
    return np.arange(len(result))


def _fields(instances: Instances) -> dict[str, np.ndarray]:
    fields = {
        "boxes": instances.pred_boxes.tensor.numpy(),
        "scores": instances.scores.numpy(),
        "classes": instances.pred_classes.numpy(),
    }
    if instances.has("pred_keypoints"):
        fields["keypoints"] = instances.pred_keypoints.numpy()
    return fields


def _larger(one: float, other: float) -> float:
    """The larger; NaN if one of them is."""
    return other if not other <= one else one


def compare_program(path: Path, model: nn.Module, tasks: Sequence[str] | None) -> Differences:
    """The raw answers of a ``.pt2`` or ``.ts`` file, on batches of other sizes than the recorded.

    Args:
        path: the file.
        model: the network itself.
        tasks: those in the file.
    """
    network = ExportedNetwork(model, tasks or ()).eval()
    if path.suffix == ".pt2":
        program = torch.export.load(path).module()
    else:
        program = torch.jit.load(path)
    found = Differences()
    for index, image in enumerate(noise_images()):
        height, width = (side // network.divisor * network.divisor for side in image.shape[:2])
        if network.fixed_sides:
            height, width = (side * network.divisor for side in network.fixed_sides)
        batch = torch.from_numpy(np.resize(image, (index + 1, height, width, 3)))
        sizes = torch.tensor([[height - 1, width - 1]] * (index + 1), dtype=torch.int32)
        with torch.no_grad():
            expected, answers = network(batch, sizes), program(batch, sizes)
        found.images += len(batch)
        for name, value in expected.items():
            # The network leaves out ranks below the threshold in all images.
            answer = answers[name][:, : value.shape[1]] if name in OBJECTS else answers[name]
            _compare_map(name, answer.numpy(), value.numpy(), found)
    return found


def noise_images(count: int = 2) -> Iterator[np.ndarray]:
    """Images of random colours in blobs of several sizes, (H, W, 3) uint8, where none are given."""
    generator = np.random.default_rng(0)
    for index in range(count):
        height, width = (360, 480) if index % 2 == 0 else (420, 300)
        image = np.zeros((height, width, 3))
        for step in (4, 12, 60):
            blocks = generator.uniform(0, 85, (height // step, width // step, 3))
            image += blocks.repeat(step, 0).repeat(step, 1)
        yield image.astype(np.uint8)
