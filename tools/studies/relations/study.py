"""The study of foregrounds: settings are chosen on some images, and reported on others.

Choosing uses the masks of the images that it is done on; reporting only measures. Letters: h x w
patches.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from d2_multitask.evaluation.segments import (
    best_segment_iou,
    label_annotations,
    mask_iou,
    patch_mask,
    read_object_mask,
)
from d2_multitask.patch_graph import PatchGraph, enlarge, grow
from d2_multitask.patch_graph.autoencoder import patch_grid_of
from studies.relations.divisions import (
    GROWN,
    LOUVAIN,
    NUM_REGIONS,
    Answer,
    Partition,
    cheap_foregrounds,
    controls,
    divide,
    foreground_of,
    graph_of,
    inpainting_foregrounds,
    mean_mask,
    partitions,
)
from studies.relations.images import LabelledImage, Study
from studies.relations.methods import (
    BEST_SEGMENT,
    Method,
    best_methods,
    mean_table,
    setting_key,
)
from studies.relations.relations import variants_of
from studies.relations.scoring import (
    coherence,
    reconstruction_errors,
    score_answer,
    shrunk,
)


class RelationStudy(Study):
    """Chooses the object of each image."""

    mean_mask: np.ndarray | None = None

    def choose(self, images: Sequence[LabelledImage]) -> list[Method]:
        """Choose each method's settings by the mean IoU on patches.

        First the rules that cost nothing are tried on all partitions. What asks the autoencoder
        is tried on the partition whose best segment fits best: the rule that does, and growing.

        Args:
            images: with masks, which are used.

        Returns:
            A method for each control, and each relation and division.
        """
        self.mean_mask = mean_mask([read_object_mask(image.mask_file) for image in images])
        tables = [
            self._kept("choose", image, self._try_all)
            for image in self.progress(images, "settings")
        ]
        mean = mean_table(tables)
        best = {
            (relation, division): max(
                partitions(division, len(variants_of(relation))),
                key=lambda p, r=relation, d=division: mean[setting_key(r, d, p, BEST_SEGMENT)],
            )
            for relation in self.relations
            for division in self.chosen_divisions
        }
        for image in self.progress(images, "settings of what asks the autoencoder"):
            tables.append(self._kept("choose_asking", image, lambda i: self._try_asking(i, best)))
        methods = best_methods(mean_table(tables))
        return [m for m in methods if not m.division or m.division in self.divisions]

    def _read(self, image: LabelledImage) -> tuple[np.ndarray, Tensor, np.ndarray]:
        """Pixels (H, W, 3), tensor (3, H', W'), mask (H, W)."""
        ready = self.ready(image)
        return ready.pixels, ready.tensor, read_object_mask(image.mask_file, ready.pixels.shape[:2])

    def _divide(
        self, name: str, graph: PatchGraph, division: str, partition: Partition, image: Tensor
    ) -> np.ndarray:
        network = self.measuring.network(name)
        return divide(graph, division, partition, network, image, self.backend)

    def _try_all(self, image: LabelledImage) -> dict[str, float]:
        """Setting -> IoU on patches, for all that needs no choice by the autoencoder."""
        _, tensor, mask = self._read(image)
        relations = self.measuring.relations(image.name, tensor, self._variants())
        cells = enlarge(tensor, self.measuring.shifts)
        grid_hw = next(iter(relations.values())).grid_hw
        target = patch_mask(mask, grid_hw)
        table = {
            setting_key(name, "", None, setting): mask_iou(answer.foreground, target)
            for name, setting, answer in controls(grid_hw, self.mean_mask)
        }
        for name, division in itertools.product(self.relations, self.chosen_divisions):
            graphs: dict[tuple[int, float | None], PatchGraph] = {}
            for partition in partitions(division, len(variants_of(name))):
                key = partition.variant, partition.locality
                if key not in graphs:
                    graphs[key] = graph_of(relations[name, partition.variant], division, partition)
                labels = self._divide(name, graphs[key], division, partition, cells)
                masks = cheap_foregrounds(labels, division, graphs[key], partition)
                ious = {rule: mask_iou(found, target) for rule, found in masks.items()}
                ious[BEST_SEGMENT] = best_segment_iou(labels, target)
                for rule, iou in ious.items():
                    table[setting_key(name, division, partition, rule)] = iou
        return table

    def _try_asking(
        self, image: LabelledImage, best: Mapping[tuple[str, str], Partition]
    ) -> dict[str, float]:
        """Setting -> IoU on patches, for the rule that asks the autoencoder, and for growing."""
        _, tensor, mask = self._read(image)
        variants = {key: variants_of(key[0])[p.variant] for key, p in best.items()}
        relations = self.measuring.relations(image.name, tensor, variants)
        cells = enlarge(tensor, self.measuring.shifts)
        table = {}
        for (name, division), partition in best.items():
            relation = relations[name, division]
            network = self.measuring.network(name)
            target = patch_mask(mask, relation.grid_hw)
            graph = graph_of(relation, division, partition)
            labels = self._divide(name, graph, division, partition, cells)
            candidates = [(division, partition, labels, {})]
            if division == LOUVAIN and GROWN in self.divisions:
                grown = grow(network, cells, labels)
                for count in NUM_REGIONS:
                    larger = grown.labels_at(num_regions=count)
                    found = cheap_foregrounds(larger, GROWN, graph, partition)
                    setting = partition._replace(num_regions=count)
                    candidates.append((GROWN, setting, larger, found))
            for how, setting, segments, found in candidates:
                asked = inpainting_foregrounds(segments, network, cells)
                for rule, answer in {**found, **asked}.items():
                    table[setting_key(name, how, setting, rule)] = mask_iou(answer, target)
        return table

    def _measure(self, image: LabelledImage, methods: Sequence[Method]) -> dict[str, Any]:
        """``metrics`` (method -> `SegmentMetrics` as a list), ``results`` (method -> COCO results),
        ``objects`` (COCO annotations), ``size`` (h, w), ``reconstruction_error`` and
        ``error_of_mean_color`` of the autoencoder.
        """
        pixels, tensor, mask = self._read(image)
        pixels, mask = shrunk(pixels, mask)
        relations = self.measuring.relations(
            image.name,
            tensor,
            {m.name: variants_of(m.relation)[m.partition.variant] for m in methods if m.partition},
        )
        cells = enlarge(tensor, self.measuring.shifts)
        grid_hw = patch_grid_of(cells, self.model.patch_size)
        simple = {
            (name, setting): answer for name, setting, answer in controls(grid_hw, self.mean_mask)
        }
        metrics, results = {}, {}
        for method in methods:
            if method.partition is None:
                answer, scores = simple[method.relation, method.rule], np.ones(2)
            else:
                relation = relations[method.name]
                name, division = method.relation, method.division
                graph = graph_of(relation, division, method.partition)
                labels = self._divide(name, graph, division, method.partition, cells)
                network = self.measuring.network(name)
                found = foreground_of(
                    labels, division, method.rule, graph, method.partition, network, cells
                )
                answer, scores = Answer(labels, found), coherence(relation, labels)
            metrics[method.name], results[method.name] = score_answer(answer, scores, pixels, mask)
        return {
            "metrics": metrics,
            "results": results,
            "objects": label_annotations(mask.astype(np.int64), image.name),
            "size": list(mask.shape),
            **reconstruction_errors(self.model, tensor, str(image.file)),
        }
