"""What an evaluation is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from detectron2.data import Metadata, MetadataCatalog


class EvaluationRequest(NamedTuple):
    """What is to be evaluated.

    Attributes:
        dataset_name: registered name.
        records: the data set's dicts.
        tasks: names of tasks.
        output_folder: for predictions.
    """

    dataset_name: str
    records: Sequence[dict[str, Any]]
    tasks: Sequence[str]
    output_folder: str

    @property
    def metadata(self) -> Metadata:
        """The data set's metadata, complete because its dicts are loaded."""
        return MetadataCatalog.get(self.dataset_name)
