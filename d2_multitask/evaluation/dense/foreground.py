"""Binary segmentation: IoU, and the measures of the literature on salient objects."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from d2_multitask.data.labels.base import IGNORE_VALUE
from d2_multitask.data.labels.foreground import ForegroundLabel
from d2_multitask.evaluation.base import LabelEvaluator
from d2_multitask.evaluation.dense import saliency

logger = logging.getLogger(__name__)

# Means over the images; their sums are followed by pixels of intersection and union, and images.
_MEANS = ("IoU", "adaptive-F", "pixel-error", "S-measure", "adaptive-E")


class ForegroundEvaluator(LabelEvaluator):
    """Scores probabilities (H, W) at the size of the original image.

    Results are ``{"foreground": {...}}``, in 0-100:

    - ``IoU``: of the foreground at probability 0.5, mean over the images; an image without
      foreground has 100 if nothing is predicted in it;
    - ``global-IoU``: the same over all pixels of all images at once;
    - ``max-F``: F-measure with beta^2 = 0.3, the curves of the images over 256 thresholds averaged,
      then the maximum; ``mean-F``: the mean of the averaged curve; ``adaptive-F``: each image at
      twice its mean probability, averaged;
    - ``pixel-error``: mean absolute difference of probability and label, mean over the images;
    - ``S-measure``: alpha = 0.5; ``E-measure``: mean over the thresholds; ``max-E`` and
      ``adaptive-E`` as for F;
    - ``num_images``.

    Pixels without a label are ignored; for the S-measure, which needs whole images, they are
    background with probability 0. Images without any labelled pixel are not counted.
    """

    output_name = "foreground"
    task = "foreground"
    metrics = (*_MEANS, "global-IoU", "max-F", "mean-F", "E-measure", "max-E", "num_images")

    def __init__(
        self,
        dataset_name: str,
        records: Sequence[dict[str, Any]],
        *,
        stretch: bool = False,
        distributed: bool = True,
    ) -> None:
        """As `LabelEvaluator`; ``stretch``: each image's probabilities to 0..1, as PySODMetrics."""
        self._stretch = stretch
        super().__init__(dataset_name, records, distributed=distributed)

    def reset(self) -> None:
        """Forget the sums of an earlier round."""
        super().reset()
        self._numbers = np.zeros(len(_MEANS) + 3)
        self._curves = np.zeros((2, saliency.NUM_THRESHOLDS))

    def labels(self, record: dict[str, Any]) -> np.ndarray | None:
        """(H, W) uint8: 0, 1, 255 = no label."""
        labels = ForegroundLabel().read(record)
        return None if labels is None or (labels == IGNORE_VALUE).all() else labels

    def add(self, record: dict[str, Any], labels: np.ndarray, output: dict[str, Any]) -> None:
        """Count one image: labels (H, W), probabilities (H, W)."""
        found = self.prediction(record, output, labels.shape)
        probability = found.detach().cpu().double().numpy()
        if not np.isfinite(probability).all():
            self._num_not_finite += 1
            probability = np.nan_to_num(probability, nan=0, posinf=1, neginf=0)
        probability = probability.clip(0, 1)
        if self._stretch and probability.max() > probability.min():
            low, high = probability.min(), probability.max()
            probability = (probability - low) / (high - low)
        positive, valid = labels == 1, labels != IGNORE_VALUE
        values, truth = probability[valid], positive[valid]
        num_positive, num_pixels = np.count_nonzero(truth), len(truth)
        curve = saliency.threshold_counts(values, truth)
        threshold = saliency.adaptive_threshold(values)
        adaptive = saliency.counts_at(threshold, values, truth)
        hit, wrong = saliency.counts_at(0.5, values, truth)
        union = num_positive + wrong
        if not valid.all():
            probability = np.where(valid, probability, 0)
        self._numbers += (
            hit / union if union else 1,
            saliency.f_measure(adaptive, num_positive),
            np.abs(values - truth).mean(),
            saliency.s_measure(probability, positive),
            saliency.e_measure(adaptive, num_positive, num_pixels),
            hit,
            union,
            1,
        )
        self._curves += (
            saliency.f_measure(curve, num_positive),
            saliency.e_measure(curve, num_positive, num_pixels),
        )

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Score what was processed, in 0-100; ``None`` in all processes but the first."""
        parts = self.gather([(self._numbers, self._curves)])
        if parts is None:
            return None
        numbers, curves = (sum(part) for part in zip(*parts, strict=True))
        *sums, intersection, union, num_images = numbers.tolist()
        if not num_images:
            logger.warning(f"{self._dataset_name}: no labelled image was processed.")
            return {self.output_name: {"num_images": 0.0}}
        f_curve, e_curve = 100 * curves / num_images
        means = {name: 100 * total / num_images for name, total in zip(_MEANS, sums, strict=True)}
        return {
            self.output_name: {
                "IoU": means["IoU"],
                "global-IoU": 100 * intersection / union if union else 100.0,
                "max-F": float(f_curve.max()),
                "mean-F": float(f_curve.mean()),
                "adaptive-F": means["adaptive-F"],
                "pixel-error": means["pixel-error"],
                "S-measure": means["S-measure"],
                "E-measure": float(e_curve.mean()),
                "max-E": float(e_curve.max()),
                "adaptive-E": means["adaptive-E"],
                "num_images": num_images,
            }
        }
