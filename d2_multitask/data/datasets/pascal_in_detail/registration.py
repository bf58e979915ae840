"""Names in Detectron2's catalogues for PASCAL in Detail and for files in its layout.

<root>/
VOCdevkit/VOC2010/JPEGImages/*.jpg      (VOC2012's are a superset and are taken as well)
pascal_in_detail/trainval_withkeypoints.json
pascal_in_detail/trainval_merged.json   (taken if the file with joints is not there)
"""

from __future__ import annotations

import os
from pathlib import Path

from d2_multitask.data.datasets.catalog import register
from d2_multitask.data.datasets.pascal_in_detail.loader import PascalInDetail
from d2_multitask.data.datasets.pascal_in_detail.names import pascal_in_detail_metadata

EVALUATOR_TYPE = "pascal_in_detail"
WITH_JOINTS, WITHOUT_JOINTS = "trainval_withkeypoints.json", "trainval_merged.json"


def register_pascal_in_detail(root: str) -> None:
    """Register ``pascal_in_detail_{train,val}`` and ``pascal_in_detail_person_{train,val}``.

    Nothing is read but whether files are there.

    Args:
        root: the folder of all datasets, as above.
    """
    register_detail_layout("pascal_in_detail", *find_files(root))


def register_synthetic_in_detail(root: str) -> None:
    """Register ``synthetic_in_detail_{train,val}`` and ``synthetic_in_detail_person_{train,val}``.

    The drawn images have PASCAL in Detail's layout below ``<root>/synthetic_in_detail``.
    """
    register_detail_layout(
        "synthetic_in_detail", *find_files(os.path.join(root, "synthetic_in_detail"))
    )


def find_files(root: str) -> tuple[str, str]:
    """Annotation file and image folder below a root; the preferred ones if none is there."""
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
