"""Whether the maps of a data set can be learnt from, found out from a few of them before training.

One bad map is skipped later, but if there is no good one, or the values in the files are no class
ids, a head would train on nothing, or on the wrong labels, without a word.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_multitask.data.io import ImageReadError, read_image, read_label_map
from d2_multitask.data.labels.foreground import foreground_map
from d2_multitask.data.labels.maps import IGNORE_VALUE, boundary_map, part_seg_map
from d2_multitask.data.labels.sem_seg import IDS_KEY, IGNORE_KEY, load_sem_seg
from d2_multitask.data.problems import ProblemReport

logger = logging.getLogger(__name__)

BAD_MASK = "foreground mask that cannot be used"

# So many maps tell whether all of a data set's cannot be used; only a suspicion reads so many.
MAX_UNUSABLE = 200
# So many usable maps, if they show one class only.
MAX_ONE_CLASS = 20

# Maps that are derived from objects hold no ids of their own.
_KEYS = {
    "seg": ("sem_seg_file_name", "sem_seg_segments"),
    "parts": ("part_seg_file_name", "part_seg_segments"),
    "boundary": ("boundary_file_name", "boundary_segmentation"),
    "foreground": ("foreground_file_name",),
}


def check_maps(
    cfg: CfgNode,
    name: str,
    dataset_dicts: Sequence[Mapping[str, Any]],
    tasks: Sequence[str] | None = None,
) -> None:
    """Each task with maps in the data set has one that can be used.

    Reads until a map shows two classes, which is nearly always the first. ``tasks`` are those that
    are asked for, ``None`` for the config's.

    Raises:
        ValueError: none of the maps can be used, or they show one class and values that are
            ignored, or data set and network ignore different values; names the first problem, the
            values and the key to set.
    """
    head = cfg.MODEL.SEM_SEG_HEAD
    num_parts = cfg.MODEL.PARTS_HEAD.NUM_CLASSES if "PARTS_HEAD" in cfg.MODEL else IGNORE_VALUE
    loaders: dict[str, Callable[[dict[str, Any], ProblemReport], np.ndarray | None]] = {
        "seg": lambda record, report: load_sem_seg(
            record,
            record["height"],
            record["width"],
            num_classes=head.NUM_CLASSES,
            ignore_value=head.IGNORE_VALUE,
            report=report,
        ),
        "parts": lambda record, report: part_seg_map(record, report, num_parts),
        "boundary": boundary_map,
        "foreground": _foreground_map,
    }
    for task, load in loaders.items():
        records = [r for r in dataset_dicts if any(r.get(key) for key in _KEYS[task])]
        if task not in (cfg.MODEL.TASKS if tasks is None else tasks) or not records:
            continue
        if task == "seg":
            _check_ignore_value(name, head.IGNORE_VALUE)
        ignore_value = head.IGNORE_VALUE if task == "seg" else IGNORE_VALUE
        is_one_enough = task == "seg" and head.NUM_CLASSES < 2
        report = ProblemReport(max_logged=1)
        seen, classes = _sample(cfg, records, load, ignore_value, is_one_enough, report)
        if not classes:
            raise ValueError(
                f"Data set {name!r}: task {task!r}: none of its maps can be used "
                f"({min(len(records), MAX_UNUSABLE)} were read). The first problem:\n"
                f"{report.summary() or f'  all pixels have the value {ignore_value}, no label'}"
            )
        if len(classes) == 1 and not is_one_enough:
            _check_values(name, task, seen, classes.pop())


def _foreground_map(record: dict[str, Any], report: ProblemReport) -> np.ndarray | None:
    try:
        return foreground_map(record, report)
    except ImageReadError as error:
        report.add(BAD_MASK, str(record["foreground_file_name"]), str(error))
        return None


def _check_ignore_value(name: str, expected: int) -> None:
    """One value means no label to the network and to the metric."""
    found = MetadataCatalog.get(name).get("ignore_label")
    if found is not None and found != expected:
        raise ValueError(
            f"Data set {name!r}: metadata 'ignore_label': found {found}, but "
            f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {expected}; set IGNORE_VALUE to {found}. If the "
            f"maps hold another value where nothing is labelled, set {IGNORE_KEY} of the data set "
            f"(in dicts {IGNORE_KEY.lower()}), such as [{expected}]"
        )


def check_map_names(cfg: CfgNode, name: str, dataset_dicts: Sequence[Mapping[str, Any]]) -> None:
    """Names of semantic classes that are not those of the ids in the map files give no advice.

    Only where their number is not the network's: is it the network or are it the names that are
    wrong? The ids of a few maps are compared with the names.

    Raises:
        ValueError: the numbers differ, and the names are the JSON's or fewer than the ids.
    """
    names = MetadataCatalog.get(name).get("stuff_classes")
    expected = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    records = [r for r in dataset_dicts if r.get("sem_seg_file_name")]
    if "seg" not in cfg.MODEL.TASKS or not records or names is None or len(names) == expected:
        return
    ids: set[int] = set()
    for record in _spread(records, MAX_ONE_CLASS):
        with contextlib.suppress(ImageReadError):
            ids.update(np.unique(read_label_map(record["sem_seg_file_name"])).tolist())
    translation = records[0].get("sem_seg_ids")
    if translation is not None:
        ids = {translation[value] for value in ids if value in translation}
    else:
        ignored = np.atleast_1d(records[0].get("sem_seg_ignore", ())).tolist()
        ids -= {cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE, *ignored}
    is_guessed = getattr(DatasetCatalog.data.get(name), "stuff_classes", names) is None
    if not is_guessed and max(ids, default=0) < len(names):
        return
    source = "the background and the JSON's categories" if is_guessed else "as registered"
    raise ValueError(
        f"Data set {name!r}: stuff_classes: found {len(names)} names, {source}, but expected "
        f"{expected} as in the network, and the maps hold the ids {_short(sorted(ids))}. Name i "
        "must be that of id i: set STUFF_CLASSES of the data set to the names of the ids, or "
        f"{IDS_KEY} to a map from the values to the numbers of these names: {_short(list(names))}; "
        "then set MODEL.SEM_SEG_HEAD.NUM_CLASSES to the number of names"
    )


def _short(values: Sequence[Any]) -> str:
    return f"{list(values[:20])}" + (f" and {len(values) - 20} more" if len(values) > 20 else "")


def _sample(
    cfg: CfgNode,
    records: Sequence[Mapping[str, Any]],
    load: Callable[[dict[str, Any], ProblemReport], np.ndarray | None],
    ignore_value: int,
    is_one_enough: bool,
    report: ProblemReport,
) -> tuple[list[Mapping[str, Any]], set[int]]:
    """Images with usable maps, and the classes that these show."""
    seen: list[Mapping[str, Any]] = []
    classes: set[int] = set()
    for record in _spread(records, MAX_UNUSABLE):
        try:
            height, width = read_image(record["file_name"], cfg.INPUT.FORMAT).shape[:2]
        except ImageReadError:
            continue
        loaded = load({**record, "height": height, "width": width}, report)
        if loaded is None:
            continue
        seen.append(record)
        classes |= set(np.unique(loaded).tolist()) - {ignore_value}
        if len(classes) > 1 or (classes and (is_one_enough or len(seen) >= MAX_ONE_CLASS)):
            break
    return seen, classes


def _spread(records: Sequence[Any], most: int) -> Iterator[Any]:
    """Up to ``most`` of them, from the first to the last in even steps."""
    number = min(len(records), most)
    return (records[i * len(records) // number] for i in range(number))


def _check_values(
    name: str, task: str, records: Sequence[Mapping[str, Any]], class_id: int
) -> None:
    """All usable maps show one class: an error if most of them hold values that are ignored."""
    # What the values of a foreground mask mean was said, or is checked where it is read.
    keys = _KEYS[task][:1] if task != "foreground" else ()
    files = [str(r[key]) for r in records for key in keys if r.get(key)]
    pixels: Counter[int] = Counter()
    num_hiding = 0
    for file in files:
        values, counts = np.unique(read_label_map(file), return_counts=True)
        num_hiding += any(values != class_id)
        pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    message = (
        f"Data set {name!r}: task {task!r}: the maps that were read ({len(records)}) show class "
        f"{class_id} only, expected several"
    )
    if num_hiding:
        message += f". Found the values (value: pixels) {dict(sorted(pixels.items()))} in the "
        message += f"files, such as {files[0]}; all but those of class {class_id} are ignored. "
        message += _advice(task, sorted(pixels))
    is_said = any(r.get("sem_seg_ignore") is not None or r.get("sem_seg_ids") for r in records)
    if num_hiding * 2 >= len(records) and task != "parts" and not is_said:
        raise ValueError(message)
    logger.warning(message)


def _advice(task: str, values: Sequence[int]) -> str:
    if task != "seg":
        return "If they are labels, save them as class ids (255 means no label)"
    ids = {value: class_id for class_id, value in enumerate(values[:10])}
    return (
        f"If they are classes, set {IDS_KEY} of the data set (in dicts {IDS_KEY.lower()}), such as "
        f"{ids}; if they mean no label, {IGNORE_KEY}, such as {list(values[1:10])}"
    )
