"""How one patch, which somebody clicked at, is related to all others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from d2_multitask.modeling.mae import MaskedAutoencoder
from d2_multitask.patch_graph import (
    Budget,
    Relation,
    SegmenterSettings,
    measure_relation,
    rank_average,
)
from d2_multitask.patch_graph.tiles import measure_tiles, stitch


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
    matrix = _matrix(model, image, settings, grid_hw)
    return PatchRelation(
        patch_yx, matrix[index].reshape(grid_hw), matrix[:, index].reshape(grid_hw)
    )


def _matrix(
    model: MaskedAutoencoder,
    image: Tensor,
    settings: SegmenterSettings,
    grid_hw: tuple[int, int],
) -> np.ndarray:
    """(L, L): row = target, column = source."""
    budget = Budget(settings.passes, settings.seconds)
    how = {"seed": settings.seed, "batch_size": settings.batch_size, "dtype": settings.dtype}
    if settings.tile_hw is not None and np.any(np.array(grid_hw) > settings.tile_hw):
        options = {**how, "tile_hw": settings.tile_hw, "overlap": settings.overlap}
        per_kind = [
            measure_tiles(
                model, image, kind, budget, **options, **settings.relation_settings.get(kind, {})
            )
            for kind in settings.kinds
        ]
        tiles = [
            (same[0][0], _mixed([relation for _, relation in same]))
            for same in zip(*per_kind, strict=True)
        ]
        return stitch(tiles, grid_hw).toarray()
    relations = [
        measure_relation(
            model, image, kind, budget, **how, **settings.relation_settings.get(kind, {})
        )
        for kind in settings.kinds
    ]
    return _mixed(relations).matrix.numpy()


def _mixed(relations: list[Relation]) -> Relation:
    return relations[0] if len(relations) == 1 else rank_average(relations)
