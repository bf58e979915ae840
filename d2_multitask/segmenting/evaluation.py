"""Segments in a folder against a folder of masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from d2_multitask.data.io import read_label_map
from d2_multitask.evaluation.segments import SegmentsEvaluator, mask_files, read_object_mask
from d2_multitask.segmenting.images import ImageFiles
from d2_multitask.segmenting.output_folder import OutputFolder


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
    evaluator = SegmentsEvaluator()
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
