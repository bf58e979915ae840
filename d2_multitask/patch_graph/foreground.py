"""Which segments are the object: the decision, or that there is none.

Letters: h x w patches, C communities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from d2_multitask.patch_graph.autoencoder import Autoencoder, ErrorMeter

RULES = ("inpainting_error", "least_border", "largest_centre", "least_border_union")
"""Names for `choose_foreground`."""


@dataclass(frozen=True)
class Foreground:
    """A decision.

    Attributes:
        mask: (h, w) bool; ``None`` = no object.
        score: of the best candidate, also if it was refused.
        candidates: (n, h, w) bool.
        scores: (n,) float64 of the candidates.
        rule: which rule.
        passes: forward passes that it took.
    """

    mask: np.ndarray | None
    score: float
    candidates: np.ndarray
    scores: np.ndarray
    rule: str
    passes: int = 0


def choose_foreground(
    labels: np.ndarray,
    rule: str = "inpainting_error",
    *,
    model: Autoencoder | None = None,
    image: Tensor | None = None,
    threshold: float | None = None,
    border_weight: float = 1.0,
    max_communities: int = 7,
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
    meter: ErrorMeter | None = None,
) -> Foreground:
    """Choose the foreground among segments.

    Args:
        labels: (h, w), segments.
        rule: ``inpainting_error`` (R5): the union of segments that is worst reconstructed from the
            rest, and the rest from it (IEM, Savarese et al., CVPR 2021), less ``border_weight``
            times its share of the image's border; needs model and image. ``least_border``: the
            segment with the smallest share of border patches. ``largest_centre``: the segment
            with most of the centre. ``least_border_union``: all segments with little border.
        model: for ``inpainting_error``.
        image: (3, H, W), likewise.
        threshold: candidates with a score not above it are "no object"; ``None`` = the rule's own.
        border_weight: see above.
        max_communities: of more segments the smallest ones are merged first into the neighbour
            with the longest common edge, so that at most 2 ** (C - 1) - 1 unions are compared.
        batch_size: as in `measure_relation`.
        dtype: likewise.
        meter: use this one instead of making one.

    Returns:
        The decision; a single segment is "no object".

    Raises:
        ValueError: unknown rule, or model and image are missing where needed.
    """
    raise NotImplementedError
