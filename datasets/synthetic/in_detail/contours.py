"""Boundaries and occlusion fragments from who is seen where, and who is in front.

A boundary pixel belongs to the nearer of the two that meet there, so lines are one pixel thin.
"""

from __future__ import annotations

import numpy as np

from d2_multitask.data.labels.edges import LEFT, RIGHT, Fragments, occluder_directions

_ALL, _FIRST, _SECOND = slice(None), slice(None, -1), slice(1, None)
# Index expressions of the pixels and of their neighbours below, above, to the right, to the left.
_NEIGHBOURS = (
    ((_FIRST, _ALL), (_SECOND, _ALL)),
    ((_SECOND, _ALL), (_FIRST, _ALL)),
    ((_ALL, _FIRST), (_ALL, _SECOND)),
    ((_ALL, _SECOND), (_ALL, _FIRST)),
)
# Walks prefer straight neighbours to diagonal ones.
_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
_LEAST_LENGTH = 4
# Pixels beside the line that tell on which side the front object is.
_PROBE = 1.6


def boundary_mask(owner: np.ndarray) -> np.ndarray:
    """(H, W) bool, the pixels of instances that touch what is behind them.

    Args:
        owner: (H, W) integers, the instance at each pixel, larger = nearer; negative = none.
    """
    edge = np.zeros(owner.shape, dtype=bool)
    for here, there in _NEIGHBOURS:
        edge[here] |= (owner[here] > owner[there]) & (owner[here] >= 0)
    return edge


def occlusion_fragments(owner: np.ndarray) -> tuple[list[np.ndarray], list[int]]:
    """Chains of pixels where one instance covers another.

    Args:
        owner: see :func:`boundary_mask`.

    Returns:
        Pixel indices of each chain, column-major and 0-based, in the order of travel; and for each
        1 if the nearer instance is on the left of travel, 2 if on the right.
    """
    contacts: dict[tuple[int, int], np.ndarray] = {}
    for here, there in _NEIGHBOURS:
        meets = (owner[here] > owner[there]) & (owner[there] >= 0)
        pairs = np.stack([owner[here][meets], owner[there][meets]], axis=1)
        for front, back in np.unique(pairs, axis=0).tolist():
            mask = contacts.setdefault((front, back), np.zeros(owner.shape, dtype=bool))
            mask[here] |= meets & (owner[here] == front) & (owner[there] == back)
    chains: list[np.ndarray] = []
    labels: list[int] = []
    for front, back in sorted(contacts):
        for chain in walk_chains(contacts[front, back]):
            if len(chain) >= _LEAST_LENGTH:
                rows, columns = np.array(chain).T
                chains.append(columns * owner.shape[0] + rows)
                labels.append(_side_of_front(chain, owner == front, owner == back))
    return chains, labels


def walk_chains(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """The pixels of a thin mask (H, W) as 8-connected chains of (row, column).

    Every pixel is in exactly one chain. Walks start at ends of lines, then anywhere.
    """
    left = {(int(r), int(c)) for r, c in zip(*np.nonzero(mask), strict=True)}

    def neighbours(pixel: tuple[int, int]) -> list[tuple[int, int]]:
        row, column = pixel
        return [(row + r, column + c) for r, c in _STEPS if (row + r, column + c) in left]

    chains = []
    ends = [pixel for pixel in sorted(left) if len(neighbours(pixel)) <= 1]
    for start in ends + sorted(left):
        if start not in left:
            continue
        left.discard(start)
        chain = [start]
        while following := neighbours(chain[-1]):
            left.discard(following[0])
            chain.append(following[0])
        chains.append(chain)
    return chains


def _side_of_front(chain: list[tuple[int, int]], front: np.ndarray, back: np.ndarray) -> int:
    """The side of travel on which more of the front, and less of the back instance is seen."""
    points = np.array(chain, dtype=np.float64)[:, ::-1] + 0.5
    fragment = Fragments(points, np.zeros(len(points), np.int64), np.array([LEFT]))
    to_left = occluder_directions(fragment)
    balance = 0
    for sign in (1, -1):
        pixels = np.floor(points + sign * _PROBE * to_left).astype(np.int64)
        inside = ((pixels >= 0) & (pixels < (front.shape[1], front.shape[0]))).all(axis=1)
        columns, rows = pixels[inside].T
        seen = front[rows, columns].astype(np.int64) - back[rows, columns]
        balance += sign * int(seen.sum())
    return LEFT if balance >= 0 else RIGHT
