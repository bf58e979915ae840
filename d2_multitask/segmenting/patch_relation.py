"""How one patch, which somebody clicked at, is related to all others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from d2_multitask.modeling.mae import MaskedAutoencoder
from d2_multitask.patch_graph.segmenter import SegmenterSettings, measure_tiles
from d2_multitask.patch_graph.tiles import stitch


class PatchRelation(NamedTuple):
    """The relation of one patch; units as of `Relation.matrix`.

    Attributes:
        patch_yx: the patch.
        helps_it: (h, w), how much each patch helps to reconstruct it.
        is_helped: (h, w), how much it helps to reconstruct each patch.
    """

    patch_yx: tuple[int, int]
    helps_it: np.ndarray
    is_helped: np.ndarray


def relation_of_patch(
    model: MaskedAutoencoder,
    image: Tensor,
    settings: SegmenterSettings,
    point_xy: tuple[float, float],
) -> PatchRelation:
    """Measure the relation of the patch at a point.

    Args:
        model: the autoencoder.
        image: (3, H, W), normalised.
        settings: relation, budget and tiles. Of a tiled image both directions are their mean, and
            patches that share no tile have 0.
        point_xy: in shares of the image's width and height, [0, 1).

    Returns:
        The relation of the patch that holds the point.
    """
    grid_hw = (image.shape[-2] // model.patch_size, image.shape[-1] // model.patch_size)
    patch_yx = (int(point_xy[1] * grid_hw[0]), int(point_xy[0] * grid_hw[1]))
    index = patch_yx[0] * grid_hw[1] + patch_yx[1]
    tiles = measure_tiles(model, image, settings)
    whole = tiles[0][1].matrix.numpy() if len(tiles) == 1 else stitch(tiles, grid_hw).toarray()
    return PatchRelation(patch_yx, whole[index].reshape(grid_hw), whole[:, index].reshape(grid_hw))
