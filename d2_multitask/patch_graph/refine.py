"""Patch labels -> pixel labels that follow the image's edges.

Letters: H x W pixels, h x w patches, K labels.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

# Pixels along a window's radius from which on the filter is fitted on a smaller image.
FINE_RADIUS = 8


def guided_filter(
    guide: np.ndarray, values: np.ndarray, radius: int, epsilon: float, subsampling: int = 1
) -> np.ndarray:
    """Smooth values, but not across edges of a guide (He et al. 2010, colour guide, section 3.3).

    In each window the values are a linear function of the guide's colour, fitted with a penalty
    epsilon; a pixel gets the mean of its windows' functions. Written with OpenCV's box filter,
    since ``cv2.ximgproc.guidedFilter`` is only in OpenCV's contrib package.

    Args:
        guide: (H, W, 3) in [0, 1].
        values: (H, W) or (H, W, K).
        radius: of the window, pixels; windows are cut at the image's border.
        epsilon: contrasts with a variance well below it are smoothed.
        subsampling: fit the functions on images smaller by this factor, as the fast guided filter
            does (He and Sun, arXiv 1505.00996).

    Returns:
        Float32, shape of ``values``.

    Raises:
        ValueError: shapes do not fit, or a number is not positive.
    """
    if guide.ndim != 3 or guide.shape[2] != 3 or values.shape[:2] != guide.shape[:2]:
        raise ValueError(
            f"Guided filter: found a guide {guide.shape} and values {values.shape}, expected "
            "(H, W, 3) and (H, W) or (H, W, K)"
        )
    if radius < 1 or not epsilon > 0 or subsampling < 1:
        raise ValueError(
            f"Guided filter: found radius={radius}, epsilon={epsilon}, subsampling={subsampling}, "
            "expected more than 0"
        )
    height, width = guide.shape[:2]
    small_hw = (-(-height // subsampling), -(-width // subsampling))
    # float64: variances are small differences of large numbers
    small_guide = _resized(np.asarray(guide, np.float64), small_hw)
    stacked = np.asarray(values, np.float64).reshape(height, width, -1)
    slope, intercept = _window_functions(
        small_guide, _resized(stacked, small_hw), max(1, radius // subsampling), epsilon
    )
    functions = np.concatenate([slope.reshape(*small_hw, -1), intercept], axis=2)
    functions = _resized(functions.astype(np.float32), (height, width))
    num_values = stacked.shape[2]
    slope = functions[..., :-num_values].reshape(height, width, 3, num_values)
    colors = np.asarray(guide, np.float32)
    filtered = np.einsum("hwck,hwc->hwk", slope, colors) + functions[..., -num_values:]
    return filtered.reshape(values.shape)


def _resized(image: np.ndarray, image_hw: tuple[int, int]) -> np.ndarray:
    """(H, W, C) -> (H', W', C), by means of areas to smaller sizes, linear to larger ones."""
    if image.shape[:2] == image_hw:
        return np.ascontiguousarray(image)
    method = cv2.INTER_AREA if image_hw < image.shape[:2] else cv2.INTER_LINEAR
    return _by_fours(image, lambda four: cv2.resize(four, image_hw[::-1], interpolation=method))


def _by_fours(image: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply a function of OpenCV to an (H, W, C) image: many take no more than four channels."""
    fours = np.split(image, range(4, image.shape[2], 4), axis=2)
    results = [function(np.ascontiguousarray(four)) for four in fours]
    return np.concatenate([np.atleast_3d(result) for result in results], axis=2)


def _window_functions(
    guide: np.ndarray, values: np.ndarray, radius: int, epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    """Each pixel's function of the colour: slopes (H, W, 3, K) and intercepts (H, W, K)."""
    window = _WindowMean(guide.shape[:2], radius)
    mean_guide = window(guide)
    inverse = _inverse_covariance(guide, mean_guide, window, epsilon)
    num_values = values.shape[2]
    mean = window(values)
    products = (guide[..., :, None] * values[..., None, :]).reshape(*guide.shape[:2], -1)
    products = window(products).reshape(*guide.shape, num_values)
    covariance = products - mean_guide[..., :, None] * mean[..., None, :]
    slope = inverse @ covariance  # (H, W, 3, K)
    intercept = mean - (slope * mean_guide[..., :, None]).sum(2)
    slope = window(slope.reshape(*guide.shape[:2], -1)).reshape(slope.shape)
    return slope, window(intercept)


class _WindowMean:
    """Mean over the part of a square window that is inside the image; (H, W, C) -> (H, W, C)."""

    def __init__(self, image_hw: tuple[int, int], radius: int) -> None:
        self.size = (2 * radius + 1, 2 * radius + 1)
        self.count = self._sum(np.ones(image_hw))[..., None]

    def _sum(self, values: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(
            values, cv2.CV_64F, self.size, normalize=False, borderType=cv2.BORDER_CONSTANT
        )

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return _by_fours(values, self._sum) / self.count


def _inverse_covariance(
    guide: np.ndarray, mean: np.ndarray, window: _WindowMean, epsilon: float
) -> np.ndarray:
    """(H, W, 3, 3): inverse of each window's covariance of colours plus epsilon."""
    rows, columns = np.triu_indices(3)
    covariance = (
        window(guide[..., rows] * guide[..., columns]) - mean[..., rows] * mean[..., columns]
    )
    rr, rg, rb, gg, gb, bb = np.moveaxis(covariance, 2, 0)
    rr, gg, bb = rr + epsilon, gg + epsilon, bb + epsilon
    # the adjugate of a symmetric 3x3 matrix; np.linalg.inv is many times slower on pixels
    a, b, c = gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb
    d, e, f = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
    determinant = rr * a + rg * b + rb * c
    adjugate = np.stack([a, b, c, b, d, e, c, e, f], axis=2) / determinant[..., None]
    return adjugate.reshape(*adjugate.shape[:2], 3, 3)


def refine_labels(
    patch_labels: np.ndarray,
    image: np.ndarray,
    *,
    radius: int | None = None,
    epsilon: float = 1e-4,
) -> np.ndarray:
    """Labels of patches to labels of pixels: the largest of the filtered memberships.

    Args:
        patch_labels: (h, w) int64.
        image: (H, W, 3) uint8, of any size; patches are stretched over it.
        radius: pixels; ``None`` = the longer side of a patch.
        epsilon: see `guided_filter`.

    Returns:
        (H, W) int64 with labels of the patches.

    Raises:
        ValueError: the image is no (H, W, 3) uint8, or smaller than the grid of patches.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"Refinement: found an image {image.shape} {image.dtype}, expected (H, W, 3) uint8"
        )
    squares = stretch_labels(patch_labels, image.shape[:2])
    labels, inverse = np.unique(squares, return_inverse=True)
    if len(labels) == 1:
        return squares
    if radius is None:
        radius = max(-(-image.shape[i] // patch_labels.shape[i]) for i in range(2))
    members = inverse.reshape(squares.shape)[..., None] == np.arange(len(labels))
    filtered = guided_filter(
        image / 255, members, radius, epsilon, subsampling=max(1, radius // FINE_RADIUS)
    )
    return labels[filtered.argmax(2)]


def stretch_labels(patch_labels: np.ndarray, image_hw: tuple[int, int]) -> np.ndarray:
    """(h, w) -> (H, W) int64: each pixel's centre is in the patch that it gets its label from.

    Raises:
        ValueError: there are fewer pixels than patches along a side.
    """
    if image_hw[0] < patch_labels.shape[0] or image_hw[1] < patch_labels.shape[1]:
        raise ValueError(
            f"Refinement: found {image_hw[0]}x{image_hw[1]} pixels (height x width) for "
            f"{patch_labels.shape[0]}x{patch_labels.shape[1]} patches, expected more pixels"
        )
    rows, columns = (
        ((np.arange(pixels) + 0.5) * patches / pixels).astype(np.int64)
        for pixels, patches in zip(image_hw, patch_labels.shape, strict=True)
    )
    return np.asarray(patch_labels, np.int64)[rows[:, None], columns]
