"""Running a trained network: faster (``fold_norms``, ``at_peaks``), on large images (``tiles``)."""

from d2_multitask.modeling.inference.at_peaks import compute_at_peaks
from d2_multitask.modeling.inference.fold_norms import (
    compile_network,
    fold_norms,
    fuse_for_inference,
)

__all__ = ["compile_network", "compute_at_peaks", "fold_norms", "fuse_for_inference"]
