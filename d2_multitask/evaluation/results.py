"""Results of an evaluation as a file (``results.json``) and as a Markdown table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from d2_multitask.data.whole_files import whole_file

RESULTS_FILE = "results.json"

# The rows of the table: the main metrics of papers.
MAIN_METRICS = ("AP", "AP50", "AP75", "mAP", "mIoU", "mIoU-60", "ODS-F", "OIS-F")
MAIN_METRICS += ("orientation-accuracy",)
# With more classes, the table leaves out the IoU of each.
_MAX_CLASSES = 10


def to_plain(results: Any) -> Any:
    """Nested dict of numbers -> of Python's; NaN and infinity (not in JSON) become None."""
    if isinstance(results, Mapping):
        return {str(key): to_plain(value) for key, value in results.items()}
    value = results if isinstance(results, int) else float(results)
    return value if math.isfinite(value) else None


def write_results(results: Mapping[str, Any], output_dir: str) -> str:
    """Write ``output_dir/results.json`` in one step: readers see the old file or all of the new.

    Args:
        results: ``{task: {metric: value}}``, or ``{dataset: {task: {metric: value}}}``.
        output_dir: existing or new folder.

    Returns:
        The path of the file.
    """
    path = Path(output_dir, RESULTS_FILE)
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(to_plain(results), indent=2) + "\n", encoding="utf-8")
    return str(path)


def format_results(results: Mapping[str, Any]) -> str:
    """The main metrics as a Markdown table, one row per metric.

    Args:
        results: as for `write_results`.
    """
    rows = [
        (name, metric, f"{value:.2f}" if math.isfinite(value) else "n/a")
        for name, scores in _tasks(results)
        for metric, value in _main_metrics(scores).items()
    ]
    headers = ("task", "metric", "value")
    align = ("left", "left", "right")
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True, colalign=align)


def _tasks(results: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Mapping[str, float]]]:
    """(name, {metric: value}) of every task; the name has the dataset's in front if given."""
    tasks: list[tuple[str, Mapping[str, float]]] = []
    for key, value in results.items():
        if any(isinstance(inner, Mapping) for inner in value.values()):
            tasks += _tasks(value, f"{prefix}{key} / ")
        elif value:
            tasks.append((prefix + key, value))
    return tasks


def _main_metrics(scores: Mapping[str, float]) -> dict[str, float]:
    """The rows of one task: all metrics if none is in `MAIN_METRICS`."""
    per_class = [key for key in scores if key.startswith("IoU-")]
    names = {*MAIN_METRICS, *(per_class if len(per_class) <= _MAX_CLASSES else ())}
    main = {key: value for key, value in scores.items() if key in names}
    return main or dict(scores)
