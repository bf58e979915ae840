"""What is written of each image, what an earlier run has left, and how good it is.

    OUTPUT/
        settings.json           what the segments depend on
        labels/<name>.png       segment of each pixel, 0, 1, ... (8 bits, or 16 if there are more)
        foreground/<name>.png   255 = object
        overlays/<name>.png     segments over the image
        strips/<name>.png       from patches to segments
        strips.png              those of the first images
        graphs/<name>.npz       the graph of the patches
        records/<name>.json     segments and objects as COCO annotations, costs
        segments.json           all segments of all images, COCO format
        objects.json            the foregrounds' connected parts, or MaskCut's objects, COCO format

Contract: each file is written in one step, the record of an image last. A record means that the
image is done, if it is of that file as it is now; who stops the program loses the image
at work and no other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util

from d2_multitask.data.io import read_label_map
from d2_multitask.data.labels.masks import encode
from d2_multitask.data.whole_files import whole_file, write_json, write_png
from d2_multitask.evaluation.segments import SegmentsEvaluator, mask_files, read_object_mask
from d2_multitask.patch_graph import Segmentation
from d2_multitask.patch_graph.graph import save_npz
from d2_multitask.patch_graph.maskcut import MASKCUT
from d2_multitask.segmenting.images import ImageFiles

SEGMENTS = "segments"
OBJECTS = "objects"
CATEGORY_NAMES = {SEGMENTS: "segment", OBJECTS: "object"}
MIN_AREA = 0.005  # share of the image
SETTINGS_FILE = "settings.json"
SHEET_NAME = "strips.png"
PICTURES = ("overlays", "strips")
# Folder -> ending; records first: while all are removed none is without its files.
KINDS = {
    "records": ".json",
    "graphs": ".npz",
    **dict.fromkeys(("labels", "foreground", *PICTURES), ".png"),
}
# Fields of settings.json that earlier versions wrote and no option could change.
FIXED_SETTINGS = ("batch_size", "overlap", "power", "relation_settings")
RESULTS = (
    *(f"{kind}/**/*{ending}" for kind, ending in KINDS.items()),
    *(f"{SEGMENTS}.json", f"{OBJECTS}.json", SHEET_NAME),
)


class OutputFolder:
    """The folder of one run, or of several with the same settings."""

    def __init__(self, path: Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        """
        Args:
            path: made if it is not there.
            settings: everything that the segments depend on, as JSON can hold it.
            overwrite: forget an earlier run with other settings.

        Raises:
            ValueError: an earlier run had other settings; says which.
        """
        self.path = path
        self.settings = claim_folder(path, settings, RESULTS, overwrite)

    def file(self, kind: str, name: str) -> Path:
        """Where a file of an image is; ``name`` as of `ImageFiles.outputs`."""
        return self.path / kind / f"{name}{KINDS[kind]}"

    def record(self, name: str) -> dict[str, Any] | None:
        """What is known of an image that is done, else ``None``."""
        try:
            return json.loads(self.file("records", name).read_text())
        except (OSError, ValueError):
            return None

    def missing(self, files: ImageFiles, pictures: Sequence[str] = ()) -> list[tuple[str, str]]:
        """Name and output's name of the images that are not done, or have changed since.

        So are those without one of the ``pictures`` (of `PICTURES`). Records of what was done are
        removed, so one process has to ask before the others.
        """
        missing = []
        for name, output in zip(files.names, files.outputs(), strict=True):
            found, now = self.record(output), files.modified(name)
            # records of earlier versions do not have the time
            if (
                found is None
                or found["file_name"] != files.file_name(name)
                or found.get("modified", now) != now
                or not all(self.file(kind, output).is_file() for kind in pictures)
            ):
                self.file("records", output).unlink(missing_ok=True)
                missing.append((name, output))
        return missing

    def save(
        self,
        name: str,
        file_name: str,
        result: Segmentation,
        pictures: Mapping[str, np.ndarray],
        modified: float,
    ) -> dict[str, Any]:
        """Write all files of an image; returns its record.

        Args:
            name: see `file`.
            file_name: of the image, below the folder of all images.
            result: its segments.
            pictures: those of `PICTURES` that are wanted, (H, W, 3) uint8 RGB.
            modified: see `ImageFiles.modified`, before the image was read.
        """
        labels, mask = result.pixel_labels, result.foreground_mask
        dtype = np.uint8 if labels.max() < 256 else np.uint16
        write_png(self.file("labels", name), labels.astype(dtype), compress_level=6)
        if result.foreground is not None:
            shown = np.zeros(labels.shape, np.uint8) if mask is None else mask.astype(np.uint8)
            write_png(self.file("foreground", name), shown * 255, compress_level=6)
        for kind, picture in pictures.items():
            write_png(self.file(kind, name), picture, compress_level=6)
        with whole_file(self.file("graphs", name)) as unfinished, unfinished.open("wb") as file:
            save_npz(result.graph, file)
        record = {**record_of(file_name, result), "modified": modified}
        write_json(self.file("records", name), record)
        return record

    def write_datasets(self, names: Sequence[str], min_score: float = 0.0) -> list[Path]:
        """Write ``segments.json``, and ``objects.json`` if a foreground was asked for.

        Args:
            names: the images; those that are not done are left out.
            min_score: of objects.

        Returns:
            The files.
        """
        records = [record for record in map(self.record, names) if record is not None]
        info = {"description": "Segments found without labels", "settings": self.settings}
        paths = []
        for what in (SEGMENTS, OBJECTS):
            if what == OBJECTS and not any("foreground" in record for record in records):
                continue
            least = min_score if what == OBJECTS else 0.0
            paths.append(self.path / f"{what}.json")
            write_json(paths[-1], coco_json(records, what, info, least))
        return paths


def record_of(file_name: str, result: Segmentation) -> dict[str, Any]:
    """What is kept of an image besides its pictures, as JSON can hold it."""
    height, width = result.pixel_labels.shape
    record: dict[str, Any] = {
        "file_name": file_name,
        "height": height,
        "width": width,
        "grid_hw": list(result.graph.grid_hw),
        "passes": result.passes,
        "seconds": {stage: round(s, 4) for stage, s in result.seconds.items()},
        "scores": [round(float(score), 6) for score in result.scores],
        SEGMENTS: segment_annotations(result.pixel_labels, result.scores),
        OBJECTS: [],
    }
    if result.foreground is not None:
        score = float(result.foreground.score)
        score = score if math.isfinite(score) else None  # there was nothing to choose from
        found = result.foreground_mask is not None
        record["foreground"] = {"rule": result.foreground.rule, "score": score, "found": found}
        if result.foreground.rule == MASKCUT:  # several objects, which may touch
            record[OBJECTS] = [a for a in record[SEGMENTS] if a["score"] > 0]
        else:
            record[OBJECTS] = object_annotations(result.foreground_mask, score)
    return record


def claim_folder(
    path: Path, settings: Mapping[str, Any], results: Sequence[str], overwrite: bool
) -> dict[str, Any]:
    """Make a folder that holds results of these settings only, and say so in a file there.

    Args:
        path: the folder; made if it is not there.
        settings: everything that the results depend on, as JSON can hold it.
        results: patterns of the files below it that depend on the settings.
        overwrite: remove such files of an earlier run with other settings, or unknown ones.

    Returns:
        The settings as JSON gives them back.

    Raises:
        ValueError: there are results of other settings, says which, or of unknown ones.
    """
    file = path / SETTINGS_FILE
    wanted = json.loads(json.dumps(settings))
    found = _read_settings(file)
    same = found is not None and _given(found) == _given(wanted)
    old = [] if same else [result for pattern in results for result in path.glob(pattern)]
    if old:
        if not overwrite:
            difference = "unknown ones" if found is None else _difference(found, wanted)
            raise ValueError(
                f"{file}: an earlier run had other settings: {difference}; pass "
                "--overwrite to replace its results, or use another --output"
            )
        for result in old:
            result.unlink(missing_ok=True)
    if found != wanted:  # several processes may be here
        write_json(file, wanted, indent=1)
    return wanted


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without those that are ``None``, which earlier versions did not know."""
    return {key: value for key, value in settings.items() if value is not None}


def _read_settings(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return {key: value for key, value in found.items() if key not in FIXED_SETTINGS}


def _difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    keys = [k for k in sorted({*found, *expected}) if found.get(k) != expected.get(k)]
    return "; ".join(f"{k}: found {found.get(k)!r}, now {expected.get(k)!r}" for k in keys)


def segment_annotations(
    labels: np.ndarray, scores: Sequence[float], min_area: float = MIN_AREA
) -> list[dict[str, Any]]:
    """Every segment of an image, background or not, as COCO annotations without ids.

    ``labels`` is (H, W), and segment s has ``scores[s]``. Segments smaller than ``min_area``, a
    share of the image, are left out.
    """
    masks = ((labels == number, float(scores[number])) for number in np.unique(labels))
    return [_annotation(m, score) for m, score in masks if m.sum() >= min_area * m.size]


def object_annotations(
    foreground: np.ndarray | None, score: float, min_area: float = MIN_AREA
) -> list[dict[str, Any]]:
    """The connected parts of the foreground (H, W) bool, largest first; ``None`` = no object.

    As `segment_annotations`; all have the score of the decision.
    """
    if foreground is None:
        return []
    count, parts = cv2.connectedComponents(foreground.astype(np.uint8), connectivity=8)
    masks = [parts == number for number in range(1, count)]
    masks = sorted((m for m in masks if m.sum() >= min_area * m.size), key=lambda m: -m.sum())
    return [_annotation(mask, float(score)) for mask in masks]


def _annotation(mask: np.ndarray, score: float) -> dict[str, Any]:
    rle = encode(mask)
    return {
        "category_id": 1,
        "iscrowd": 0,
        "bbox": mask_util.toBbox(rle).tolist(),
        "area": int(mask.sum()),
        "segmentation": rle,
        "score": round(score, 6),
    }


def coco_json(
    records: Iterable[Mapping[str, Any]], what: str, info: Mapping[str, Any], min_score: float
) -> dict[str, Any]:
    """The records of images as one COCO file.

    Args:
        records: of `OutputFolder`, with ``file_name``, ``height``, ``width`` and ``what``.
        what: `SEGMENTS` or `OBJECTS`.
        info: goes into the file.
        min_score: annotations below it are left out.

    Returns:
        COCO's dict; images without any annotation are in it as well.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, record in enumerate(records, start=1):
        images.append({"id": image_id, **{k: record[k] for k in ("file_name", "height", "width")}})
        for annotation in record[what]:
            if annotation["score"] >= min_score:
                ids = {"id": len(annotations) + 1, "image_id": image_id}
                annotations.append({**ids, **annotation})
    return {
        "info": dict(info),
        "categories": [{"id": 1, "name": CATEGORY_NAMES[what]}],
        "images": images,
        "annotations": annotations,
    }


def evaluate_folder(
    folder: OutputFolder, files: ImageFiles, mask_root: str | Path
) -> dict[str, float]:
    """Score the segments of all images that are done.

    Args:
        folder: has the segments.
        files: the images.
        mask_root: folder with a mask of each, see `mask_files`.

    Returns:
        Metric -> value, see `SegmentsEvaluator`.

    Raises:
        ValueError: masks are missing or broken.
    """
    done = {
        name: (output, record)
        for name, output in zip(files.names, files.outputs(), strict=True)
        if (record := folder.record(output)) is not None
    }
    masks = mask_files(mask_root, list(done))
    evaluator = SegmentsEvaluator(distributed=False)  # one process has the files of all
    for image_id, (name, (output, record)) in enumerate(done.items(), start=1):
        size = (record["height"], record["width"])
        prediction = {
            "segments": read_label_map(str(folder.file("labels", output))).astype(np.int64),
            "scores": record["scores"],
            "grid_hw": tuple(record["grid_hw"]),
        }
        if record.get("foreground", {}).get("found"):
            prediction["foreground"] = read_object_mask(folder.file("foreground", output))
        label = {"image_id": image_id, "objects": read_object_mask(masks[name], size).astype(int)}
        evaluator.process([label], [prediction])
    return evaluator.evaluate()["segments"]
