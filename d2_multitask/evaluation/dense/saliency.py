"""Measures of one foreground map from the literature on salient object detection.

Letters: H x W pixels, T = 256 thresholds: 255, 254, ..., 0, on the probability times 255, rounded
down (maps are stored with 8 bits). All measures are in [0, 1].
"""

from __future__ import annotations

import numpy as np

NUM_THRESHOLDS = 256
BETA_SQUARED = 0.3
_EPS = np.spacing(1)  # as in MATLAB's and Python's toolboxes; 0 / 0 is 0


def threshold_counts(probability: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """True and false positives at each threshold.

    Args:
        probability: (K,) in [0, 1].
        positive: (K,) bool, the label.

    Returns:
        (2, T) float64: true positives, false positives.
    """
    levels = (probability * 255).astype(np.uint8)
    counts = np.bincount(levels + NUM_THRESHOLDS * ~positive, minlength=2 * NUM_THRESHOLDS)
    return counts.reshape(2, -1)[:, ::-1].cumsum(1).astype(np.float64)


def counts_at(threshold: float, probability: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """(2,) float64: true and false positives at one threshold on the probability itself."""
    predicted = probability >= threshold
    true = np.count_nonzero(predicted & positive)
    return np.array([true, np.count_nonzero(predicted) - true], dtype=np.float64)


def adaptive_threshold(probability: np.ndarray) -> float:
    """Twice the mean, at most 1 (Achanta et al., CVPR 2009)."""
    return float(min(2 * probability.mean(), 1))


def f_measure(counts: np.ndarray, num_positive: int) -> np.ndarray:
    """(1 + beta^2) P R / (beta^2 P + R) with beta^2 = 0.3, which favours precision.

    Args:
        counts: (2, ...) true and false positives.
        num_positive: labelled foreground pixels.

    Returns:
        (...); 0 without true positives.
    """
    true, false = counts
    # Multiplied out: (1 + b) TP / (b * positives + predicted)
    denominator = BETA_SQUARED * num_positive + true + false
    return (1 + BETA_SQUARED) * true / np.maximum(denominator, 1)


def e_measure(counts: np.ndarray, num_positive: int, num_pixels: int) -> np.ndarray:
    """Enhanced-alignment measure of binary maps (Fan et al., IJCAI 2018, equations 2 to 5).

    Args:
        counts: (2, ...) true and false positives.
        num_positive: labelled foreground pixels.
        num_pixels: all pixels.

    Returns:
        (...).
    """
    true, false = counts
    predicted = true + false
    if num_positive == 0:
        total = num_pixels - predicted
    elif num_positive == num_pixels:
        total = predicted
    else:
        mean_predicted, mean_label = predicted / num_pixels, num_positive / num_pixels
        missed = num_positive - true
        groups = (  # pixels, prediction and label less their means
            (true, 1 - mean_predicted, 1 - mean_label),
            (false, 1 - mean_predicted, -mean_label),
            (missed, -mean_predicted, 1 - mean_label),
            (num_pixels - predicted - missed, -mean_predicted, -mean_label),
        )
        total = sum(pixels * _alignment(a, b) for pixels, a, b in groups)
    return total / (num_pixels - 1 + _EPS)


def _alignment(a: np.ndarray, b: float) -> np.ndarray:
    return (2 * a * b / (a**2 + b**2 + _EPS) + 1) ** 2 / 4


def s_measure(probability: np.ndarray, positive: np.ndarray, alpha: float = 0.5) -> float:
    """Structure measure (Fan et al., ICCV 2017, equation 1).

    Args:
        probability: (H, W) float64 in [0, 1].
        positive: (H, W) bool.
        alpha: weight of the object-aware part.
    """
    share = positive.mean()
    if share in (0, 1):
        mean = probability.mean()
        return float(mean if share else 1 - mean)
    foreground, background = probability[positive], 1 - probability[~positive]
    objects = share * _object_score(foreground) + (1 - share) * _object_score(background)
    return float(max(alpha * objects + (1 - alpha) * _region_score(probability, positive), 0))


def _object_score(values: np.ndarray) -> float:
    """Equation 4 with lambda = 1/2."""
    mean = values.mean()
    deviation = values.std(ddof=1) if len(values) > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + deviation + _EPS)


def _region_score(probability: np.ndarray, positive: np.ndarray) -> float:
    """SSIM of the four blocks that meet at the label's centroid, weighted by area."""
    height, width = positive.shape
    total = np.count_nonzero(positive)
    # The pixel of the centroid belongs to the block above and left of it.
    y = int(np.round(positive.sum(1) @ np.arange(height) / total)) + 1
    x = int(np.round(positive.sum(0) @ np.arange(width) / total)) + 1
    blocks = [
        (slice(rows[0], rows[1]), slice(columns[0], columns[1]))
        for rows in ((0, y), (y, height))
        for columns in ((0, x), (x, width))
        if rows[0] < rows[1] and columns[0] < columns[1]
    ]
    return sum(
        _ssim(probability[block], positive[block]) * positive[block].size for block in blocks
    ) / (height * width)


def _ssim(probability: np.ndarray, positive: np.ndarray) -> float:
    """Equation 7: luminance, contrast and structure of one block in one fraction."""
    num, mean_x, mean_y = probability.size, probability.mean(), positive.mean()
    difference_x, difference_y = probability - mean_x, positive - mean_y
    variances = (np.vdot(difference_x, difference_x) + np.vdot(difference_y, difference_y)) / (
        num - 1 + _EPS
    )
    covariance = np.vdot(difference_x, difference_y) / (num - 1 + _EPS)
    above = 4 * mean_x * mean_y * covariance
    below = (mean_x**2 + mean_y**2) * variances
    if above:
        return above / (below + _EPS)
    return float(below == 0)
