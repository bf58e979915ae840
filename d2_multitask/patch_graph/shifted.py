"""Relations on a grid finer than the patches: measured on shifted grids, and averaged.

Letters: s shifts along each side, p pixels a side of a patch; h x w patches, l = (s h)(s w) cells
of p / s pixels.
"""

from __future__ import annotations

import time
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from d2_multitask.patch_graph.autoencoder import Autoencoder, patch_grid_of
from d2_multitask.patch_graph.relation import Budget, Relation, measure_relation


def enlarge(image: Tensor, shifts: int) -> Tensor:
    """(3, H, W) -> (3, s H, s W), where a patch is as large as a cell of the image.

    So what asks the autoencoder about patches, as `grow` does, asks it about cells.
    """
    if shifts == 1:
        return image
    return F.interpolate(image[None], scale_factor=shifts, mode="bilinear", align_corners=False)[0]


def measure_shifted(
    model: Autoencoder,
    image: Tensor,
    kind: str = "ridge",
    budget: Budget | None = None,
    *,
    shifts: int = 2,
    seed: int = 0,
    **options: Any,
) -> Relation:
    """Measure a relation between cells of which s x s make a patch.

    The image is measured s x s times, each time with the grid of patches shifted by a cell and the
    image mirrored beyond its border. The relation of two cells is the mean over the shifts in which
    they are in different patches. The boundaries of segments are no longer those of patches.

    Args:
        model: see `measure_relation`, and likewise ``image``, ``kind`` and further options.
        image: (3, H, W).
        kind: of relation.
        budget: of each shift.
        shifts: s; 1 = `measure_relation`, of ``ridge`` without the standard error.
        seed: of the first shift's sets, seed + 1 of the second one's, and so on.
        **options: of `measure_relation`.

    Returns:
        Symmetric, on the grid (s h, s w), without standard error.

    Raises:
        ValueError: s does not divide the patch; see also `measure_relation`.
    """
    patch = model.patch_size
    if shifts < 1 or patch % shifts:
        raise ValueError(f"Shifts: found {shifts}, expected a divisor of the patch's side {patch}")
    if kind == "ridge":
        options.setdefault("with_standard_error", False)
    if shifts == 1:
        return measure_relation(model, image, kind, budget, seed=seed, **options)
    start = time.perf_counter()
    cell = patch // shifts
    height, width = (shifts * side for side in patch_grid_of(image, patch))
    total, times, passes = torch.zeros(2 * (height * width,)), 0, 0
    for number, (dy, dx) in enumerate(product(range(shifts), repeat=2)):
        # by a whole patch in all, as the grid has to fit
        sides = [cell * d for d in (dx, -dx % shifts, dy, -dy % shifts)]
        padded = F.pad(image[None], sides, mode="reflect")[0]
        relation = measure_relation(model, padded, kind, budget, seed=seed + number, **options)
        rows, columns = (torch.arange(height) + dy) // shifts, (torch.arange(width) + dx) // shifts
        of_cell = (rows[:, None] * relation.grid_hw[1] + columns).flatten()
        apart = of_cell[:, None] != of_cell
        total += relation.symmetric()[of_cell][:, of_cell] * apart
        times = times + apart
        passes += relation.passes
    seconds = time.perf_counter() - start
    matrix = total / times.clamp(min=1)
    return Relation(matrix, (height, width), None, passes, seconds, relation.name)
