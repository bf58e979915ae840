"""Foreground masks of whole images: read from a file, or the union of the objects' masks.

Both the mapper and the evaluator use these functions, so that training and evaluation see the same
labels. Masks are (H, W) uint8 at the image's original size: 0 = background, 1 = foreground, 255 =
no label.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from d2_multitask.data.io import ImageReadError, read_label_map
from d2_multitask.data.labels.base import IGNORE_VALUE, MapLabel, Record, name_of, size_of
from d2_multitask.data.labels.sem_seg import sem_seg_from_annotations
from d2_multitask.data.problems import DATA_REPORT, ProblemReport

_KINDS = ("BACKGROUND", "FOREGROUND", "IGNORE")
# What the values of a mask file mean if nothing is said. 1 and 255 never occur in one file.
_DEFAULT_VALUES = {"BACKGROUND": (0,), "FOREGROUND": (1, 255), "IGNORE": ()}


@dataclass(frozen=True)
class MaskValues:
    """What the numbers in a mask file mean.

    Attributes:
        background: values of the background.
        foreground: values of the foreground.
        ignore: values of pixels without a label.
        threshold: instead of values: from this one on it is foreground, below it background; for
            masks with soft borders or from JPEG files. 0 = none.
        is_default: nothing was said: 0 is background, and 1 or 255 foreground; a file that holds
            both 1 and 255 is refused, because 255 may mean "no label" in it.
    """

    background: tuple[int, ...] = _DEFAULT_VALUES["BACKGROUND"]
    foreground: tuple[int, ...] = _DEFAULT_VALUES["FOREGROUND"]
    ignore: tuple[int, ...] = _DEFAULT_VALUES["IGNORE"]
    threshold: int = 0
    is_default: bool = True

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any] | None, threshold: int = 0) -> MaskValues:
        """From the YAML: ``{"BACKGROUND": [0], "FOREGROUND": [1], "IGNORE": [255]}``.

        Args:
            values: a number or a list of numbers for each kind; ``IGNORE`` may be left out;
                ``None`` or empty = the default.
            threshold: see the class.

        Raises:
            ValueError: both are given, a kind is missing or misspelt, a value is no number in
                0..255 or occurs twice, or the threshold is out of range.
        """
        if not 0 <= threshold <= 255:
            raise ValueError(f"MASK_THRESHOLD: found {threshold}, expected 1 to 255, or 0 for none")
        if not values:
            return cls(threshold=threshold, is_default=not threshold)
        if threshold:
            raise ValueError("MASK_VALUES and MASK_THRESHOLD: found both, expected one of them")
        kinds = {str(kind): _as_values(kind, found) for kind, found in values.items()}
        unknown = [kind for kind in kinds if kind not in _KINDS]
        if unknown or "BACKGROUND" not in kinds or "FOREGROUND" not in kinds:
            close = difflib.get_close_matches((unknown or [""])[0].upper(), _KINDS, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(
                f"MASK_VALUES: found the keys {list(kinds)}, expected BACKGROUND, FOREGROUND and, "
                f"if there is such a value, IGNORE{hint}"
            )
        every = [value for found in kinds.values() for value in found]
        if len(set(every)) < len(every):
            raise ValueError(f"MASK_VALUES: found {dict(values)}, expected each value once")
        return cls(
            kinds["BACKGROUND"], kinds["FOREGROUND"], kinds.get("IGNORE", ()), is_default=False
        )

    def __str__(self) -> str:
        if self.is_default:
            return "0 and 1, or 0 and 255"
        parts = {"background": self.background, "foreground": self.foreground}
        parts["ignore"] = self.ignore
        return ", ".join(f"{kind} {list(found)}" for kind, found in parts.items() if found)


def _as_values(kind: str, found: Any) -> tuple[int, ...]:
    values = (found,) if isinstance(found, int) else found
    good = isinstance(values, Sequence) and all(
        isinstance(value, int) and 0 <= value <= 255 for value in values
    )
    if not good:
        raise ValueError(f"MASK_VALUES: {kind}: found {found!r}, expected numbers from 0 to 255")
    return tuple(values)


class ForegroundLabel(MapLabel):
    """``foreground``: 1 = foreground, 0 = background, 255 = no label; see `read`.

    Where a mask file cannot be used, `load` raises `ImageReadError`, as for the image itself.
    """

    key = "foreground"
    description = "foreground masks"
    fields = ("foreground_file_name",)
    # What the values of a mask mean was said, or is checked where it is read.
    values_are_ids: ClassVar[bool] = False

    def has(self, record: Record) -> bool:
        """Whether an image has a mask file, or objects with masks.

        An image that is labelled as having no object counts where the dataset's objects have masks;
        boxes alone tell no foreground.
        """
        if record.get("foreground_file_name"):
            return True
        if "annotations" not in record:
            return False
        if record.get("sem_seg_from_annotations"):
            return True
        return any(annotation.get("segmentation") for annotation in record["annotations"])

    def read(self, record: Record, report: ProblemReport = DATA_REPORT) -> np.ndarray | None:
        """From ``foreground_file_name`` (with ``foreground_values``, a `MaskValues`), or the union
        of the masks in ``annotations``: crowds, and boxes of objects without a usable mask, have no
        label.

        Returns:
            (H, W) uint8, see the top of the file; ``None`` if the image has no such label.

        Raises:
            ImageReadError: the mask file is missing or broken, has another size than the image, or
                holds other values; a `ValueError`.
        """
        if not self.has(record):
            return None
        size, file_name = size_of(record), record.get("foreground_file_name")
        if file_name:
            return read_foreground(file_name, size, record.get("foreground_values"), report)
        classes = sem_seg_from_annotations(
            record["annotations"], *size, report=report, where=name_of(record)
        )
        return np.where(classes == IGNORE_VALUE, classes, (classes > 0).astype(np.uint8))


def read_foreground(
    file_name: str,
    size: tuple[int, int],
    values: MaskValues | None = None,
    report: ProblemReport = DATA_REPORT,
) -> np.ndarray:
    """Read a mask file.

    Args:
        file_name: an image of one channel (or of three equal ones, or with the mask in alpha).
        size: (h, w) of the image that it belongs to.
        values: what its numbers mean.
        report: counts the masks that are read from alpha.

    Returns:
        (H, W) uint8.

    Raises:
        ImageReadError: see `ForegroundLabel.read`; names the file, what was found and expected.
    """
    values = values or MaskValues()
    mask = read_label_map(
        file_name,
        grey_colors=True,
        white_zero=not (values.is_default or values.threshold),
        expected_size=size,
        report=report,
    )
    check_size(file_name, mask, size)
    if mask.min() < 0 or mask.max() > 255:
        raise ImageReadError(
            f"{file_name}: found values {mask.min()}..{mask.max()}, expected 0..255; save it with "
            "8 bits a pixel"
        )
    mask = mask.astype(np.uint8, copy=False)
    if values.threshold:
        return (mask >= values.threshold).astype(np.uint8)
    table = np.full(256, 2, dtype=np.uint8)  # 2 = no meaning
    table[list(values.background)], table[list(values.foreground)] = 0, 1
    table[list(values.ignore)] = IGNORE_VALUE
    result = table[mask]
    _check_values(file_name, mask, result, values)
    return result


def check_size(file_name: str, mask: np.ndarray, size: tuple[int, int]) -> None:
    """Raise an `ImageReadError` if a mask has not the size (h, w) of its image."""
    if mask.shape != tuple(size):
        raise ImageReadError(
            f"{file_name}: found a mask of {mask.shape[1]}x{mask.shape[0]}, expected "
            f"{size[1]}x{size[0]} as the image (width x height)"
        )


def _check_values(file_name: str, mask: np.ndarray, result: np.ndarray, values: MaskValues) -> None:
    unknown = result == 2
    is_mixed = values.is_default and bool((mask == 1).any() and (mask == 255).any())
    if not unknown.any() and not is_mixed:
        return
    found, counts = np.unique(mask[unknown] if unknown.any() else mask, return_counts=True)
    raise ImageReadError(
        f"{file_name}: found the values {found[:8].tolist()}{', ...' if len(found) > 8 else ''} in "
        f"{counts.sum()} pixels, expected {values}. Set MASK_VALUES of the dataset, or "
        "MASK_THRESHOLD (such as 128) for masks with soft borders"
    )
