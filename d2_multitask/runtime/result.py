"""The result of one image, as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from d2_multitask.runtime.maps import best_class
from d2_multitask.runtime.masks import instance_masks, semantic_ids
from d2_multitask.runtime.model_info import ModelInfo
from d2_multitask.runtime.rle import encode

if TYPE_CHECKING:
    import supervision


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
        masks: (n, h, w) bool, of :meth:`with_masks` or a network that has them.
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
        """(h, w) unsigned integers, the best semantic class of each pixel."""
        logits = self.maps.get("sem_seg")
        return None if logits is None else best_class(logits)

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

    def with_masks(self) -> Result:
        """The same with ``masks``: the pixels of each class, shared out among its objects.

        Those of objects that score ``info.draw.confidence_threshold`` do not overlap. See
        `d2_multitask.runtime.masks`.

        Raises:
            ValueError: there are no objects or no semantic map, or they have not the same classes.
        """
        if self.scores is None or "sem_seg" not in self.maps:
            raise ValueError(
                "Instance masks: found a result without objects or without a semantic map, "
                "expected both (tasks det and seg)"
            )
        objects, names = self.info.objects, self.info.maps["sem_seg"].class_names
        things, _ = semantic_ids(objects.class_names, names)
        masks = instance_masks(
            self.sem_seg,
            self.boxes,
            self.scores,
            np.array(things)[self.classes],
            self.keypoints,
            objects.skeleton,
            self.info.draw.confidence_threshold,
        )
        return replace(self, masks=masks)

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """The objects in COCO's format of results.

        Returns:
            For each, ``image_id``, ``category_id`` (the dataset's), ``bbox`` (x, y, w, h),
            ``score`` and, as far as found, ``segmentation`` (RLE), ``keypoints`` (x, y, score, ...;
            pixel indices, so that 0, 0 is the middle of the first pixel) and ``track_id``.
        """
        if self.scores is None:
            return []
        boxes = self.boxes.copy()
        boxes[:, 2:] -= boxes[:, :2]
        columns: dict[str, list[Any]] = {
            "category_id": np.array(self.info.objects.category_ids)[self.classes].tolist(),
            "bbox": boxes.tolist(),
            "score": self.scores.tolist(),
        }
        if self.masks is not None:
            columns["segmentation"] = [encode(mask) for mask in self.masks]
        if self.keypoints is not None:
            points = self.keypoints - np.array([0.5, 0.5, 0], np.float32)
            columns["keypoints"] = points.reshape(len(points), 3 * points.shape[1]).tolist()
        if self.track_ids is not None:
            columns["track_id"] = self.track_ids.tolist()
        rows = zip(*columns.values(), strict=True)
        return [{"image_id": image_id, **dict(zip(columns, row, strict=True))} for row in rows]

    def sem_seg_to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """Semantic classes that are there: ``image_id``, ``category_id``, ``segmentation`` (RLE).

        A first class "background" is left out.
        """
        classes = self.sem_seg
        if classes is None:
            return []
        info = self.info.maps["sem_seg"]
        first = int(info.class_names[0] == "background")
        return [
            {
                "image_id": image_id,
                "category_id": info.category_ids[number],
                "segmentation": encode(classes == number),
            }
            for number in np.unique(classes).tolist()
            if number >= first
        ]

    def to_supervision(self) -> supervision.Detections:
        """The objects as ``supervision.Detections``; keypoints are in ``data["keypoints"]``.

        Raises:
            ImportError: supervision is not installed.
            ValueError: the network finds no objects, or was not asked for them.
        """
        import supervision

        if self.scores is None:
            raise ValueError("to_supervision: found a result without objects, expected some")
        data = {"class_name": np.array(self.info.objects.class_names)[self.classes]}
        if self.keypoints is not None:
            data["keypoints"] = self.keypoints
        return supervision.Detections(
            xyxy=self.boxes,
            confidence=self.scores,
            class_id=self.classes,
            mask=self.masks,
            tracker_id=self.track_ids,
            data=data,
        )
