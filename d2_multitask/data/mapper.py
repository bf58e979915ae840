"""From one dict of a data set to one dict of ``batched_inputs``.

The mapper knows no task: it gives every label that the image has, moved as the image was, and
leaves out the keys of labels that it has not.
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
from d2_multitask.data.io import ImageReadError, read_image
from d2_multitask.data.labels.dense import DenseLabels
from d2_multitask.data.labels.instances import InstanceBuilder, is_mirrored
from d2_multitask.data.labels.joint_flips import flip_indices
from d2_multitask.data.labels.sem_seg import load_sem_seg
from d2_multitask.data.problems import DATA_REPORT, PROBLEMS_KEY
from d2_multitask.data.transforms.build import build_augmentations
from d2_multitask.data.transforms.test_resize import image_window

BAD_IMAGE = "image that cannot be used, another one is taken"

# So many bad images one after another are no accident, and training must not search for ever.
_MAX_FAILURES_IN_ROW = 50


class MultitaskDatasetMapper:
    """Callable that reads and augments an image with its labels.

    Result (``H, W``: size of the network input; coordinates in its pixels, continuous):

    - ``image``: (3, H, W) uint8; ``height``, ``width``: original size; ``file_name``, ``image_id``;
    - ``window`` (test; absent where the image fills the input): its (x0, y0, x1, y1) in the input;
    - ``instances`` (training; absent without ``annotations``): see ``InstanceBuilder``;
    - ``labelled_joints`` (training; absent where the data set labels all): (K,) bool;
    - ``ignore_mask`` (training; absent if empty): (H, W) bool, crowds and remains of objects that
      were cut off;
    - ``sem_seg`` (training; absent if unlabelled): (H, W) int64, ``ignore_value`` = no label;
    - ``part_seg``, ``boundary``, ``occlusion``, ``image_labels``, ``foreground`` (training; absent
      if unlabelled or not asked for): see ``DenseLabels``;
    - ``data_problems``: only in worker processes, taken out again by ``ReportingLoader``.

    In training, an image that cannot be read, has another size than its labels say or whose
    foreground mask cannot be used is counted and ``None`` is returned, whereupon Detectron2's
    loader takes another one. In evaluation that is an error, because the metrics would be those of
    another data set.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str = "BGR",
        instance_builder: InstanceBuilder | None = None,
        load_sem_seg: bool = True,
        dense_labels: DenseLabels | None = None,
        num_sem_seg_classes: int = 2,
        ignore_value: int = 255,
    ) -> None:
        """
        Args:
            is_train: give labels.
            augmentations: applied to the image and all labels alike.
            image_format: channel order, Detectron2's ``INPUT.FORMAT``.
            instance_builder: converts the objects; by default boxes without joints and masks.
            load_sem_seg: give semantic maps; without them no mask needs to be decoded.
            dense_labels: gives further labels of the whole image; by default none.
            num_sem_seg_classes: ids from here on are unknown.
            ignore_value: id of unlabelled pixels.
        """
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.instance_builder = instance_builder or InstanceBuilder()
        self.load_sem_seg = load_sem_seg
        self.dense_labels = dense_labels or DenseLabels(())
        self.num_sem_seg_classes = num_sem_seg_classes
        self.ignore_value = ignore_value
        self._failures_in_row = 0

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """``cfg`` -> arguments; joints are loaded if a training set names any."""
        parts = cfg.MODEL.PARTS_HEAD.NUM_CLASSES if "parts" in cfg.MODEL.TASKS else 255
        result: dict[str, Any] = {
            "is_train": is_train,
            "augmentations": build_augmentations(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "load_sem_seg": "seg" in cfg.MODEL.TASKS,
            "dense_labels": DenseLabels.for_tasks(cfg.MODEL.TASKS, num_part_classes=parts),
            "num_sem_seg_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "ignore_value": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        }
        if is_train and needs_labels(cfg.MODEL.TASKS):
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
        image = self._read_image(dataset_dict)
        original_size = image.shape[:2]
        result: dict[str, Any] = {
            "file_name": dataset_dict["file_name"],
            "height": original_size[0],
            "width": original_size[1],
        }
        if "image_id" in dataset_dict:
            result["image_id"] = dataset_dict["image_id"]
        sem_seg = self._load_sem_seg(dataset_dict, original_size) if self.is_train else None
        aug_input = T.AugInput(image, sem_seg=sem_seg)
        transforms = self.augmentations(aug_input)
        image = aug_input.image
        result["image"] = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        window = image_window(transforms, original_size)
        if window is not None:
            result["window"] = window
        if self.is_train:
            if sem_seg is not None:
                result["sem_seg"] = torch.from_numpy(aug_input.sem_seg.astype(np.int64))
            self._add_instances(result, dataset_dict, transforms, original_size, image.shape[:2])
            sized = {**dataset_dict, "height": original_size[0], "width": original_size[1]}
            result.update(self.dense_labels(sized, transforms, image.shape[:2]))
        pending = DATA_REPORT.take_pending()
        if pending:
            result[PROBLEMS_KEY] = pending
        return result

    def _read_image(self, dataset_dict: dict[str, Any]) -> np.ndarray:
        height, width = dataset_dict.get("height"), dataset_dict.get("width")
        expected_size = (height, width) if height and width else None
        return read_image(dataset_dict["file_name"], self.image_format, expected_size)

    def _fail(self, dataset_dict: dict[str, Any], error: ValueError) -> None:
        if not self.is_train:
            raise error
        DATA_REPORT.add(BAD_IMAGE, str(dataset_dict["file_name"]), str(error))
        self._failures_in_row += 1
        if self._failures_in_row >= _MAX_FAILURES_IN_ROW:
            raise ImageReadError(
                f"{self._failures_in_row} images in a row cannot be used, the last because: {error}"
            ) from error

    def _load_sem_seg(
        self, dataset_dict: dict[str, Any], original_size: tuple[int, int]
    ) -> np.ndarray | None:
        if not self.load_sem_seg:
            return None
        return load_sem_seg(
            dataset_dict,
            *original_size,
            num_classes=self.num_sem_seg_classes,
            ignore_value=self.ignore_value,
        )

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
        if "labelled_joints" in dataset_dict and self.instance_builder.hflip_indices is not None:
            labelled = np.asarray(dataset_dict["labelled_joints"], dtype=bool)
            if is_mirrored(transforms):
                labelled = labelled[self.instance_builder.hflip_indices]
            result["labelled_joints"] = torch.from_numpy(labelled)
