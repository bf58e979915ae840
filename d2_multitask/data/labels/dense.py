"""Labels of whole images beside the semantic map: parts, boundaries, occlusion, image labels,
foreground.

Each moves in its own way: regions are resized by nearest neighbours, boundaries and occlusion
fragments are lines that are drawn anew, and the vectors to the object in front turn and mirror with
the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T

from d2_multitask.data.labels.boundary import transform_boundary
from d2_multitask.data.labels.foreground import foreground_map, has_foreground
from d2_multitask.data.labels.maps import (
    boundary_map,
    image_label_vector,
    part_seg_map,
    sem_seg_map,
)
from d2_multitask.data.labels.occlusion import (
    rasterize_fragments,
    read_fragments,
    transform_fragments,
)

Size = tuple[int, int]
DatasetDict = Mapping[str, Any]


def _has(*keys: str) -> Callable[[DatasetDict], bool]:
    return lambda record: any(key in record for key in keys)


# Task -> what it learns from, in words, and whether an image has it.
DENSE_TASKS: Mapping[str, tuple[str, Callable[[DatasetDict], bool]]] = MappingProxyType(
    {
        "parts": ("human parts", _has("part_seg_segments", "part_seg_file_name")),
        "boundary": ("boundary maps", _has("boundary_segmentation", "boundary_file_name")),
        "occlusion": ("occlusion fragments", _has("occlusion_fragments")),
        "classification": ("image labels", _has("image_labels")),
        "foreground": ("foreground masks", has_foreground),
    }
)

_LABEL_OF_TASK = MappingProxyType(
    {
        "parts": "part_seg",
        "boundary": "boundary",
        "occlusion": "occlusion",
        "classification": "image_labels",
        "foreground": "foreground",
    }
)


class DenseLabels:
    """Loads the asked labels of an image and moves them as the image was moved.

    Args:
        labels: some of ``part_seg``, ``boundary``, ``occlusion``, ``image_labels``, ``foreground``.
        num_part_classes: of the network; other ids in part maps are ignored.

    Raises:
        ValueError: another label.
    """

    def __init__(self, labels: Iterable[str], *, num_part_classes: int = 255) -> None:
        self.labels = tuple(labels)
        self.num_part_classes = num_part_classes
        unknown = set(self.labels) - set(_LABEL_OF_TASK.values())
        if unknown:
            raise ValueError(
                f"labels: found {sorted(unknown)}, expected some of "
                f"{sorted(_LABEL_OF_TASK.values())}"
            )

    @classmethod
    def for_tasks(cls, tasks: Iterable[str], *, num_part_classes: int = 255) -> DenseLabels:
        """The labels that the heads of some tasks learn from."""
        labels = (_LABEL_OF_TASK[task] for task in tasks if task in _LABEL_OF_TASK)
        return cls(labels, num_part_classes=num_part_classes)

    def __call__(
        self, dataset_dict: DatasetDict, transforms: T.TransformList, image_size: Size
    ) -> dict[str, torch.Tensor]:
        """Labels of one image; those that it does not carry are absent.

        Args:
            dataset_dict: with ``height`` and ``width`` of the original.
            transforms: what was done to the image.
            image_size: (H, W) after them.

        Returns:
            - ``part_seg``: (H, W) int64, 0 = background, 255 = no label;
            - ``boundary``: (H, W) int64, 1 = boundary, 255 = no label;
            - ``occlusion``: (2, H, W) float32, unit vectors (x, y) to the object in front at the
              pixels of the fragments, zeros elsewhere;
            - ``image_labels``: (num_classes,) int64, 1 = the input shows the class;
            - ``foreground``: (H, W) int64, 1 = foreground, 0 = background, 255 = no label.

        Raises:
            ImageReadError: the image's foreground mask cannot be used.
        """
        load = {
            "part_seg": self._part_seg,
            "boundary": self._boundary,
            "occlusion": self._occlusion,
            "image_labels": self._image_labels,
            "foreground": self._foreground,
        }
        result = {}
        for label in self.labels:
            values = load[label](dataset_dict, transforms, image_size)
            if values is not None:
                result[label] = torch.from_numpy(values)
        return result

    def _part_seg(
        self, dataset_dict: DatasetDict, transforms: T.TransformList, image_size: Size
    ) -> np.ndarray | None:
        # The six classes hold left and right alike, so mirroring exchanges none of them.
        parts = part_seg_map(dataset_dict, num_classes=self.num_part_classes)
        return None if parts is None else transforms.apply_segmentation(parts).astype(np.int64)

    def _boundary(
        self, dataset_dict: DatasetDict, transforms: T.TransformList, image_size: Size
    ) -> np.ndarray | None:
        boundary = boundary_map(dataset_dict)
        if boundary is None:
            return None
        return transform_boundary(boundary, transforms).astype(np.int64)

    def _occlusion(
        self, dataset_dict: DatasetDict, transforms: T.TransformList, image_size: Size
    ) -> np.ndarray | None:
        if "occlusion_fragments" not in dataset_dict:
            return None
        size = int(dataset_dict["height"]), int(dataset_dict["width"])
        where = str(dataset_dict.get("file_name", "image"))
        fragments = read_fragments(dataset_dict["occlusion_fragments"], *size, where)
        return rasterize_fragments(transform_fragments(fragments, transforms), *image_size)

    def _foreground(
        self, dataset_dict: DatasetDict, transforms: T.TransformList, image_size: Size
    ) -> np.ndarray | None:
        mask = foreground_map(dataset_dict)
        return None if mask is None else transforms.apply_segmentation(mask).astype(np.int64)

    def _image_labels(
        self, dataset_dict: DatasetDict, transforms: T.TransformList, image_size: Size
    ) -> np.ndarray | None:
        """Classes of the image; where it was cropped, only those of which a pixel is left.

        The head sees the crop: it cannot know what was cut away. Without a semantic map the
        image's own labels are the best that there is, and stay.
        """
        labels = image_label_vector(dataset_dict)
        if labels is None or _shows_all(dataset_dict, transforms, image_size):
            return labels
        sem_seg = sem_seg_map(dataset_dict)
        if sem_seg is None:
            return labels
        before, after = np.unique(sem_seg), np.unique(transforms.apply_segmentation(sem_seg))
        cut_away = np.setdiff1d(before, after)
        labels[cut_away[cut_away < len(labels)]] = 0
        return labels


def _shows_all(dataset_dict: DatasetDict, transforms: T.TransformList, image_size: Size) -> bool:
    """Whether the corners of the original are still in the image, up to a pixel."""
    height, width = int(dataset_dict["height"]), int(dataset_dict["width"])
    corners = np.array([[0.0, 0.0], [width, 0.0], [0.0, height], [width, height]])
    moved = np.asarray(transforms.apply_coords(corners))
    return bool(((moved >= -1) & (moved <= np.array(image_size[::-1]) + 1)).all())
