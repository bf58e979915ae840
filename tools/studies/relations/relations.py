"""The relations that are compared, and their measurement, kept in a file for each image."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from d2_multitask.data.whole_files import whole_file
from d2_multitask.modeling.mae import MaskedAutoencoder
from d2_multitask.patch_graph import Budget, Relation, measure_shifted, rank_average
from d2_multitask.patch_graph.autoencoder import ErrorMeter, is_flat, patch_grid_of
from d2_multitask.patch_graph.relation import ESTIMATORS


@dataclass(frozen=True)
class Variant:
    """One way of measuring a relation.

    Attributes:
        kinds: of `measure_relation`; several are mixed by their ranks.
        settings: of the kind; of a mixture there are none.
        network: of `Measuring.controls`; empty = the trained one.
    """

    kinds: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    network: str = ""


def _scales(kind: str, **settings: Any) -> tuple[Variant, ...]:
    return tuple(Variant((kind,), {"scale": s, **settings}) for s in (0.25, 0.5, 1.0))


CONTROL_RELATION = "distance"
RELATIONS: dict[str, tuple[Variant, ...]] = {
    CONTROL_RELATION: tuple(Variant(("distance",), {"distance": d}) for d in (1.0, 2.0, 4.0)),
    "color": _scales("color"),
    "color_deviation": _scales("color", deviation=True),
    "raw_pixels": _scales("raw_pixels"),
    "encoder_features": (Variant(("encoder_features",)),),
    "single_source": (Variant(("single_source",)),),
    "conditional_means": (Variant(("conditional_means",)),),
    "ridge": (Variant(("ridge",)),),
    "leave_one_out": (Variant(("leave_one_out",)),),
    "single_source+ridge": (Variant(("single_source", "ridge")),),
    "encoder_features+ridge": (Variant(("encoder_features", "ridge")),),
    "encoder_features+leave_one_out": (Variant(("encoder_features", "leave_one_out")),),
    "color+ridge": (Variant(("color", "ridge")),),
    "color+encoder_features+ridge": (Variant(("color", "encoder_features", "ridge")),),
}
"""Name -> variants, of which one is chosen. "distance" is the control that looks at no image."""


def of_network(name: str, network: str) -> str:
    """Name of the relation, or of the method, with a network of `Measuring.controls`."""
    relation, separator, division = name.partition(" / ")
    return f"{relation} ({network}){separator}{division}" if network else name


def split_network(relation: str) -> tuple[str, str]:
    """Key of `RELATIONS` and network; the inverse of `of_network`."""
    name, _, network = relation.partition(" (")
    return name, network.rstrip(")")


def variants_of(relation: str) -> tuple[Variant, ...]:
    """Of a relation with any network."""
    name, network = split_network(relation)
    return tuple(replace(variant, network=network) for variant in RELATIONS[name])


def with_controls(relations: Iterable[str], networks: Iterable[str]) -> list[str]:
    """Relations, each that asks the autoencoder followed by the same of other networks."""
    asking = {*ESTIMATORS, "encoder_features"}
    return [
        of_network(name, network)
        for name in relations
        for network in ("", *(networks if asking & set(RELATIONS[name][0].kinds) else ()))
    ]


# Kinds that draw the same visible sets, with settings of theirs that are not compared.
SAME_SETS: dict[str, dict[str, Any]] = {
    "ridge": {"with_standard_error": False},
    "conditional_means": {},
}


@dataclass(frozen=True)
class Measuring:
    """Measures relations of one autoencoder.

    Attributes:
        model: the autoencoder.
        passes: forward passes of each relation from errors (``single_source``: one per patch).
        seed: of the visible sets.
        folder: where relations from errors are kept, one npz an image.
        controls: other weights of the same network: "untrained", "early".
        shifts: of `measure_shifted`.
    """

    model: MaskedAutoencoder
    passes: int
    seed: int
    folder: Path
    controls: Mapping[str, MaskedAutoencoder] = field(default_factory=dict)
    shifts: int = 1

    def network(self, relation: str) -> MaskedAutoencoder:
        """That a relation asks."""
        return {"": self.model, **self.controls}[split_network(relation)[1]]

    def base_relations(
        self, name: str, image: Tensor, kinds: set[str]
    ) -> tuple[dict[str, Tensor], tuple[int, int]]:
        """Relations from errors of one image, measured or read.

        Args:
            name: of the image.
            image: (3, H, W), normalised.
            kinds: keys of `ESTIMATORS`, with their network: see `of_network`.

        Returns:
            Kind -> (L, L) float32 of cells, and their grid (h, w).
        """
        height, width = patch_grid_of(image, self.model.patch_size)
        grid_hw = (self.shifts * height, self.shifts * width)
        file = self.folder / f"{name}.npz"
        image_crc32 = zlib.crc32(image.cpu().numpy().tobytes())
        known = _read(file, image_crc32)
        missing = sorted(kinds - known.keys())
        for network in ("", *self.controls):
            shared = [kind for kind in SAME_SETS if of_network(kind, network) in missing]
            known.update(self._from_same_sets(image, shared, network))
        for key in missing:
            if key not in known:
                kind, _ = split_network(key)
                # single_source is exact after a pass a patch, and no estimate before
                budget = Budget(None if kind == "single_source" else self.passes)
                how = {"seed": self.seed, "shifts": self.shifts}
                relation = measure_shifted(self.network(key), image, kind, budget, **how)
                known[key] = relation.matrix
        if missing:
            with whole_file(file) as unfinished, unfinished.open("wb") as stream:
                matrices = {kind: matrix.numpy() for kind, matrix in known.items()}
                np.savez_compressed(stream, image_crc32=image_crc32, **matrices)
        return {kind: known[kind] for kind in kinds}, grid_hw

    def _from_same_sets(self, image: Tensor, kinds: list[str], network: str) -> dict[str, Tensor]:
        """Relations of `SAME_SETS` from one measurement of the sets that they share."""
        if len(kinds) < 2 or self.shifts > 1 or is_flat(image):
            return {}
        meter = ErrorMeter(self.network(of_network(kinds[0], network)), image)
        estimators = {
            kind: ESTIMATORS[kind](meter.num_patches, seed=self.seed, **SAME_SETS[kind])
            for kind in kinds
        }
        if self.passes < max(e.required_passes for e in estimators.values()):
            return {}  # measured one by one, which says how many it takes
        visible = estimators[kinds[0]].draw(self.passes)
        errors = meter.errors(visible)
        for estimator in estimators.values():
            estimator.add(visible, errors)
        return {
            of_network(kind, network): estimator.estimate()[0]
            for kind, estimator in estimators.items()
        }

    def relations(
        self, name: str, image: Tensor, variants: Mapping[str, Variant]
    ) -> dict[str, Relation]:
        """Relations of one image, by the keys of ``variants``."""
        kinds = {
            of_network(kind, variant.network)
            for variant in variants.values()
            for kind in variant.kinds
            if kind in ESTIMATORS
        }
        measured, grid_hw = self.base_relations(name, image, kinds)
        relations = {}
        for key, variant in variants.items():
            keys = [of_network(kind, variant.network) for kind in variant.kinds]
            parts = [
                Relation(measured[full], grid_hw)
                if full in measured
                else self._similarity(image, kind, full, variant)
                for kind, full in zip(variant.kinds, keys, strict=True)
            ]
            relations[key] = parts[0] if len(parts) == 1 else rank_average(parts)
        return relations

    def _similarity(self, image: Tensor, kind: str, key: str, variant: Variant) -> Relation:
        network = self.network(key)
        return measure_shifted(network, image, kind, shifts=self.shifts, **variant.settings)


def _read(file: Path, image_crc32: int) -> dict[str, Tensor]:
    """Relations that were measured on this image."""
    try:
        with np.load(file, allow_pickle=False) as content:
            known = dict(content)
            if known.pop("image_crc32") != image_crc32:
                return {}
            return {kind: torch.from_numpy(matrix) for kind, matrix in known.items()}
    except (OSError, ValueError, EOFError, KeyError, BadZipFile):
        return {}
