"""The data keys of the config, and datasets registered from it.

A YAML file can bring its own dataset:

    DATASETS:
      REGISTER:
        - NAME: my_people_train
          JSON: data/train.json
          IMAGE_ROOT: data/images
      TRAIN: ("my_people_train",)

An entry without JSON is a plain folder of images, for what needs no labels; with MASK_ROOT its
images have foreground masks. One with SHARDS instead of IMAGE_ROOT is images in tar files.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode

from d2_multitask.data.datasets.coco import LabelFiles, register_coco_format
from d2_multitask.data.datasets.coco_annotations import as_number
from d2_multitask.data.datasets.folders import register_image_folder, register_mask_folder
from d2_multitask.data.datasets.label_maps import LabelMap
from d2_multitask.data.datasets.shards import register_shards
from d2_multitask.data.datasets.teacher import TeacherLabels, Thresholds
from d2_multitask.data.labels.base import Label, all_labels

_REQUIRED = {"NAME": str, "JSON": str, "IMAGE_ROOT": str}
# Of a plain folder of images: an entry without the key JSON.
_MASK_KEYS = {"MASK_VALUES": Mapping, "MASK_THRESHOLD": int}
_FOLDER_KEYS = {
    "NAME": str,
    "IMAGE_ROOT": str,
    "IMAGE_RANGE": (list, tuple),
    "MASK_ROOT": str,
    **_MASK_KEYS,
}
_SHARD_KEYS = {"NAME": str, "SHARDS": str}


def _file_labels() -> list[type[Label]]:
    """Labels that images may have as files."""
    return [label for label in all_labels() if f"{label.key}_file_name" in label.fields]


def _json_keys() -> dict[str, Any]:
    """Keys of an entry with JSON -> the type of their values."""
    keys = {**_REQUIRED, "SEM_SEG_FROM_MASKS": bool, "KEYPOINT_FLIP_PAIRS": (list, tuple)}
    keys |= {"CLASS_NAMES": (list, tuple), "CATEGORY_MAP": Mapping}
    keys |= {"KEYPOINT_NAMES": (list, tuple), "KEYPOINT_MAP": Mapping}
    keys |= {"TEACHER_ROOT": (str, list, tuple), "TEACHER_THRESHOLDS": Mapping}
    for label in _file_labels():
        prefix = label.key.upper()
        keys[f"{prefix}_ROOT"] = str
        if getattr(label, "values_are_ids", False):
            keys |= {f"{prefix}_IDS": Mapping, f"{prefix}_IGNORE": (int, list, tuple)}
        if label.names_key:
            keys[label.names_key.upper()] = (list, tuple)
    return keys


def _label_files(entry: Mapping[str, Any]) -> tuple[list[LabelFiles], dict[str, list[str]]]:
    """Folders of labels, and the names of their classes as metadata."""
    files, metadata = [], {}
    for label in _file_labels():
        prefix, names = label.key.upper(), label.names_key.upper()
        root, ids, ignore = (entry.get(f"{prefix}_{what}") for what in ("ROOT", "IDS", "IGNORE"))
        if root or ids is not None or ignore is not None:
            files.append(LabelFiles(label.key, _expand(root), ids, ignore))
        if entry.get(names) and label.key != "sem_seg":  # whose names are also those of masks
            if not root:
                raise ValueError(
                    f"Dataset {entry['NAME']!r}: found {names} without {prefix}_ROOT, expected a "
                    "folder"
                )
            metadata[label.names_key] = list(entry[names])
    return files, metadata


def add_data_config(cfg: CfgNode) -> None:
    """Declare the keys of the data side, with defaults and reasons."""
    # Datasets of one's own without any Python: entries as in ``register_datasets``.
    cfg.DATASETS.REGISTER = []
    # How often a pass through the data takes each image of a dataset of TRAIN, once if it is not
    # named: [["few_labelled_images", 9], ...]. Whole numbers; Detectron2's key.
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = []
    # How many of the images of a batch are of each dataset of TRAIN. None or "proportional": each
    # image once in a pass. "equal", "square_root" (of the number of images), or a list of weights,
    # one a dataset: the dataset of each image is drawn with this share, and small datasets are
    # repeated.
    cfg.DATASETS.SAMPLING = None

    # How test images are brought to the network: "shortest_edge", Detectron2's, by MIN_SIZE_TEST
    # and MAX_SIZE_TEST; "centernet_keep", the image's own size in the middle of a frame whose sides
    # are multiples of 32; "centernet_fixed", as large as fits into SCALE_CROP.SIZE; "stretch", the
    # whole image, its proportions changed, to RANDOM_RESIZED_CROP.SIZE, as networks that segment
    # the salient object do.
    cfg.INPUT.RESIZE_TEST = "shortest_edge"

    cfg.INPUT.SCALE_CROP = CfgNode()
    # CenterNet's training crop; off, images are resized by Detectron2's MIN_SIZE_TRAIN.
    cfg.INPUT.SCALE_CROP.ENABLED = False
    # (height, width) of the network input: a fixed size wastes nothing on padding in a batch.
    cfg.INPUT.SCALE_CROP.SIZE = (512, 512)
    # Side of the window as a multiple of the one that just holds the image; CenterNet's range.
    cfg.INPUT.SCALE_CROP.SCALE_RANGE = (0.6, 1.4)
    # The window's centre stays so many pixels of the image away from its edges; CenterNet's value.
    cfg.INPUT.SCALE_CROP.BORDER = 128
    # Less of an object's box than this is too little to say what it is: ignored, not learned.
    cfg.INPUT.SCALE_CROP.MIN_VISIBLE = 0.05

    cfg.INPUT.RANDOM_RESIZED_CROP = CfgNode()
    # The training crop of image classifiers and of MAE.
    cfg.INPUT.RANDOM_RESIZED_CROP.ENABLED = False
    # (height, width) of the network input.
    cfg.INPUT.RANDOM_RESIZED_CROP.SIZE = (224, 224)
    # Area of the window as a share of the image's; MAE's pre-training range.
    cfg.INPUT.RANDOM_RESIZED_CROP.SCALE = (0.2, 1.0)
    # Width / height of the window.
    cfg.INPUT.RANDOM_RESIZED_CROP.RATIO = (0.75, 1.3333)
    # (height, width): evaluate on the largest window of this shape in the middle, resized to it;
    # () = on the whole image, resized by MIN_SIZE_TEST.
    cfg.INPUT.CENTER_CROP_TEST = ()

    cfg.INPUT.COLOR_JITTER = CfgNode()
    # Random colours make a small dataset larger; off, because a large one can do without.
    cfg.INPUT.COLOR_JITTER.ENABLED = False
    # Strengths in [0, 1]: each factor is drawn from 1 - strength to 1 + strength; CenterNet's 0.4.
    cfg.INPUT.COLOR_JITTER.BRIGHTNESS = 0.4
    cfg.INPUT.COLOR_JITTER.CONTRAST = 0.4
    cfg.INPUT.COLOR_JITTER.SATURATION = 0.4


def register_datasets(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Register the datasets of ``DATASETS.REGISTER``. Doing it again changes nothing.

    Args:
        entries: one mapping a dataset, with ``NAME``, ``JSON``, ``IMAGE_ROOT`` and optionally
            ``SEM_SEG_ROOT`` (folder of PNG maps named as the images, "" = none),
            ``SEM_SEG_FROM_MASKS`` (default True, if there is no such folder), ``STUFF_CLASSES``
            (names of the ids in the maps), ``SEM_SEG_IDS`` (value in the maps -> class id, such as
            ``{0: 0, 255: 1}``), ``SEM_SEG_IGNORE`` (value or values without a label) and
            ``KEYPOINT_FLIP_PAIRS`` ([left, right] names of keypoints). ``CLASS_NAMES`` and
            ``KEYPOINT_NAMES`` are the network's, ``CATEGORY_MAP`` and ``KEYPOINT_MAP`` which of
            them the file's are (`label_maps`). ``PART_SEG_ROOT``,
            ``BOUNDARY_ROOT``, ``FOREGROUND_ROOT`` and those of other labels of the heads are
            folders of PNG files like ``SEM_SEG_ROOT``, with ``PART_SEG_IDS``, ``PART_SEG_IGNORE``
            and so on like those of semantic maps; ``PART_CLASSES`` names the parts.
            ``TEACHER_ROOT`` is a folder of labels of a network, or several, with
            ``TEACHER_THRESHOLDS`` (`teacher`).
            Without the key ``JSON`` a folder of images: ``NAME``, ``IMAGE_ROOT`` and optionally
            ``IMAGE_RANGE`` ([start, stop] in the order of the names); with ``MASK_ROOT`` (folder of
            foreground masks named as the images) and optionally ``MASK_VALUES`` (``{"BACKGROUND":
            0, "FOREGROUND": 1, "IGNORE": 255}``) or ``MASK_THRESHOLD``.
            With the key ``SHARDS`` (and ``NAME``) tar files of images, see `register_shards`.
            Paths may hold ``~`` and environment variables.

    Returns:
        The names, in order.

    Raises:
        ValueError: a key is missing, misspelt or of the wrong type, or a name is taken.
    """
    if not isinstance(entries, list | tuple):
        raise ValueError(
            f"DATASETS.REGISTER: found {type(entries).__name__}, expected a list of entries with "
            f"the keys {list(_REQUIRED)}"
        )
    names = []
    for index, entry in enumerate(entries):
        _check_entry(entry, f"DATASETS.REGISTER[{index}]")
        names.append(entry["NAME"])
        if "SHARDS" in entry:
            register_shards(entry["NAME"], _expand(entry["SHARDS"]))
            continue
        if "JSON" not in entry:
            root = _expand(entry["IMAGE_ROOT"])
            _register_folder(entry, root, f"DATASETS.REGISTER[{index}]")
            continue
        label_files, metadata = _label_files(entry)
        register_coco_format(
            entry["NAME"],
            _expand(entry["JSON"]),
            _expand(entry["IMAGE_ROOT"]),
            sem_seg_from_masks=entry.get("SEM_SEG_FROM_MASKS", True),
            stuff_classes=entry.get("STUFF_CLASSES"),
            keypoint_flip_pairs=entry.get("KEYPOINT_FLIP_PAIRS"),
            label_files=label_files,
            label_map=LabelMap.from_entry(entry, f"DATASETS.REGISTER[{index}]"),
            teachers=_teachers(entry, f"DATASETS.REGISTER[{index}]"),
            metadata=metadata,
        )
    return names


def _teachers(entry: Mapping[str, Any], where: str) -> list[TeacherLabels]:
    """The folders of ``TEACHER_ROOT``."""
    given = entry.get("TEACHER_THRESHOLDS") or {}
    for key, value in given.items():
        number = as_number(value)
        if str(key).lower() not in Thresholds._fields or number is None or not 0 <= number <= 1:
            known = [field.upper() for field in Thresholds._fields]
            raise ValueError(
                f"{where}: key TEACHER_THRESHOLDS: found {key!r}: {value!r}, expected numbers from "
                f"0 to 1 of some of {known}"
            )
    thresholds = Thresholds(**{key.lower(): float(value) for key, value in given.items()})
    roots = entry.get("TEACHER_ROOT") or []
    roots = [roots] if isinstance(roots, str) else roots
    if not all(isinstance(root, str) and root.strip() for root in roots):
        raise ValueError(
            f"{where}: key TEACHER_ROOT: found {roots!r}, expected a folder or a list of folders"
        )
    if given and not roots:
        raise ValueError(f"{where}: found TEACHER_THRESHOLDS without TEACHER_ROOT")
    return [TeacherLabels(_expand(root), thresholds) for root in roots]


def _register_folder(entry: Mapping[str, Any], root: str, where: str) -> None:
    image_range = entry.get("IMAGE_RANGE")
    if entry.get("MASK_ROOT"):
        register_mask_folder(
            entry["NAME"],
            root,
            _expand(entry["MASK_ROOT"]),
            image_range,
            mask_values=entry.get("MASK_VALUES"),
            mask_threshold=entry.get("MASK_THRESHOLD") or 0,
        )
        return
    for key in _MASK_KEYS:
        if entry.get(key):
            raise ValueError(f"{where}: found {key} without MASK_ROOT, expected a folder of masks")
    register_image_folder(entry["NAME"], root, image_range)


def _check_entry(entry: Any, where: str) -> None:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where}: found {entry!r}, expected the keys {list(_json_keys())}")
    is_folder = "JSON" not in entry and "SHARDS" not in entry
    keys = _FOLDER_KEYS if is_folder else _SHARD_KEYS if "SHARDS" in entry else _json_keys()
    required = [key for key in (*_REQUIRED, "SHARDS") if key in keys]
    without = ", without the key JSON (which makes it a folder of images)" if is_folder else ""
    for key, value in entry.items():
        if key not in keys:
            close = difflib.get_close_matches(str(key).upper(), [*keys, "SHARDS"], n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(
                f"{where}: found key {key!r}, expected one of {list(keys)}{without}{hint}"
            )
        if key not in required and value is None:
            continue
        if not isinstance(value, keys[key]):
            named = "a mapping" if keys[key] is Mapping else getattr(keys[key], "__name__", "")
            expected = "a list" if isinstance(keys[key], tuple) else named
            expected = "a folder or a list of folders" if key == "TEACHER_ROOT" else expected
            if key.endswith("_IGNORE"):
                expected = "a number or a list of numbers"
            raise ValueError(f"{where}: key {key}: found {value!r}, expected {expected}")
    for key in required:
        if not entry.get(key):
            raise ValueError(f"{where}: key {key}: found nothing, expected a value")


def _expand(path: str | None) -> str:
    if not path:
        return ""
    if "DETECTRON2_DATASETS" not in os.environ:  # the one variable that has a default
        path = re.sub(r"\$(DETECTRON2_DATASETS\b|\{DETECTRON2_DATASETS\})", "datasets", path)
    return os.path.expanduser(os.path.expandvars(path))
