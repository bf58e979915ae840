"""Patch labels -> pixel labels that follow the image's edges.

Letters: H x W pixels, h x w patches, K labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
    filtered = _GuidedFilter(np.moveaxis(guide, 2, 0), radius, epsilon, subsampling)
    planes = np.moveaxis(values.reshape(*guide.shape[:2], -1), 2, 0)
    return np.stack([filtered(plane) for plane in planes], axis=2).reshape(values.shape)


class _GuidedFilter:
    """`guided_filter` of one guide, for one plane of values after the other.

    That takes the least memory, and planes of one channel stay in the processor's cache.
    """

    def __init__(
        self, colors: Iterable[np.ndarray], radius: int, epsilon: float, subsampling: int
    ) -> None:
        """The guide's three channels (H, W) in [0, 1]; the rest as in `guided_filter`."""
        if radius < 1 or not epsilon > 0 or subsampling < 1:
            raise ValueError(
                f"Guided filter: found radius={radius}, epsilon={epsilon}, "
                f"subsampling={subsampling}, expected more than 0"
            )
        self.colors, small_colors = [], []
        for color in colors:
            # float64: variances are small differences of large numbers
            plane = np.ascontiguousarray(color, np.float64)
            self.image_hw = plane.shape
            self.small_hw = tuple(-(-side // subsampling) for side in plane.shape)
            small_colors.append(_resized(plane, self.small_hw))
            self.colors.append(plane.astype(np.float32))
        self.windows = _Windows(np.stack(small_colors), max(1, radius // subsampling), epsilon)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """(H, W) -> (H, W) float32."""
        small = _resized(values.astype(np.float64), self.small_hw)
        slopes, intercept = self.windows.functions(small)
        result = _resized(intercept.astype(np.float32), self.image_hw)
        for color, slope in zip(self.colors, slopes, strict=True):
            result += color * _resized(slope.astype(np.float32), self.image_hw)
        return result


def _resized(plane: np.ndarray, image_hw: tuple[int, int]) -> np.ndarray:
    """(H, W) -> (H', W'), by means of areas to smaller sizes, linear to larger ones."""
    if plane.shape == image_hw:
        return plane
    method = cv2.INTER_AREA if image_hw < plane.shape else cv2.INTER_LINEAR
    return cv2.resize(plane, image_hw[::-1], interpolation=method)


class _Windows:
    """The windows around a guide's pixels: fits of functions of its colour, (3, H, W)."""

    def __init__(self, guide: np.ndarray, radius: int, epsilon: float) -> None:
        self.guide = guide
        self.size = (2 * radius + 1, 2 * radius + 1)
        self.count = self._sum(np.ones(guide.shape[1:]))
        self.mean_guide = np.stack([self._mean(color) for color in guide])
        self.inverse = self._inverse_covariance(epsilon)

    def functions(self, values: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Of values (H, W) each pixel's function, the mean of its windows': slopes, three (H, W),
        and intercept (H, W).
        """
        mean = self._mean(values)
        covariance = [
            self._mean(color * values) - mean_color * mean
            for color, mean_color in zip(self.guide, self.mean_guide, strict=True)
        ]
        slopes = [_dot(row, covariance) for row in self.inverse]
        intercept = mean - _dot(self.mean_guide, slopes)
        return [self._mean(slope) for slope in slopes], self._mean(intercept)

    def _mean(self, plane: np.ndarray) -> np.ndarray:
        """Over the part of each window that is inside the image; (H, W) -> (H, W)."""
        return self._sum(plane) / self.count

    def _sum(self, plane: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(
            plane, cv2.CV_64F, self.size, normalize=False, borderType=cv2.BORDER_CONSTANT
        )

    def _inverse_covariance(self, epsilon: float) -> list[list[np.ndarray]]:
        """3 x 3 planes (H, W): inverse of each window's covariance of colours plus epsilon."""
        rr, rg, rb, gg, gb, bb = (
            self._mean(self.guide[i] * self.guide[j]) - self.mean_guide[i] * self.mean_guide[j]
            for i, j in zip(*np.triu_indices(3), strict=True)
        )
        rr, gg, bb = rr + epsilon, gg + epsilon, bb + epsilon
        # the adjugate of a symmetric 3x3 matrix; np.linalg.inv is many times slower on pixels
        a, b, c = gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb
        d, e, f = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
        determinant = _dot((rr, rg, rb), (a, b, c))
        a, b, c, d, e, f = (x / determinant for x in (a, b, c, d, e, f))
        return [[a, b, c], [b, d, e], [c, e, f]]


def _dot(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> np.ndarray:
    """Of two vectors of three planes (H, W)."""
    return first[0] * second[0] + first[1] * second[1] + first[2] * second[2]


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
    labels = np.unique(patch_labels)
    if len(labels) == 1:
        return squares
    if radius is None:
        radius = max(-(-image.shape[i] // patch_labels.shape[i]) for i in range(2))
    colors = (color / 255 for color in np.moveaxis(image, 2, 0))
    filtered = _GuidedFilter(colors, radius, epsilon, subsampling=max(1, radius // FINE_RADIUS))
    best = np.full(squares.shape, -np.inf, np.float32)
    found = squares.copy()
    for label in labels:
        membership = filtered(squares == label)
        np.copyto(found, label, where=membership > best)
        np.maximum(best, membership, out=best)
    return found


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
