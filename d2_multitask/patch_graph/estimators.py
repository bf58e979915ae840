"""Relations from reconstruction errors: which sets to measure, and what follows from the errors.

Letters: L patches, R passes, K patches of a visible set.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Estimator(Protocol):
    """Asks for visible sets, is told the errors, and estimates the relation from all so far."""


class SingleSource:
    """R1."""


class Ridge:
    """R2."""


class ConditionalMeans:
    """A2."""


class LeaveOneOut:
    """R3."""
