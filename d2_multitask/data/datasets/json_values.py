"""What a number, an id and a flag may look like in a JSON file; all fields are read through this.

A number is a JSON number: text is none, nor is ``true``. An id may also be text, which stays text;
but a category's id is an integer, also one written as text, and what refers to an image may write
its id either way. A flag is 0, 1, ``true`` or ``false``; tools also write these four as text.
"""

from __future__ import annotations

import math
import os
import re
from typing import Any

_MAX_INTEGER = 2**63 - 1
_INTEGER_TEXT = re.compile(r"0|-?[1-9][0-9]{0,18}")
_FLAG_TEXTS = {"0": False, "1": True, "false": False, "true": True}


def as_number(value: Any) -> float | None:
    """A finite number as float; ``None`` for anything else."""
    if type(value) not in (int, float):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer of more than 308 digits
        return None
    return number if math.isfinite(number) else None


def as_integer(value: Any) -> int | None:
    """An integer of 64 bits, also one written as 1.0; ``None`` for anything else."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and -_MAX_INTEGER <= value <= _MAX_INTEGER else None


def as_id(value: Any) -> int | str | None:
    """An id: an integer as in ``as_integer``, or text; ``None`` for anything else."""
    if type(value) is str:
        return value if is_text(value) else None
    return as_integer(value)


def as_category_id(value: Any) -> int | None:
    """An integer as in ``as_integer``, or the text of one; ``None`` for anything else."""
    if type(value) is str:
        value = other_form(value)
    return as_integer(value)


def other_form(value: int | str | None) -> int | str | None:
    """1 for "1" and "1" for 1; ``None`` for all else, also for "01" or "1.0"."""
    if type(value) is int:
        return str(value)
    is_plain = type(value) is str and _INTEGER_TEXT.fullmatch(value)
    return int(value) if is_plain else None


def as_flag(value: Any) -> bool | None:
    """A flag, also as text; a field that is missing (``None``) is ``False``.

    Returns:
        ``None`` if it is neither true nor false.
    """
    if value is None or (type(value) in (int, bool) and value in (0, 1)):
        return bool(value)
    if isinstance(value, str):
        return _FLAG_TEXTS.get(value.strip().lower())
    number = as_integer(value)
    return bool(number) if number in (0, 1) else None


def as_file_name(value: Any) -> str | None:
    """A text that can name a file; ``None`` for others, such as "", "/" and half a surrogate."""
    if not isinstance(value, str) or os.path.basename(value) in ("", ".") or "\0" in value:
        return None
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return None
    return value


def is_text(value: Any) -> bool:
    """Whether a value is a text that can be printed and written; half a surrogate cannot."""
    return isinstance(value, str) and value == value.encode(errors="ignore").decode()


def shown(value: Any, max_length: int = 80) -> str:
    """A value for a message, cut if it is long."""
    text = repr(value)
    return text if len(text) <= max_length else f"{text[:max_length]}..."
