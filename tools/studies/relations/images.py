"""What all studies share: each labelled image leaves a file, so that a stopped study goes on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2_multitask.data.whole_files import write_json
from d2_multitask.modeling.mae import MaskedAutoencoder
from d2_multitask.segmenting.images import ReadyImage, checksum, read_ready
from studies.relations.divisions import CHOSEN_AS, DIVISIONS
from studies.relations.methods import Method
from studies.relations.relations import (
    RELATIONS,
    Measuring,
    Variant,
    variants_of,
    with_controls,
)

RESULTS = (
    "relations/**/*.npz",
    "choose/**/*.json",
    "choose_asking/**/*.json",
    "report/**/*.json",
)
"""Files of a study that hold single images."""

Progress = Callable[[Iterable[Any], str], Iterable[Any]]


@dataclass(frozen=True)
class LabelledImage:
    """A file and what people say about it.

    Attributes:
        name: without ending, for files of results.
        file: the image.
        mask_file: the mask, or BSDS500's ground truth.
    """

    name: str
    file: Path
    mask_file: Path


class Study:
    """One autoencoder, one folder of results; settings are chosen, then reported."""

    def __init__(
        self,
        measuring: Measuring,
        folder: Path,
        *,
        long_side: int,
        input_format: str = "RGB",
        relations: Sequence[str] = tuple(RELATIONS),
        divisions: Sequence[str] = DIVISIONS,
        backend: str = "networkx",
        progress: Progress = lambda items, what: items,
    ) -> None:
        """
        Args:
            measuring: measures relations.
            folder: of all files of the study.
            long_side: images are brought to it, pixels.
            input_format: ``INPUT.FORMAT``.
            relations: keys of `RELATIONS`; those of other networks are added.
            divisions: of `DIVISIONS`.
            backend: of Louvain's method.
            progress: wraps what is iterated over, with a title.
        """
        self.measuring = measuring
        self.model: MaskedAutoencoder = measuring.model
        self.folder = folder
        self.long_side = long_side
        self.input_format = input_format
        self.relations = with_controls(relations, measuring.controls)
        self.divisions = tuple(divisions)
        self.chosen_divisions = sorted({CHOSEN_AS[division] for division in divisions})
        self.backend = backend
        self.progress = progress

    def report(self, images: Sequence[LabelledImage], methods: Sequence[Method]) -> list[Any]:
        """Measure chosen methods on images that they were not chosen on.

        Args:
            images: with masks.
            methods: from `choose`.

        Returns:
            One dict an image, see ``_measure``.
        """
        return [
            self._kept("report", image, lambda i: self._measure(i, methods))
            for image in self.progress(images, "report")
        ]

    def ready(self, image: LabelledImage) -> ReadyImage:
        """The image as the network gets it."""
        how = (self.long_side, self.input_format, self.measuring.shifts)
        return read_ready(image.file, self.model, *how)

    def _kept(self, stage: str, image: LabelledImage, work: Callable[[LabelledImage], Any]) -> Any:
        """What an earlier run has found with the same image and mask, or else ``work`` finds."""
        file = self.folder / stage / f"{image.name}.json"
        read = [checksum(image.file), checksum(image.mask_file)]
        with contextlib.suppress(OSError, ValueError, KeyError):
            known = json.loads(file.read_text())
            if known["image_mask_crc32"] == read:
                return known["found"]
        found = json.loads(json.dumps(work(image)))
        write_json(file, {"image_mask_crc32": read, "found": found})
        return found

    def _measure(self, image: LabelledImage, methods: Sequence[Method]) -> dict[str, Any]:
        raise NotImplementedError

    def _variants(self) -> dict[tuple[str, int], Variant]:
        return {
            (name, number): variant
            for name in self.relations
            for number, variant in enumerate(variants_of(name))
        }
