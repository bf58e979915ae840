"""From one dict of a dataset to one dict of ``batched_inputs``.

The mapper knows no task: the heads say which labels they learn from
(`heads.build.task_labels`), the labels load themselves, moved as the image was, and what an image
does not have is a key that is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError

from d2_multitask.data.datasets.catalog import needs_labels, with_keypoints
from d2_multitask.data.datasets.keypoint_flips import flip_indices
from d2_multitask.data.io import ImageReadError, read_image
from d2_multitask.data.labels.base import Label, is_mirrored
from d2_multitask.data.labels.instances import InstanceBuilder
from d2_multitask.data.labels.sem_seg import from_source
from d2_multitask.data.problems import DATA_REPORT, PROBLEMS_KEY
from d2_multitask.data.sampler import DATASET_KEY
from d2_multitask.data.transforms.build import build_augmentations, image_window
from d2_multitask.heads.build import task_labels

BAD_IMAGE = "image that cannot be used, another one is taken"

# So many bad images one after another are no accident, and training must not search for ever.
_MAX_FAILURES_IN_ROW = 50


class MultitaskDatasetMapper:
    """Callable that reads and augments an image with its labels.

    Result (``H, W``: size of the network input; coordinates in its pixels, continuous):

    - ``image``: (3, H, W) uint8; ``height``, ``width``: original size; ``file_name``, ``image_id``;
      ``dataset_name`` in a training with several datasets;
    - ``window`` (test; absent where the image fills the input): its (x0, y0, x1, y1) in the input;
    - ``instances`` (training; absent without ``annotations``): see ``InstanceBuilder``;
    - ``labelled_keypoints`` (training; absent where the dataset labels all): (K,) bool;
    - ``labelled_classes``, ``sem_seg_hidden`` (training; likewise): (C,) bool, see `label_maps`;
    - ``ignore_mask`` (training; absent if empty): (H, W) bool, crowds and remains of objects that
      were cut off;
    - ``sem_seg``, ``part_seg``, ``boundary``, ... (training; absent if unlabelled or not asked
      for): see the `Label` of that key in `d2_multitask.data.labels`; ``sem_seg_confidence``, ...
      (H, W) float32 in [0, 1] where they are a teacher's;
    - ``data_problems``: only in worker processes, taken out again by ``ReportingLoader``.

    In training, an image that cannot be read, has another size than its labels say or whose
    foreground mask cannot be used is counted and ``None`` is returned, whereupon Detectron2's
    loader takes another one. In evaluation that is an error, because the metrics would be those of
    another dataset.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str = "BGR",
        instance_builder: InstanceBuilder | None = None,
        labels: Sequence[Label] = (),
    ) -> None:
        """
        Args:
            is_train: give labels.
            augmentations: applied to the image and all labels alike.
            image_format: channel order, Detectron2's ``INPUT.FORMAT``.
            instance_builder: converts the objects; by default boxes without keypoints and masks.
            labels: what else is given of an image, as far as it has it.
        """
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.instance_builder = instance_builder or InstanceBuilder()
        self.labels = list(labels)
        self._sem_seg = next((label for label in labels if label.key == "sem_seg"), None)
        self._failures_in_row = 0

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """``cfg`` -> arguments; keypoints are loaded if a training set names any."""
        result: dict[str, Any] = {
            "is_train": is_train,
            "augmentations": build_augmentations(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
        }
        if is_train and needs_labels(cfg.MODEL.TASKS):
            result["labels"] = task_labels(cfg)
            named = with_keypoints(cfg.DATASETS.TRAIN)
            result["instance_builder"] = InstanceBuilder(
                hflip_indices=flip_indices(named) if named else None,
                load_masks=cfg.MODEL.MASK_ON,
                min_visible=cfg.INPUT.SCALE_CROP.MIN_VISIBLE,
            )
        return result

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any] | None:
        """Map one image; ``dataset_dict`` is not changed."""
        try:
            result = self._map(dataset_dict)
        except (ImageReadError, SizeMismatchError) as error:
            self._fail(dataset_dict, error)
            return None
        self._failures_in_row = 0
        return result

    def _map(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        height, width = dataset_dict.get("height"), dataset_dict.get("width")
        expected_size = (height, width) if height and width else None
        image = read_image(dataset_dict["file_name"], self.image_format, expected_size)
        height, width = original_size = image.shape[:2]
        size = {"height": height, "width": width}
        result: dict[str, Any] = {"file_name": dataset_dict["file_name"], **size}
        result |= {k: dataset_dict[k] for k in ("image_id", DATASET_KEY) if k in dataset_dict}
        # Dicts of Detectron2's own loaders name the map of class ids instead of the file behind it.
        sized = {**from_source(dataset_dict), **size}
        aug_input = _AugInput(image, self._sem_seg if self.is_train else None, sized)
        transforms = self.augmentations(aug_input)
        image = aug_input.image
        result["image"] = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        window = image_window(transforms, original_size)
        if window is not None:
            result["window"] = window
        if self.is_train:
            self._add_instances(result, dataset_dict, transforms, original_size, image.shape[:2])
            for key in ("labelled_classes", "sem_seg_hidden"):
                if key in dataset_dict:
                    result[key] = torch.tensor(dataset_dict[key], dtype=torch.bool)
            for label in self.labels:
                values = label.load(sized, transforms, image.shape[:2])
                if values is None:
                    continue
                result[label.key] = values
                confidence = label.load_confidence(sized, transforms)
                if confidence is not None:
                    result[f"{label.key}_confidence"] = confidence
        pending = DATA_REPORT.take_pending()
        if pending:
            result[PROBLEMS_KEY] = pending
        return result

    def _fail(self, dataset_dict: dict[str, Any], error: ValueError) -> None:
        if not self.is_train:
            raise error
        DATA_REPORT.add(BAD_IMAGE, str(dataset_dict["file_name"]), str(error))
        self._failures_in_row += 1
        if self._failures_in_row >= _MAX_FAILURES_IN_ROW:
            raise ImageReadError(
                f"{self._failures_in_row} images in a row cannot be used, the last because: {error}"
            ) from error

    def _add_instances(
        self,
        result: dict[str, Any],
        dataset_dict: dict[str, Any],
        transforms: T.TransformList,
        original_size: tuple[int, int],
        image_size: tuple[int, int],
    ) -> None:
        if "annotations" not in dataset_dict:
            return
        result["instances"], ignore = self.instance_builder(
            dataset_dict["annotations"],
            transforms,
            original_size,
            image_size,
            where=str(dataset_dict["file_name"]),
        )
        if ignore is not None and ignore.any():
            result["ignore_mask"] = torch.from_numpy(ignore)
        if "labelled_keypoints" in dataset_dict and self.instance_builder.hflip_indices is not None:
            labelled = np.asarray(dataset_dict["labelled_keypoints"], dtype=bool)
            if is_mirrored(transforms):
                labelled = labelled[self.instance_builder.hflip_indices]
            result["labelled_keypoints"] = torch.from_numpy(labelled)


class _AugInput(T.AugInput):
    """Detectron2's, whose semantic map is read only if an augmentation looks at it (a crop by the
    area of its classes does); the label moves its map itself.
    """

    def __init__(self, image: np.ndarray, label: Label | None, record: dict[str, Any]) -> None:
        self.image, self.boxes = image, None
        self._label, self._record, self._done = label, record, []

    def transform(self, tfm: T.Transform) -> None:
        """Apply it to the image."""
        self.image = tfm.apply_image(self.image)
        self._done.append(tfm)

    @property
    def sem_seg(self) -> np.ndarray | None:
        """(H, W) int64 as the image is now."""
        if self._label is None:
            return None
        size = self.image.shape[:2]
        values = self._label.load(self._record, T.TransformList(self._done), size)
        return None if values is None else values.numpy()
