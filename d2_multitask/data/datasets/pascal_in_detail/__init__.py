"""PASCAL in Detail -> Detectron2's dicts, all labels of an image in one dict.

One pass over the file; masks are not decoded. A label that an image does not carry is a key that
its dict does not have. Beside Detectron2's own keys (``annotations`` holds the 20 classes with
instances, as run-length masks):

- ``sem_seg_segments``: ``category_id`` (0..58) and ``segmentation``, painted in order over 255;
- ``part_seg_segments``: ``category_id`` (1..6, or 255 for people without part labels) and
  ``segmentation``, painted in order over 0; absent if no person of the image has parts;
- ``boundary_segmentation``: one mask;
- ``occlusion_fragments``: ``indices`` and ``labels``, see `d2_multitask.data.labels.edges`;
- ``image_labels``: sorted classes (0..58) that the image shows;
- ``unmatched_keypoints``: skeletons that belong to none of the instances.

The labels in `d2_multitask.data.labels` make maps of them.
"""

from __future__ import annotations

import functools
import logging
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2_multitask.data.datasets.catalog import log_size, register
from d2_multitask.data.datasets.coco_json import no_collection
from d2_multitask.data.datasets.pascal_in_detail.annotation_file import (
    AnnotationFile,
    phase_counts,
    read_annotation_file,
)
from d2_multitask.data.datasets.pascal_in_detail.joints import MatchCounts, add_joints
from d2_multitask.data.datasets.pascal_in_detail.labels import (
    PERSON_CLASS,
    add_boundaries,
    add_occlusions,
    add_segmentation,
)
from d2_multitask.data.datasets.pascal_in_detail.names import pascal_in_detail_metadata
from d2_multitask.data.problems import DATA_REPORT, Problem

logger = logging.getLogger(__name__)

EVALUATOR_TYPE = "pascal_in_detail"
WITH_JOINTS, WITHOUT_JOINTS = "trainval_withkeypoints.json", "trainval_merged.json"

Record = dict[str, Any]


@dataclass(frozen=True)
class LoadedPhase:
    """One phase of a file.

    Attributes:
        dataset_dicts: in the order of the file's images.
        matches: how many skeletons found their person; ``None`` if the file has no keypoints.
        problems: what was wrong in this phase, or in the file as a whole.
    """

    dataset_dicts: list[Record]
    matches: MatchCounts | None
    problems: list[Problem]


@dataclass(frozen=True)
class PascalInDetail:
    """What ``DatasetCatalog`` holds for a registered phase; calling it loads it.

    Attributes:
        name: registered name.
        annotation_file: path of ``trainval_merged.json`` or ``trainval_withkeypoints.json``.
        image_root: folder of the images.
        phase: "train" or "val".
        person_only: keep the people among the objects only, as class 0; the other labels stay.
    """

    name: str
    annotation_file: str
    image_root: str
    phase: str
    person_only: bool = False

    def __call__(self) -> list[Record]:
        """Load the phase; problems go to the data report.

        Raises:
            ValueError: the file cannot be used, or has no image of the phase.
        """
        loaded = remembered_phase(self.annotation_file, self.image_root, self.phase)
        DATA_REPORT.extend(loaded.problems)
        if loaded.matches is not None:
            logger.info("Dataset %s: %s", self.name, loaded.matches)
        if self.person_only:
            for record in loaded.dataset_dicts:
                keep_people(record)
        log_size(self.name, self.annotation_file, loaded.dataset_dicts)
        return loaded.dataset_dicts


def load_phase(annotation_file: str, image_root: str, phase: str) -> LoadedPhase:
    """Load the images of one phase.

    Raises:
        ValueError: the file cannot be used, or has no image of the phase.
    """
    return read_phase(read_annotation_file(annotation_file), image_root, phase)


@functools.lru_cache(maxsize=2)  # both phases of a file
def _pickled_phase(
    annotation_file: str, image_root: str, phase: str, modified: int, size: int
) -> bytes:
    return pickle.dumps(load_phase(annotation_file, image_root, phase), pickle.HIGHEST_PROTOCOL)


def remembered_phase(annotation_file: str, image_root: str, phase: str) -> LoadedPhase:
    """As :func:`load_phase`; a file that has not changed since is not read again.

    The loader, the evaluator and pictures all ask for the same phase. It is kept as bytes, which
    take a tenth of the dicts' memory, so that each gets a copy that it may change.

    Raises:
        ValueError: as :func:`load_phase`.
    """
    try:
        status = os.stat(annotation_file)
    except OSError:
        return load_phase(annotation_file, image_root, phase)  # which says what is wrong
    key = (annotation_file, image_root, phase, status.st_mtime_ns, status.st_size)
    with no_collection():
        return pickle.loads(_pickled_phase(*key))


def read_phase(file: AnnotationFile, image_root: str, phase: str) -> LoadedPhase:
    """The images of one phase of a file that is read already.

    Raises:
        ValueError: the file has no image of the phase.
    """
    num_known = len(file.problems)
    records = {
        image_id: {
            "file_name": os.path.join(image_root, image["file_name"]),
            "image_id": image_id,
            "height": image["height"],
            "width": image["width"],
        }
        for image_id, image in file.images.items()
        if image["phase"] == phase
    }
    if not records:
        raise ValueError(
            f"{file.path}: field 'phase' of the images: found {phase_counts(file)}, expected some "
            f"of phase {phase!r}"
        )
    add_segmentation(file, records)
    add_boundaries(file, records)
    add_occlusions(file, records)
    matches = add_joints(file, records)
    problems = file.problems[:]
    del file.problems[num_known:]  # the file may be read for another phase
    return LoadedPhase(list(records.values()), matches, problems)


def keep_people(record: Record) -> None:
    """Leave out all objects but people, who become class 0, in place."""
    if "annotations" not in record:
        return
    people = [a for a in record["annotations"] if a["category_id"] == PERSON_CLASS]
    record["annotations"] = [{**person, "category_id": 0} for person in people]


def find_files(root: str) -> tuple[str, str]:
    """Annotation file and image folder below a root; the first ones if none is there.

    VOCdevkit/VOC2010/JPEGImages/*.jpg      (VOC2012's are a superset and are taken as well)
    pascal_in_detail/trainval_withkeypoints.json
    pascal_in_detail/trainval_merged.json   (without keypoints; taken if the other is not there)
    """
    folder = Path(root) / "pascal_in_detail"
    files = [folder / name for name in (WITH_JOINTS, WITHOUT_JOINTS)]
    images = [Path(root) / "VOCdevkit" / year / "JPEGImages" for year in ("VOC2010", "VOC2012")]
    annotation_file = next((path for path in files if path.is_file()), files[0])
    image_root = next((path for path in images if path.is_dir()), images[0])
    return str(annotation_file), str(image_root)


def register_detail_layout(name: str, annotation_file: str, image_root: str) -> None:
    """Register both phases of a file, with all objects and with people only.

    Registering the same again does nothing.

    Args:
        name: of the dataset; the registered names are ``<name>_train``, ``<name>_val``,
            ``<name>_person_train`` and ``<name>_person_val``.
        annotation_file: in PASCAL in Detail's layout.
        image_root: folder of its images.

    Raises:
        ValueError: a name is taken by another dataset.
    """
    for phase in ("train", "val"):
        for person_only in (False, True):
            full_name = f"{name}_person_{phase}" if person_only else f"{name}_{phase}"
            dataset = PascalInDetail(full_name, annotation_file, image_root, phase, person_only)
            # Not "json_file": whoever reads that expects COCO's format.
            register(
                full_name,
                dataset,
                annotation_file=annotation_file,
                image_root=image_root,
                evaluator_type=EVALUATOR_TYPE,
                **pascal_in_detail_metadata(person_only),
            )
