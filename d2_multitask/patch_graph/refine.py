"""Patch labels -> pixel labels that follow the image's edges.

Letters: H x W pixels, h x w patches.
"""

from __future__ import annotations

import numpy as np


def guided_filter(guide: np.ndarray, values: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """Smooth values, but not across edges of a guide (He et al. 2010, colour guide, eqs. 14-16).

    Written with OpenCV's box filter, since ``cv2.ximgproc.guidedFilter`` is only in the contrib
    package.

    Args:
        guide: (H, W, 3) float32 in [0, 1].
        values: (H, W) or (H, W, K) float32.
        radius: of the window, pixels.
        epsilon: contrasts with a variance well below it are smoothed.

    Returns:
        Float32, shape of ``values``.
    """
    raise NotImplementedError


def refine_labels(
    patch_labels: np.ndarray,
    image: np.ndarray,
    *,
    radius: int | None = None,
    epsilon: float = 1e-3,
) -> np.ndarray:
    """Labels of patches to labels of pixels: the largest of the filtered memberships.

    Args:
        patch_labels: (h, w) int64.
        image: (H, W, 3) uint8, of any size; patches are stretched over it.
        radius: pixels; ``None`` = one patch.
        epsilon: see `guided_filter`.

    Returns:
        (H, W) int64 with labels of the patches.
    """
    raise NotImplementedError
