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
from torch import nn

from d2_multitask.data.transforms.build import build_test_resize
from d2_multitask.engine.predictor import MultitaskPredictor
from d2_multitask.engine.results import to_result
from d2_multitask.export.network import TOKENS, ExportedNetwork
from d2_multitask.runtime import Predictor, Result
from d2_multitask.runtime.images import network_input
from d2_multitask.runtime.predictor import OBJECT_FIELDS

logger = logging.getLogger(__name__)

MOST_PIXELS, MOST_SCORE = 1e-3, 1e-4
# Of maps, in parts of their largest value (at least 1); the share of the values that must be within
# it: the direction of a very short vector, as occlusion has, is decided by rounding.
MOST_MAP, SHARE = 1e-3, 0.9999


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
                answers: dict[str, Any] = network(*map(torch.from_numpy, batch))
            answers = {name: value[0] for name, value in answers.items()}
        else:
            answers = eager(image, tasks)
        _compare(result, to_result(answers, image.shape[:2], predictor.info), found)
    if predictor.info.objects is not None and not found.objects:
        logger.warning(
            "The network found no object in these images, so that boxes were not compared; give "
            "images in which it does: --images FOLDER"
        )
    return found


def _compare(result: Result, expected: Result, found: Differences) -> None:
    found.images += 1
    if expected.scores is not None:
        _compare_objects(result, expected, found)
    for name, value in expected.maps.items():
        _compare_map(name, result.maps[name], value, found)
    if expected.image_labels is not None:
        _compare_map("image_labels", result.image_labels, expected.image_labels, found)


def _compare_map(name: str, value: np.ndarray, reference: np.ndarray, found: Differences) -> None:
    if reference.size:
        scale = max(float(np.abs(reference).max()), 1.0)
        difference = float(np.quantile(np.abs(value - reference), SHARE)) / scale
        found.maps[name] = _larger(found.maps.get(name, 0.0), difference)


def _compare_objects(result: Result, expected: Result, found: Differences) -> None:
    """Match each object to the nearest of the file's with its class, and compare their fields.

    Objects that score within ``MOST_SCORE`` of the threshold may be on either side of it.
    """
    sure = result.info.objects.score_threshold + MOST_SCORE
    expected, extra = expected.select(expected.scores > sure), result.scores > sure
    found.objects += len(expected)
    if not len(expected) or not len(result):
        found.unmatched += len(expected) + int(extra.sum())
        return
    # (n, m): the farthest coordinate, and classes and scores that differ.
    apart = np.abs(expected.boxes[:, None] - result.boxes).max(-1)
    apart += np.abs(expected.scores[:, None] - result.scores)
    if expected.keypoints is not None:
        apart += np.abs(expected.keypoints[:, None] - result.keypoints).max((-1, -2))
    apart[expected.classes[:, None] != result.classes] = np.inf
    nearest = apart.argmin(1)
    matched = np.isfinite(apart[np.arange(len(apart)), nearest])
    extra[nearest] = False
    found.unmatched += int((~matched).sum()) + int(extra.sum())
    mine, theirs = result.select(nearest[matched]), expected.select(matched)
    found.pixels = _largest(found.pixels, np.abs(mine.boxes - theirs.boxes))
    found.score = _largest(found.score, np.abs(mine.scores - theirs.scores))
    if theirs.keypoints is not None:
        difference = np.abs(mine.keypoints - theirs.keypoints)
        # Where both say that there is none, its place means nothing.
        seen = np.maximum(mine.keypoints, theirs.keypoints)[..., 2] > MOST_SCORE
        found.pixels = _largest(found.pixels, difference[seen][:, :2])
        found.score = _largest(found.score, difference[seen][:, 2])


def _largest(one: float, others: np.ndarray) -> float:
    return _larger(one, float(others.max(initial=0)))


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
            answer = answers[name][:, : value.shape[1]] if name in OBJECT_FIELDS else answers[name]
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
