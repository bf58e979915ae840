"""Random numbers that are the same on every machine and with every NumPy release.

Contract: a stream is named by a tuple of integers. Two streams with different names are
independent, and a stream never depends on how much of another one was used. Only NumPy's frozen
legacy generator (``RandomState``, MT19937) and its 53-bit doubles are used; integers are derived
from these doubles, because the width of ``randint``'s default integer depends on the platform.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

MAX_SEED = 2**32 - 1


class RandomStream:
    """A named stream of random numbers.

    Args:
        name: integers in [0, 2**32 - 1], for example (seed, split, image index, purpose).

    Raises:
        ValueError: if a number of the name is outside of that range.
    """

    def __init__(self, *name: int) -> None:
        for number in name:
            if not 0 <= number <= MAX_SEED:
                raise ValueError(f"random seed: expected an integer in [0, 2**32), got {number}")
        self._state = np.random.RandomState(np.array(name, dtype=np.uint32))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        return low + (high - low) * float(self._state.random_sample())

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high], both ends included."""
        return low + int(self.uniform() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.uniform() < probability

    def sign(self) -> float:
        """-1.0 or 1.0 with equal probability."""
        return -1.0 if self.chance(0.5) else 1.0

    def choice(self, options: Sequence[T]) -> T:
        """One of the options, all equally likely."""
        return options[self.integer(0, len(options) - 1)]

    def weighted(self, weights: Sequence[float]) -> int:
        """An index of ``weights``, drawn in proportion to the weights (they need not sum to 1)."""
        total = 0.0
        for weight in weights:
            total += weight
        rest = self.uniform(0.0, total)
        for index, weight in enumerate(weights):
            rest -= weight
            if rest < 0.0:
                return index
        return len(weights) - 1

    def array(self, *shape: int) -> np.ndarray:
        """float32 numbers in [0, 1) of the given shape."""
        return self._state.random_sample(shape).astype(np.float32)

    def grain(self, *shape: int) -> np.ndarray:
        """float32 numbers of the given shape in (-1, 1), small ones most likely.

        The difference of two random bytes: quick, and nearly enough a Gaussian.
        """
        size = 1
        for side in shape:
            size *= side
        data = np.frombuffer(self._state.bytes(2 * size), dtype=np.uint8).astype(np.float32)
        return ((data[:size] - data[size:]) / np.float32(256.0)).reshape(shape)
