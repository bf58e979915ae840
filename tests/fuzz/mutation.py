"""Seeded mutations of bytes and of JSON values, and how many of them the fuzz tests try."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Sequence
from typing import Any

VALUES = [
    *(None, True, False, 0, 1, -1, 1.0, 0.5, 7, 1e18, 10**60, 10**400, -(10**400)),
    *(float("nan"), float("inf"), "", "0", "1", "true", "NaN", "5", "\ud800", "a.png"),
    *([], [None], [[]], [[1]], {}, {"id": 1}, [1, 2, 3, 4], [[8, 4, 2], [10, 9, 1], [0, 0, 0]]),
]


def number_of_mutants(default: int) -> int:
    """``D2_MULTITASK_MUTANTS``, or the number that is tried without it."""
    return int(os.environ.get("D2_MULTITASK_MUTANTS", default))


def mutated_bytes(draw: random.Random, data: bytes, words: Sequence[bytes] = (b"",)) -> bytes:
    """One to three pieces replaced by a word, by another piece, by nothing, or a flipped bit."""
    for _ in range(draw.randint(1, 3)):
        start = draw.randrange(len(data) + 1)
        stop = min(len(data), start + draw.choice((0, 0, 1, 3, 20)))
        other = draw.randrange(len(data) + 1)
        flipped = bytes(byte ^ 1 << draw.randrange(8) for byte in data[start:stop])
        piece = data[other : other + 12]
        new = draw.choice((draw.choice(words), draw.choice(words), piece, b"", flipped))
        data = data[:start] + new + data[stop:]
    return data


def _places(value: Any) -> list[tuple[Any, Any]]:
    """All (container, key) of a JSON."""
    if not isinstance(value, dict | list):
        return []
    keys = value if isinstance(value, dict) else range(len(value))
    return [place for key in keys for place in [(value, key), *_places(value[key])]]


def mutated_json(rng: random.Random, content: Any) -> str:
    """One to four values replaced, deleted or doubled; of one text in ten a character too."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice([1, 1, 2, 4])):
        container, key = rng.choice(_places(content))
        action = rng.random()
        if action < 0.8:
            container[key] = copy.deepcopy(rng.choice(VALUES))
        elif action < 0.9:
            del container[key]
        elif isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
    text = json.dumps(content)
    if rng.random() < 0.1:
        position = rng.randrange(len(text))
        new = rng.choice(["", "[", "}", '"', "\ufeff", "9" * 5000])
        text = text[:position] + new + text[position + 1 :]
    return text


Path = tuple[str | int, ...]


def _paths(value: Any, path: Path = ()) -> list[Path]:
    """Of all values inside of a JSON."""
    if not isinstance(value, dict | list):
        return []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [p for key, v in items for p in [(*path, key), *_paths(v, (*path, key))]]


def _in_other_form(rng: random.Random, value: Any) -> Any:
    """The same value as another type, as text, nested or cut; or one of ``VALUES``."""
    forms = [[value], [[value]], {"0": value}, str(value), f" {value} ", json.dumps(value)]
    if isinstance(value, int | float):
        forms += [float(value), -value, value + 0.5, f"{value}.0", bool(value), f"0{value}"]
    elif isinstance(value, list):
        forms += [value[:-1], value[::-1], value[0] if value else None]
        forms += [[value[i : i + n] for i in range(0, len(value), n)] for n in (2, 3)]
    elif isinstance(value, str):
        forms += [value.upper(), list(value)]
    return copy.deepcopy(rng.choice([*forms, *VALUES]))


def mutated_form(rng: random.Random, content: Any) -> tuple[Any, Path]:
    """A copy with one value in another form, without a value, or with one doubled; and its path."""
    content = copy.deepcopy(content)
    *above, key = path = rng.choice(_paths(content))
    container = content
    for step in above:
        container = container[step]
    action = rng.random()
    if action < 0.85:
        container[key] = _in_other_form(rng, container[key])
    elif action < 0.93 or isinstance(container, dict):
        del container[key]
    else:
        container.insert(key, copy.deepcopy(container[key]))
    return content, path
