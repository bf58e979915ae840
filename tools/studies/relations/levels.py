"""From a relation to segments at several levels, from coarse to fine.

Letters: h x w patches.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from d2_multitask.modeling.mae import MaskedAutoencoder
from d2_multitask.patch_graph import Relation, grow
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
