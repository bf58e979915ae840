"""The order of the training images, which an interrupted training takes up where it stopped."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from detectron2.data.samplers import TrainingSampler


class ResumableSampler(TrainingSampler):
    """Detectron2's endless shuffled order, from any place in it.

    Detectron2 begins again with the first image after each interruption: a training that is
    interrupted every 200 iterations would see the first 200 batches only.

    Attributes:
        start: how many images, of all processes together, are used up already. Set it before the
            data loader is iterated over.
    """

    start = 0

    def _infinite_indices(self) -> Iterator[int]:
        return itertools.islice(super()._infinite_indices(), self.start, None)
