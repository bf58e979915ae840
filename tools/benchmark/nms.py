"""What detectors that end before non-maximum suppression still need: boxes and masks of objects."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

# Random weights have no scores: as many candidates and objects as a trained network leaves of ten
# people.
CANDIDATES, OBJECTS = 100, 10
OVERLAP = 0.7
KEYPOINT_NUMBERS = 3 * 17


def suppress_boxes(outputs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """Finish what a file answers for one image; written for speed, with OpenCV's suppression.

    Args:
        outputs: rows (1, 4 + classes + E, cells) of boxes (centre, size), scores, and the keypoints
            of a person or E factors of prototypes of masks, (1, E, h, w), which follow. At least
            :data:`CANDIDATES` cells.

    Returns:
        Rows of the objects, (P, 4 + classes + E), and masks (4 h, 4 w, P) bool, empty without
        prototypes; ``None`` if the file decodes itself.
    """
    rows, *prototypes = outputs
    if rows.ndim != 3 or rows.shape[1] >= rows.shape[2]:
        return None
    extra = prototypes[0].shape[1] if prototypes else KEYPOINT_NUMBERS
    scores = rows[0, 4:-extra].max(0)
    best = np.argpartition(scores, -CANDIDATES)[-CANDIDATES:]
    found = rows[0][:, best].T
    center, side = found[:, :2], found[:, 2:4]
    boxes = np.concatenate([center - side / 2, side], 1)  # x, y, width, height
    kept = list(cv2.dnn.NMSBoxes(boxes, scores[best], 0.0, OVERLAP))[:OBJECTS]
    found = found[kept]
    return found, draw_masks(boxes[kept], found[:, -extra:], prototypes[0][0]) if prototypes else ()


def draw_masks(boxes: np.ndarray, factors: np.ndarray, prototypes: np.ndarray) -> np.ndarray:
    """(P, 4) boxes, (P, E) factors, (E, h, w) prototypes of stride 4 -> (4 h, 4 w, P) bool."""
    _, height, width = prototypes.shape
    values = np.tensordot(prototypes, factors, (0, 1))  # (h, w, P)
    x, y, w, h = boxes.T / 4
    rows, columns = np.arange(height)[:, None], np.arange(width)[:, None]
    inside = ((rows >= y) & (rows < y + h))[:, None] & ((columns >= x) & (columns < x + w))
    return cv2.resize(values * inside, (4 * width, 4 * height)) > 0
