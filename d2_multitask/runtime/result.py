"""The result of one image, as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from d2_multitask.runtime.model_info import ModelInfo


@dataclass
class Result:
    """What a network found in one image, in pixels of the image.

    Coordinates are continuous: (0, 0) is the corner of the first pixel, (0.5, 0.5) its middle.

    Attributes:
        image_size: (h, w).
        info: names, skeleton, thresholds.
        boxes: (n, 4) float32, x0, y0, x1, y1.
        scores: (n,) float32.
        classes: (n,) int64, class numbers.
        keypoints: (n, K, 3) float32, x, y, confidence.
        masks: (n, h, w) bool, if asked for.
        track_ids: (n,) int64, from a tracker.
        maps: by name, (C, h, w) or (h, w) float32, as in the result dicts of the networks:
            ``sem_seg`` and ``part_seg`` are logits.
        image_labels: (C,) probabilities of the classes of the whole image.
    """

    image_size: tuple[int, int]
    info: ModelInfo = field(repr=False)
    boxes: np.ndarray | None = None
    scores: np.ndarray | None = None
    classes: np.ndarray | None = None
    keypoints: np.ndarray | None = None
    masks: np.ndarray | None = None
    track_ids: np.ndarray | None = None
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    image_labels: np.ndarray | None = None

    def __len__(self) -> int:
        """The number of objects."""
        return 0 if self.scores is None else len(self.scores)

    @property
    def sem_seg(self) -> np.ndarray | None:
        """(h, w) int64, the best semantic class of each pixel."""
        logits = self.maps.get("sem_seg")
        return None if logits is None else logits.argmax(0)

    def select(self, chosen: np.ndarray) -> Result:
        """The same with some of the objects.

        Args:
            chosen: (n,) bool, or (m,) indices, which also change the order.
        """
        fields = ("boxes", "scores", "classes", "keypoints", "masks", "track_ids")
        values = {name: getattr(self, name) for name in fields}
        return replace(self, **{k: v[chosen] for k, v in values.items() if v is not None})

    def confident(self, threshold: float | None = None) -> Result:
        """The objects that score at least ``threshold`` (``info.draw``'s), best first."""
        if self.scores is None:
            return self
        threshold = self.info.draw.confidence_threshold if threshold is None else threshold
        order = np.argsort(-self.scores, kind="stable")
        return self.select(order[self.scores[order] >= threshold])
