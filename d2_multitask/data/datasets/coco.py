"""COCO-format JSON files as Detectron2 datasets.

In Python, a dataset of one's own takes three lines:

    from d2_multitask.data.datasets.coco import register_coco_format

    register_coco_format("my_people", "annotations.json", "images")

Classes, keypoints, skeleton and left/right pairs are read from the JSON's categories. Registering
reads nothing; the JSON is read when the dataset is first used. What makes the file unusable is a
``ValueError`` that names file and field; what concerns one object is counted in the data report.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager

from d2_multitask.data.datasets.catalog import BACKGROUND, log_size, register
from d2_multitask.data.datasets.coco_annotations import (
    ObjectReader,
    as_category_id,
    as_id,
    other_form,
    shown,
)
from d2_multitask.data.datasets.coco_json import (
    Categories,
    no_collection,
    read_categories,
    read_images,
    read_json,
)
from d2_multitask.data.datasets.label_maps import LabelMap
from d2_multitask.data.datasets.teacher import TeacherLabels
from d2_multitask.data.labels.base import IGNORE_VALUE, checked_ids, checked_ignore
from d2_multitask.data.labels.sem_seg import open_as_class_ids
from d2_multitask.data.problems import DATA_REPORT, Problem

EVALUATOR_TYPE = "multitask_coco"

OTHER_FORM = "image id written as text where the image has a number, or the reverse"
UNKNOWN_IMAGE = "annotation of an unknown image, left out"
NO_LABEL_FILE = "image without a file of {!r}, not used for it"

# Metadata that must not change between the registration and the file.
_FIXED_METADATA = (
    "thing_classes",
    "thing_dataset_id_to_contiguous_id",
    "keypoint_names",
    "stuff_classes",
)


@dataclass(frozen=True)
class LabelFiles:
    """A folder of label files that have the images' names.

    Attributes:
        key: of the label: ``sem_seg``, ``part_seg``, ``boundary``, ``foreground`` or that of
            another head.
        root: the folder, of PNG files of class ids (255 = no label).
        ids: value in the files -> class id, or pairs of both, if the values are not the ids.
        ignore: value or values that mean no label.
    """

    key: str
    root: str
    ids: Mapping[int, int] | tuple[tuple[int, int], ...] | None = None
    ignore: int | Sequence[int] | None = None

    def checked(self, where: str) -> LabelFiles:
        """The same with values that can be compared and hashed.

        Raises:
            ValueError: the values of files are no numbers, or there is no folder.
        """
        prefix = self.key.upper()
        ids = dict(self.ids) if isinstance(self.ids, tuple) else self.ids
        ids = checked_ids(f"{where} {prefix}_IDS", ids)
        ignore = checked_ignore(f"{where} {prefix}_IGNORE", self.ignore)
        if not self.root:
            found = f"{prefix}_{'IGNORE' if self.ids is None else 'IDS'}"
            raise ValueError(f"{where} found {found} without {prefix}_ROOT, expected a folder")
        return LabelFiles(self.key, str(self.root), ids, ignore)

    def fields(self, path: str) -> dict[str, Any]:
        """What an image's dict says about its file."""
        values: dict[str, Any] = {f"{self.key}_file_name": path}
        if self.ids is not None:
            values[f"{self.key}_ids"] = dict(self.ids)
        if self.ignore is not None:
            values[f"{self.key}_ignore"] = self.ignore
        return values


@dataclass(frozen=True)
class CocoFormatDataset:
    """What ``DatasetCatalog`` holds for a registered COCO-format dataset; calling it loads it.

    Attributes: as the arguments of ``register_coco_format``; semantic maps are in `label_files`.
    """

    name: str
    json_file: str
    image_root: str
    sem_seg_from_masks: bool = True
    stuff_classes: tuple[str, ...] | None = None
    keypoint_flip_pairs: tuple[tuple[str, str], ...] | None = None
    label_files: tuple[LabelFiles, ...] = ()
    label_map: LabelMap | None = None
    teachers: tuple[TeacherLabels, ...] = ()

    @property
    def has_sem_seg_files(self) -> bool:
        """Whether semantic maps are files, not derived from masks."""
        return any(files.key == "sem_seg" for files in self.label_files)

    @no_collection()
    def __call__(self) -> list[dict[str, Any]]:
        """Load the dataset and publish its metadata.

        Returns:
            Detectron2's dicts in the order of the file. ``annotations`` is absent if the JSON has
            no such field; ``sem_seg_file_name`` or ``sem_seg_from_annotations`` is present where a
            semantic map is known.

        Raises:
            ValueError: the file cannot be used; the message names file, field, found and expected.
        """
        content = read_json(self.json_file)
        problems: list[Problem] = []
        records = read_images(content, self.name, self.json_file, self.image_root, problems)
        metadata: dict[str, Any] = {}
        if "annotations" in content:
            named = self.label_map is not None and self.label_map.keypoint_names
            pairs = None if named else self.keypoint_flip_pairs  # else of the network's
            categories = read_categories(content.get("categories"), self.json_file, pairs)
            problems += categories.problems
            metadata.update(categories.as_metadata())
            self._read_annotations(content["annotations"], records, categories, problems)
            if self.label_map is not None:
                space = self.label_map.space(f"Dataset {self.name!r}:", categories)
                flips = self.keypoint_flip_pairs if named else metadata.get("keypoint_flip_map")
                metadata.update(space.metadata(f"Dataset {self.name!r}:", flips))
                space.to_network(records.values())
                space.log(self.name)
        dataset_dicts = list(records.values())
        for files in self.label_files:
            self._add_files(dataset_dicts, files, problems)
        if self.has_sem_seg_files or self._derive_sem_seg(dataset_dicts):
            metadata["stuff_classes"] = self._stuff_classes(metadata)
            metadata["ignore_label"] = IGNORE_VALUE
            ids = range(len(metadata["stuff_classes"]))
            metadata["stuff_dataset_id_to_contiguous_id"] = dict(zip(ids, ids, strict=True))
            self._say_hidden(dataset_dicts, metadata["stuff_classes"])
            open_as_class_ids(self.name, dataset_dicts)
        if self.teachers:
            self._add_teachers(dataset_dicts, metadata, problems)
        self._publish(metadata)
        DATA_REPORT.extend(problems)
        log_size(self.name, self.json_file, dataset_dicts)
        return dataset_dicts

    def _read_annotations(
        self,
        annotations: Any,
        records: Mapping[int | str, dict[str, Any]],
        categories: Categories,
        problems: list[Problem],
    ) -> None:
        """Put the annotations into their images' dicts."""
        if not isinstance(annotations, list):
            raise ValueError(
                f"{self.json_file}: field 'annotations': found {type(annotations).__name__}, "
                "expected a list"
            )
        for record in records.values():
            record["annotations"] = []
        num_before, num_kept = len(problems), 0
        reader = ObjectReader(
            categories.contiguous_ids, len(categories.keypoint_names), problems=problems
        )
        for index, annotation in enumerate(annotations):
            where = f"{self.json_file}: annotations[{index}]"
            if not isinstance(annotation, dict):
                raise ValueError(f"{where}: found {type(annotation).__name__}, expected an object")
            where += f" (id {shown(annotation.get('id'))})"
            if reader.is_listed_twice(annotation, where):
                continue
            record = _image_of(annotation, records, where, problems)
            if record is None:
                continue
            where += f" of image {record['file_name']}"
            label = reader.read(annotation, record["height"], record["width"], where)
            if label is not None:
                record["annotations"].append(label)
                category_id = as_category_id(annotation.get("category_id"))
                num_kept += category_id in categories.contiguous_ids
        if annotations and not num_kept:
            raise ValueError(
                f"{self.json_file}: none of its {len(annotations)} annotations can be used. The "
                f"first problem: {problems[num_before]}"
            )

    def _derive_sem_seg(self, dataset_dicts: list[dict[str, Any]]) -> bool:
        """Say of each image that its semantic map is derived from masks, if there are any."""
        if not self.sem_seg_from_masks or not any(
            "segmentation" in annotation
            for record in dataset_dicts
            for annotation in record.get("annotations", ())
        ):
            return False  # boxes alone would teach that everything is background
        for record in dataset_dicts:
            record["sem_seg_from_annotations"] = True
        return True

    def _add_teachers(
        self,
        dataset_dicts: list[dict[str, Any]],
        metadata: dict[str, Any],
        problems: list[Problem],
    ) -> None:
        """Add the labels of networks where there are no true ones."""
        if self.stuff_classes is not None:
            metadata.setdefault("stuff_classes", list(self.stuff_classes))
        names = [os.path.splitext(self.relative_name(r))[0] for r in dataset_dicts]
        for teacher in self.teachers:
            teacher.add_to(self.name, dataset_dicts, names, metadata, problems)
        if "stuff_classes" in metadata:
            metadata.setdefault("ignore_label", IGNORE_VALUE)

    def relative_name(self, record: Mapping[str, Any]) -> str:
        """The image below its folder; without suffix the name of its files of labels."""
        relative = os.path.relpath(record["file_name"], self.image_root)
        if relative.startswith(os.pardir):  # an absolute file name
            relative = os.path.basename(relative)
        return relative

    def _add_files(
        self,
        dataset_dicts: list[dict[str, Any]],
        files: LabelFiles,
        problems: list[Problem],
    ) -> None:
        """Name the files that are there in the images' dicts; count the others."""
        listed: dict[str, set[str]] = {}
        found = False
        for record in dataset_dicts:
            name = os.path.splitext(self.relative_name(record))[0]
            path = os.path.join(files.root, f"{name}.png")
            folder, file_name = os.path.split(path)
            if folder not in listed:
                exists = PathManager.isdir(folder)
                listed[folder] = set(PathManager.ls(folder)) if exists else set()
            if file_name in listed[folder]:
                record.update(files.fields(path))
                found = True
            else:
                kind = NO_LABEL_FILE.format(files.key)
                problems.append(Problem(kind, path, "the file does not exist"))
        if not found:
            raise ValueError(
                f"Dataset {self.name!r}: field '{files.key}_root': found no map of its "
                f"{len(dataset_dicts)} images in {files.root}, expected files such as {path}"
            )

    def _say_hidden(self, dataset_dicts: list[dict[str, Any]], names: Sequence[str]) -> None:
        """Say of each image which classes are background in its map because of no label."""
        if names[0] != BACKGROUND:
            return
        ids = next((f.ids for f in self.label_files if f.key == "sem_seg"), None)
        for record in dataset_dicts:
            if ids is not None:
                labelled = {0, *dict(ids).values()}
                hidden = [number not in labelled for number in range(len(names))]
            elif "sem_seg_from_annotations" in record and "labelled_classes" in record:
                hidden = [False, *(not x for x in record["labelled_classes"])]
            else:
                continue
            if any(hidden):
                record["sem_seg_hidden"] = hidden

    def _stuff_classes(self, metadata: Mapping[str, Any]) -> list[str]:
        where = f"Dataset {self.name!r}: field 'stuff_classes'"
        if self.stuff_classes is None and "thing_classes" not in metadata:
            raise ValueError(
                f"{where}: found nothing, expected the names of the semantic classes, because "
                f"{self.json_file} has no annotations to tell them"
            )
        default = [BACKGROUND, *metadata.get("thing_classes", ())]
        names = default if self.stuff_classes is None else list(self.stuff_classes)
        if not self.has_sem_seg_files and len(names) != len(default):
            raise ValueError(
                f"{where}: found {names}, expected {len(default)} names: the background and one "
                "for each category, because the semantic map is derived from the objects' masks"
            )
        return names

    def _publish(self, values: Mapping[str, Any]) -> None:
        """Set metadata that the registration did not set; what it did set wins, but must agree."""
        metadata = MetadataCatalog.get(self.name)
        for key, value in values.items():
            known = metadata.get(key)
            if known is None:
                metadata.set(**{key: value})
            elif key in _FIXED_METADATA and type(value)(known) != value:
                raise ValueError(
                    f"{self.json_file}: {key} of dataset {self.name!r}: found {value}, expected "
                    f"{known} as registered"
                )


def register_coco_format(
    name: str,
    json_file: str,
    image_root: str,
    *,
    sem_seg_root: str | None = None,
    sem_seg_from_masks: bool = True,
    stuff_classes: Sequence[str] | None = None,
    keypoint_flip_pairs: Sequence[Sequence[str]] | None = None,
    sem_seg_ids: Mapping[int, int] | None = None,
    sem_seg_ignore: int | Sequence[int] | None = None,
    label_files: Sequence[LabelFiles] = (),
    label_map: LabelMap | None = None,
    teachers: Sequence[TeacherLabels] = (),
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Register a COCO-format dataset under a name. Nothing is read until it is used.

    Registering the same again does nothing.

    Args:
        name: the name for ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        json_file: COCO's format: ``images``, ``annotations``, ``categories`` (with keypoints and
            skeleton). Without ``annotations`` the images are unlabelled.
        image_root: folder that the JSON's ``file_name`` is relative to.
        sem_seg_root: folder with semantic maps, PNG of class ids (255 = ignore) that have the
            images' names.
        sem_seg_from_masks: without ``sem_seg_root``, derive the semantic map from the objects'
            masks, if there are any: class = category + 1, 0 = background, crowds ignored.
        stuff_classes: names of the ids in the semantic maps; ``None`` is "background" followed by
            the JSON's categories.
        keypoint_flip_pairs: (left, right) keypoint names; ``None`` finds them by name.
        sem_seg_ids: value in the maps -> class id, such as ``{0: 0, 255: 1}``; ``None`` = the
            values are the ids.
        sem_seg_ignore: value or values in the maps that mean no label; ``None`` = 255, if it is
            not in ``sem_seg_ids``.
        label_files: folders of other labels.
        label_map: the network's classes and keypoints, where they are not the file's. Then
            ``keypoint_flip_pairs`` are the network's too.
        teachers: labels of networks, the first ones first, for what is not labelled otherwise.
        metadata: further metadata, known before the file is read; may replace
            ``evaluator_type``.

    Raises:
        ValueError: the name is taken by another dataset, or the values of maps are no numbers.
    """
    where = f"Dataset {name!r}:"
    if sem_seg_root or sem_seg_ids is not None or sem_seg_ignore is not None:
        sem_seg = LabelFiles("sem_seg", sem_seg_root or "", sem_seg_ids, sem_seg_ignore)
        label_files = [sem_seg, *label_files]
    label_files = tuple(files.checked(where) for files in label_files)
    dataset = CocoFormatDataset(
        name=name,
        json_file=str(json_file),
        image_root=str(image_root),
        sem_seg_from_masks=sem_seg_from_masks,
        stuff_classes=None if stuff_classes is None else tuple(stuff_classes),
        keypoint_flip_pairs=(
            None if keypoint_flip_pairs is None else tuple(map(tuple, keypoint_flip_pairs))
        ),
        label_files=label_files,
        label_map=label_map,
        teachers=tuple(teachers),
    )
    values = {"evaluator_type": EVALUATOR_TYPE, **(metadata or {})}
    values |= {"json_file": dataset.json_file, "image_root": dataset.image_root}
    for files in label_files:
        if files.key == "sem_seg":
            values["sem_seg_root"] = files.root
    register(name, dataset, **values)


def _image_of(
    annotation: Mapping[str, Any],
    records: Mapping[int | str, dict[str, Any]],
    where: str,
    problems: list[Problem],
) -> dict[str, Any] | None:
    image_id = as_id(annotation.get("image_id"))  # no image has the id None
    record = records.get(image_id)
    if record is None:  # VIA writes 0 in the image and "0" here
        record = records.get(other_form(image_id))
        if record is not None:
            details = f"field 'image_id': found {shown(image_id)}"
            problems.append(Problem(OTHER_FORM, where, details))
    if record is None:
        found = shown(annotation.get("image_id"))
        details = f"field 'image_id': found {found}, expected the id of one of the images"
        problems.append(Problem(UNKNOWN_IMAGE, where, details))
    return record
