"""The study: every method's settings are chosen on some images, and reported on others.

Choosing uses the masks of the images that it is done on; reporting only measures. Each image leaves
a file, so that a stopped study goes on. Letters: h x w patches.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from d2_multitask.data.whole_files import write_json
from d2_multitask.engine.relation_study.divisions import (
    CUT,
    DIVISIONS,
    GROWN,
    LOUVAIN,
    NUM_REGIONS,
    Answer,
    Partition,
    cheap_foregrounds,
    controls,
    divide,
    foreground_of,
    inpainting_foregrounds,
    partitions,
)
from d2_multitask.engine.relation_study.relations import RELATIONS, Measuring, Variant
from d2_multitask.engine.unlabelled.images import read_ready
from d2_multitask.evaluation.segments import (
    best_segment_iou,
    class_agnostic_recall,
    mask_iou,
    patch_mask,
    read_object_mask,
)
from d2_multitask.evaluation.segments.evaluator import (
    label_annotations,
    mask_result,
    segment_results,
)
from d2_multitask.evaluation.segments.metrics import SegmentMetrics, measure_segments
from d2_multitask.modeling.mae import MaskedAutoencoder
from d2_multitask.patch_graph import Relation, graph_from_relation, grow
from d2_multitask.patch_graph.refine import refine_labels, stretch_labels
from d2_multitask.patch_graph.segmenter import segment_scores

RESULTS = (
    "relations/**/*.npz",
    "choose/**/*.json",
    "choose_asking/**/*.json",
    "report/**/*.json",
)
"""Files of a study that hold single images."""

# Pixels of the longer side at which pixels are compared: edges matter, JPEG noise does not.
EVALUATION_SIDE = 256
# Of the foreground among COCO's results: above all segments, whose scores are at most 1.
FOREGROUND_SCORE = 2.0

Progress = Callable[[Iterable[Any], str], Iterable[Any]]


@dataclass(frozen=True)
class LabelledImage:
    """A file and its mask.

    Attributes:
        name: without ending, for files of results.
        file: the image.
        mask_file: the mask.
    """

    name: str
    file: Path
    mask_file: Path


@dataclass(frozen=True)
class Method:
    """A relation and a division with the settings that were chosen for them.

    Attributes:
        relation: key of `RELATIONS`; for controls their name.
        division: of `DIVISIONS`, empty for controls.
        partition: how its graph is made and divided; ``None`` for controls.
        rule: how the foreground is chosen; the setting of a control.
        chosen_iou: mean IoU on the images that it was chosen on, patches, [0, 1].
    """

    relation: str
    division: str
    partition: Partition | None
    rule: str
    chosen_iou: float

    @property
    def name(self) -> str:
        """Of a row of the table."""
        return f"{self.relation} / {self.division}" if self.division else self.relation


class RelationStudy:
    """One autoencoder, one folder of results."""

    def __init__(
        self,
        measuring: Measuring,
        folder: Path,
        *,
        long_side: int,
        input_format: str = "RGB",
        relations: Sequence[str] = tuple(RELATIONS),
        backend: str = "networkx",
        progress: Progress = lambda items, what: items,
    ) -> None:
        """
        Args:
            measuring: measures relations.
            folder: of all files of the study.
            long_side: images are brought to it, pixels.
            input_format: ``INPUT.FORMAT``.
            relations: keys of `RELATIONS`.
            backend: of Louvain's method.
            progress: wraps what is iterated over, with a title.
        """
        self.measuring = measuring
        self.model: MaskedAutoencoder = measuring.model
        self.folder = folder
        self.long_side = long_side
        self.input_format = input_format
        self.relations = tuple(relations)
        self.backend = backend
        self.progress = progress

    def choose(self, images: Sequence[LabelledImage]) -> list[Method]:
        """Choose each method's settings by the mean IoU on patches.

        First the rules that cost nothing are tried on all partitions. What asks the autoencoder
        is tried on the partition whose best segment fits best: the rule that does, and growing.

        Args:
            images: with masks, which are used.

        Returns:
            A method for each control, and each relation and division.
        """
        tables = [
            self._kept("choose", image, self._try_all)
            for image in self.progress(images, "settings")
        ]
        mean = _means(tables)
        best = {
            (relation, division): max(
                partitions(division, len(RELATIONS[relation])),
                key=lambda p, r=relation, d=division: mean[_key(r, d, p, "best segment")],
            )
            for relation in self.relations
            for division in (LOUVAIN, CUT)
        }
        for image in self.progress(images, "settings of what asks the autoencoder"):
            tables.append(self._kept("choose_asking", image, lambda i: self._try_asking(i, best)))
        return _best_methods(_means(tables))

    def report(self, images: Sequence[LabelledImage], methods: Sequence[Method]) -> list[Any]:
        """Measure chosen methods on images that they were not chosen on.

        Args:
            images: with masks.
            methods: from `choose`.

        Returns:
            One dict an image: ``metrics`` (method -> `SegmentMetrics` as a list), ``results``
            (method -> COCO results), ``objects`` (COCO annotations), ``size`` (h, w),
            ``reconstruction_error`` and ``error_of_mean_color`` of the autoencoder.
        """
        return [
            self._kept("report", image, lambda i: self._measure(i, methods))
            for image in self.progress(images, "report")
        ]

    def _kept(self, stage: str, image: LabelledImage, work: Callable[[LabelledImage], Any]) -> Any:
        """What an earlier run has found for the image, or else what ``work`` finds."""
        file = self.folder / stage / f"{image.name}.json"
        try:
            return json.loads(file.read_text())
        except (OSError, ValueError):
            found = json.loads(json.dumps(work(image)))
            write_json(file, found)
            return found

    def _read(self, image: LabelledImage) -> tuple[np.ndarray, Tensor, np.ndarray]:
        """Pixels (H, W, 3), tensor (3, H', W'), mask (H, W)."""
        ready = read_ready(image.file, self.model, self.long_side, self.input_format)
        return ready.pixels, ready.tensor, read_object_mask(image.mask_file, ready.pixels.shape[:2])

    def _divide(
        self, relation: Relation, division: str, partition: Partition, image: Tensor
    ) -> np.ndarray:
        return divide(relation, division, partition, self.model, image, self.backend)

    def _variants(self) -> dict[tuple[str, int], Variant]:
        return {
            (name, number): variant
            for name in self.relations
            for number, variant in enumerate(RELATIONS[name])
        }

    def _try_all(self, image: LabelledImage) -> dict[str, float]:
        """Setting -> IoU on patches, for all that needs no choice by the autoencoder."""
        _, tensor, mask = self._read(image)
        relations = self.measuring.relations(image.name, tensor, self._variants())
        grid_hw = next(iter(relations.values())).grid_hw
        target = patch_mask(mask, grid_hw)
        table = {
            _key(name, "", None, setting): mask_iou(answer.foreground, target)
            for name, setting, answer in controls(grid_hw)
        }
        for name in self.relations:
            for division in (LOUVAIN, CUT):
                for partition in partitions(division, len(RELATIONS[name])):
                    relation = relations[name, partition.variant]
                    labels = self._divide(relation, division, partition, tensor)
                    table[_key(name, division, partition, "best segment")] = best_segment_iou(
                        labels, target
                    )
                    for rule, found in cheap_foregrounds(labels, division).items():
                        table[_key(name, division, partition, rule)] = mask_iou(found, target)
        return table

    def _try_asking(
        self, image: LabelledImage, best: Mapping[tuple[str, str], Partition]
    ) -> dict[str, float]:
        """Setting -> IoU on patches, for the rule that asks the autoencoder, and for growing."""
        _, tensor, mask = self._read(image)
        variants = {key: RELATIONS[key[0]][p.variant] for key, p in best.items()}
        relations = self.measuring.relations(image.name, tensor, variants)
        table = {}
        for (name, division), partition in best.items():
            relation = relations[name, division]
            target = patch_mask(mask, relation.grid_hw)
            labels = self._divide(relation, division, partition, tensor)
            candidates = [(division, partition, labels, {})]
            if division == LOUVAIN:
                grown = grow(self.model, tensor, labels)
                for count in NUM_REGIONS:
                    larger = grown.labels_at(num_regions=count)
                    found = cheap_foregrounds(larger, GROWN)
                    setting = partition._replace(num_regions=count)
                    candidates.append((GROWN, setting, larger, found))
            for how, setting, segments, found in candidates:
                asked = inpainting_foregrounds(segments, self.model, tensor)
                for rule, answer in {**found, **asked}.items():
                    table[_key(name, how, setting, rule)] = mask_iou(answer, target)
        return table

    def _measure(self, image: LabelledImage, methods: Sequence[Method]) -> dict[str, Any]:
        pixels, tensor, mask = self._read(image)
        pixels, mask = _shrunk(pixels, mask)
        relations = self.measuring.relations(
            image.name,
            tensor,
            {m.name: RELATIONS[m.relation][m.partition.variant] for m in methods if m.partition},
        )
        patch = self.model.patch_size
        grid_hw = (tensor.shape[-2] // patch, tensor.shape[-1] // patch)
        simple = {(name, setting): answer for name, setting, answer in controls(grid_hw)}
        metrics, results = {}, {}
        for method in methods:
            if method.partition is None:
                answer, scores = simple[method.relation, method.rule], np.ones(2)
            else:
                relation = relations[method.name]
                labels = self._divide(relation, method.division, method.partition, tensor)
                found = foreground_of(labels, method.division, method.rule, self.model, tensor)
                answer, scores = Answer(labels, found), _scores(relation, labels)
            metrics[method.name], results[method.name] = _score(answer, scores, pixels, mask)
        return {
            "metrics": metrics,
            "results": results,
            "objects": label_annotations(mask.astype(np.int64), image.name),
            "size": list(mask.shape),
            **self._reconstruction(image, tensor),
        }

    @torch.no_grad()
    def _reconstruction(self, image: LabelledImage, tensor: Tensor) -> dict[str, float]:
        """How good the autoencoder is here: mean errors of removed patches, as in evaluation."""
        scaled = tensor * self.model.pixel_std + self.model.pixel_mean
        found = self.model.inference({"image": scaled, "file_name": str(image.file)})
        removed = found["patch_mask"]
        return {
            "reconstruction_error": float(found["patch_error"][removed].mean()),
            "error_of_mean_color": float(found["patch_variance"][removed].mean()),
        }


def average_recalls(
    records: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Method -> COCO's class-agnostic AR of its segments and foregrounds, in 0-100.

    Args:
        records: of `RelationStudy.report`.
        names: of the methods.
    """
    numbered = list(enumerate(records, start=1))
    objects = [{**a, "image_id": n} for n, record in numbered for a in record["objects"]]
    sizes = [dict(zip(("height", "width"), record["size"], strict=True)) for record in records]
    ground_truth = {
        "images": [{"id": n, **size} for n, size in enumerate(sizes, start=1)],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [{**a, "id": n} for n, a in enumerate(objects, start=1)],
    }
    return {
        name: class_agnostic_recall(
            ground_truth,
            [{**r, "image_id": n} for n, record in numbered for r in record["results"][name]],
        )
        for name in names
    }


def method_from_json(entry: Mapping[str, Any]) -> Method:
    """The inverse of `method_as_json`."""
    partition = entry["partition"]
    return Method(**{**entry, "partition": partition and Partition(**partition)})


def method_as_json(method: Method) -> dict[str, Any]:
    """A method as JSON can hold it."""
    partition = method.partition
    return {**asdict(method), "partition": partition and partition._asdict()}


def _key(relation: str, division: str, partition: Partition | None, rule: str) -> str:
    return json.dumps([relation, division, partition and list(partition), rule])


def _means(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    values: dict[str, list[float]] = defaultdict(list)
    for table in tables:
        for key, value in table.items():
            values[key].append(value)
    return {key: float(np.mean(found)) for key, found in values.items()}


def _best_methods(means: Mapping[str, float]) -> list[Method]:
    """For each relation and division the setting with the highest mean."""
    best: dict[tuple[str, str], Method] = {}
    for key, iou in means.items():
        relation, division, partition, rule = json.loads(key)
        if rule == "best segment":
            continue
        method = Method(relation, division, partition and Partition(*partition), rule, iou)
        known = best.get((relation, division))
        if known is None or iou > known.chosen_iou:
            best[relation, division] = method
    order = {division: number for number, division in enumerate(("", *DIVISIONS))}
    relations = list(dict.fromkeys(method.relation for method in best.values()))
    return sorted(best.values(), key=lambda m: (relations.index(m.relation), order[m.division]))


def _scores(relation: Relation, labels: np.ndarray) -> np.ndarray:
    return segment_scores(graph_from_relation(relation), labels)


def _score(
    answer: Answer, scores: np.ndarray, pixels: np.ndarray, mask: np.ndarray
) -> tuple[SegmentMetrics, list[dict[str, Any]]]:
    """Metrics and COCO results of one method; its edges follow those of the image."""
    size_hw = mask.shape
    segments = stretch_labels(answer.labels, size_hw)
    found = refine_labels(answer.foreground.astype(np.int64), pixels) == 1
    metrics = measure_segments(segments, found, mask.astype(np.int64))
    grid_hw = answer.labels.shape
    metrics = metrics._replace(patch_iou=mask_iou(answer.foreground, patch_mask(mask, grid_hw)))
    results = segment_results(segments, scores, "")
    if found.any():
        results.append(mask_result(found, "", FOREGROUND_SCORE))
    return metrics, results


def _shrunk(pixels: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height, width = mask.shape
    scale = EVALUATION_SIDE / max(height, width)
    if scale >= 1:
        return pixels, mask
    size = (round(width * scale), round(height * scale))
    small = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) >= 0.5
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), small
