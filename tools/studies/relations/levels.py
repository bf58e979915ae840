"""From a relation, or from regions, to segments at several levels, from coarse to fine.

Letters: h x w patches, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from d2_multitask.modeling.mae import MaskedAutoencoder
from d2_multitask.patch_graph import Relation, grow
from d2_multitask.patch_graph.autoencoder import patch_grid_of
from d2_multitask.patch_graph.color_regions import follow_regions
from d2_multitask.patch_graph.refine import stretch_labels
from studies.relations.divisions import CUT, GROWN, LOUVAIN, Partition, divide, graph_of
from studies.relations.normalised_cut import recursive_cut

# Of Louvain's method: from the whole image to more segments than people draw in BSDS500 val.
RESOLUTIONS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.45, 0.7, 1.5)
NUM_SEGMENTS = (2, 3, 4, 6, 8, 12, 16)
GROWN_FROM = 3.0  # resolution of the communities that grow


def levels_of(
    relation: Relation,
    division: str,
    partition: Partition,
    model: MaskedAutoencoder,
    image: Tensor,
    backend: str = "networkx",
) -> list[np.ndarray]:
    """Segments of one image, (h, w) int64 each, as many levels for every image.

    Louvain's communities at `RESOLUTIONS`; `NUM_SEGMENTS` regions that grew from them, or parts
    that were cut; fewer where there are not so many.

    Args:
        relation: of its patches.
        division: of `DIVISIONS`.
        partition: ``locality`` is used.
        model: grows regions.
        image: (3, H, W), normalised.
        backend: of Louvain's method.
    """
    graph = graph_of(relation, division, partition)
    if division == CUT:
        parts = recursive_cut(graph, max(NUM_SEGMENTS))
        return [graph.patch_labels(parts[min(n, len(parts)) - 1]) for n in NUM_SEGMENTS]
    resolutions = (GROWN_FROM,) if division == GROWN else RESOLUTIONS
    communities = [
        divide(graph, LOUVAIN, partition._replace(resolution=r), model, image, backend)
        for r in resolutions
    ]
    if division == LOUVAIN:
        return communities
    grown = grow(model, image, communities[0])
    return [grown.labels_at(num_regions=number) for number in NUM_SEGMENTS]


def grown_regions(
    regions: np.ndarray, numbers: Sequence[int], model: MaskedAutoencoder, image: Tensor
) -> list[np.ndarray]:
    """Regions that grow by how they help to reconstruct each other, (H, W) int64 each.

    Args:
        regions: (H, W), 0..R-1, of the start. A patch is of the region that most of it is in.
        numbers: of regions.
        model: measures them.
        image: (3, h p, w p), normalised; p: the model's patch.
    """
    height, width = patch_grid_of(image, model.patch_size)
    patches = stretch_labels(np.arange(height * width).reshape(height, width), regions.shape)
    _, places = np.unique(patches, return_index=True)
    start = follow_regions(regions, patches).ravel()[places].reshape(height, width)
    grown = grow(model, image, start)
    return [follow_regions(grown.labels_at(num_regions=n), regions) for n in numbers]
