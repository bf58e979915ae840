"""The study of segments as such: levels of each method against how people divided the image.

Scales and localities are chosen by the covering at the best level; the number of segments is a
level, as in the benchmark. Letters: H x W pixels, h x w patches.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from d2_multitask.data.datasets.bsds500 import Partition as PersonsPartition
from d2_multitask.data.datasets.bsds500 import read_partitions
from d2_multitask.evaluation.partitions import grid, measure_partitions
from d2_multitask.evaluation.regions import best_overlaps, shared_pixels
from d2_multitask.patch_graph import enlarge
from d2_multitask.patch_graph.color_regions import NUM_REGIONS, color_regions, follow_regions
from d2_multitask.patch_graph.refine import refine_labels, stretch_labels
from studies.relations.divisions import GROWN, LOCALITIES, LOUVAIN, Partition
from studies.relations.images import LabelledImage, Study
from studies.relations.levels import grown_regions, levels_of
from studies.relations.methods import Method, best_methods, setting_key
from studies.relations.relations import of_network, variants_of
from studies.relations.scoring import shrunk

# Controls that ask no network, at levels of their own.
GRID, COLOR_REGIONS = "regular grid", "colour regions"
GRID_LEVELS = (1, 2, 3, 4, 5, 6, 8)
REGION_LEVELS = (2, 3, 4, 5, 6, 8, 10, 14, 20)
# So many colour regions, which grow by errors between them in place of colour.
GROWN_FROM = 60
# How labels of patches become labels of pixels: as squares, by a guided filter, or by following so
# many colour regions, as tools/segment_unlabelled.py does with photographs.
PATCHES, REFINED, FOLLOWED = "patches", "refined", "followed"
PIXELS = (PATCHES, REFINED, FOLLOWED)


def grown_rows(networks: Iterable[str]) -> dict[str, str]:
    """Name of the row -> `COLOR_REGIONS` with each network, which measures them as they grow."""
    regions = [of_network(COLOR_REGIONS, network) for network in ("", *networks)]
    return {f"{name} / {GROWN}": name for name in regions}


class PartitionStudy(Study):
    """Segments at several levels."""

    def choose(self, images: Sequence[LabelledImage]) -> list[Method]:
        """Choose each method's scale and locality by the covering at its best level (ODS).

        Args:
            images: with BSDS500's ground truth, which is used.
        """
        tables = [
            self._kept("choose", image, self._try_all)
            for image in self.progress(images, "settings")
        ]
        means = {
            setting: float(np.mean([table[setting] for table in tables], axis=0).max())
            for setting in tables[0]
        }
        for setting in list(means):
            relation, division, partition, rule = json.loads(setting)
            if division == LOUVAIN:
                setting = setting_key(relation, GROWN, Partition(*partition), rule)
                means[setting] = means[setting_key(relation, LOUVAIN, Partition(*partition), rule)]
        return [method for method in best_methods(means) if method.division in self.divisions]

    def _try_all(self, image: LabelledImage) -> dict[str, list[float]]:
        """Setting -> covering of each level, on every second pixel of rows and columns."""
        ready = self.ready(image)
        people = [person.segments[::2, ::2] for person in read_partitions(image.mask_file)]
        relations = self.measuring.relations(image.name, ready.tensor, self._variants())
        cells = enlarge(ready.tensor, self.measuring.shifts)
        table = {}
        for name, division in itertools.product(self.relations, self.chosen_divisions):
            for number, locality in itertools.product(range(len(variants_of(name))), LOCALITIES):
                partition = Partition(number, locality)
                relation, network = relations[name, number], self.measuring.network(name)
                levels = levels_of(relation, division, partition, network, cells, self.backend)
                table[setting_key(name, division, partition, "")] = [
                    covering(stretch_labels(level, people[0].shape), people) for level in levels
                ]
        return table

    def _measure(self, image: LabelledImage, methods: Sequence[Method]) -> dict[str, Any]:
        """Method -> each of `PIXELS`: fields of `PartitionCounts`; ``segments``: numbers of them.

        The controls, and colour regions that grow, have the same pixels three times.
        """
        ready = self.ready(image)
        people = read_partitions(image.mask_file)
        image_hw = people[0].segments.shape
        pixels, _ = shrunk(ready.pixels, np.zeros(image_hw, bool))
        relations = self.measuring.relations(
            image.name,
            ready.tensor,
            {m.name: variants_of(m.relation)[m.partition.variant] for m in methods},
        )
        cells = enlarge(ready.tensor, self.measuring.shifts)
        regions = color_regions(ready.pixels)
        followed = regions.labels_at(num_regions=NUM_REGIONS)
        squares = [grid(number, image_hw) for number in GRID_LEVELS]
        merged = [regions.labels_at(num_regions=number) for number in REGION_LEVELS]
        start = regions.labels_at(num_regions=GROWN_FROM)
        grown = {
            name: grown_regions(start, REGION_LEVELS, self.measuring.network(relation), cells)
            for name, relation in grown_rows(self.measuring.controls).items()
        }
        found = {}
        for name, levels in {GRID: squares, COLOR_REGIONS: merged, **grown}.items():
            measured = counts((stretch_labels(level, image_hw) for level in levels), people)
            numbers = [len(np.unique(level)) for level in levels]
            found[name] = {**dict.fromkeys(PIXELS, measured), "segments": numbers}
        for method in methods:
            relation, network = relations[method.name], self.measuring.network(method.relation)
            levels = levels_of(
                relation, method.division, method.partition, network, cells, self.backend
            )
            by = {
                PATCHES: levels,
                REFINED: (refine_labels(level, pixels) for level in levels),
                FOLLOWED: (follow_regions(level, followed) for level in levels),
            }
            found[method.name] = {
                name: counts((stretch_labels(x, image_hw) for x in labels), people)
                for name, labels in by.items()
            }
            found[method.name]["segments"] = [len(np.unique(level)) for level in levels]
        return found


def covering(segments: np.ndarray, people: Sequence[np.ndarray]) -> float:
    """Of people's regions by segments (H, W), mean over all pixels of all people, [0, 1]."""
    tables = [shared_pixels(segments, person) for person in people]
    covered = sum(best_overlaps(table) @ table.sum(axis=0) for table in tables)
    return float(covered / sum(table.sum() for table in tables))


def counts(levels: Iterable[np.ndarray], people: Sequence[PersonsPartition]) -> list[Any]:
    """`measure_partitions` as JSON can hold it."""
    return [np.asarray(field).tolist() for field in measure_partitions(levels, people)]
