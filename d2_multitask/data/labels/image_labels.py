"""The classes that an image shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from torch import Tensor

from d2_multitask.data.labels.base import Label, Record, name_of, size_of
from d2_multitask.data.labels.sem_seg import sem_seg_map

NUM_IMAGE_LABELS = 59


class ImageLabels(Label):
    """``image_labels``: (num_classes,) int64, 1 = the network input shows the class."""

    key = "image_labels"
    description = "image labels"
    fields = ("image_labels",)
    names_key = "stuff_classes"
    size_key = "MODEL.CLASSIFICATION_HEAD.NUM_CLASSES"

    def load(
        self, record: Record, transforms: T.TransformList, image_size: tuple[int, int]
    ) -> Tensor | None:
        """Classes of the image; where it was cropped, only those of which a pixel is left.

        The network cannot know what was cut away. Without a semantic map the image's own labels
        are the best that there is.
        """
        labels = image_label_vector(record, self.num_classes)
        if labels is None:
            return None
        if not _shows_all(record, transforms, image_size):
            sem_seg = sem_seg_map(record)
            if sem_seg is not None:
                left = np.unique(transforms.apply_segmentation(sem_seg))
                cut_away = np.setdiff1d(np.unique(sem_seg), left)
                labels[cut_away[cut_away < len(labels)]] = 0
        return torch.from_numpy(labels)


def image_label_vector(
    record: Mapping[str, Any], num_classes: int = NUM_IMAGE_LABELS
) -> np.ndarray | None:
    """Classes that the image shows: (num_classes,) int64, 1 = present. From ``image_labels``.

    Raises:
        ValueError: a class id outside of 0..num_classes - 1.
    """
    if "image_labels" not in record:
        return None
    present = np.asarray(record["image_labels"], dtype=np.int64)
    if len(present) and not 0 <= present.min() <= present.max() < num_classes:
        raise ValueError(
            f"{name_of(record)}: image_labels: found {present.tolist()}, expected ids of 0.."
            f"{num_classes - 1}"
        )
    labels = np.zeros(num_classes, dtype=np.int64)
    labels[present] = 1
    return labels


def _shows_all(record: Record, transforms: T.TransformList, image_size: tuple[int, int]) -> bool:
    """Whether the corners of the original are still in the image, up to a pixel."""
    height, width = size_of(record)
    corners = np.array([[0.0, 0.0], [width, 0.0], [0.0, height], [width, height]])
    moved = np.asarray(transforms.apply_coords(corners))
    return bool(((moved >= -1) & (moved <= np.array(image_size[::-1]) + 1)).all())
