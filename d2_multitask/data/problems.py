"""Counts what is wrong with the data, so that training can go on and nothing is lost silently.

How it works: every process has one report, ``DATA_REPORT``. A problem is logged at once, but only
the first few of a kind; all are counted, and ``log_totals`` says the counts at the end. Problems
that a data loader's worker process meets are logged by that worker and travel to the main process
inside the next image's dict (key ``data_problems``), where ``ReportingLoader`` takes them out
again and adds them to the main report. This needs no shared memory and works with fork and spawn
alike; only what was prefetched but never used for training is not counted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

from torch.utils.data import get_worker_info

logger = logging.getLogger(__name__)

PROBLEMS_KEY = "data_problems"
"""Key of an image's dict under which a worker process sends its problems."""


class Problem(NamedTuple):
    """One thing that is wrong with the data.

    Attributes:
        kind: what it is and what is done about it, the same words for all of its kind.
        where: file, and the image or object in it; counts distinct places.
        details: the field, what was found and what was expected.
    """

    kind: str
    where: str
    details: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.details}"


def _encodable(text: str) -> str:
    """Half surrogate pairs, which JSON and file names can hold, as escapes, for the log."""
    return text.encode(errors="backslashreplace").decode()


class ProblemReport:
    """Counts problems by kind and logs the first few of each.

    Args:
        max_logged: how many problems of a kind are logged at once, and named in the totals.
    """

    def __init__(self, max_logged: int = 3) -> None:
        self.max_logged = max_logged
        self._examples: dict[str, list[Problem]] = {}
        self._places: dict[str, set[str]] = {}
        self._times: dict[str, int] = {}
        self._pending: list[Problem] = []

    def add(self, kind: str, where: str, details: str) -> None:
        """Count a problem and log it if it is among the first of its kind in this process."""
        problem = Problem(kind, _encodable(where), _encodable(details))
        if self._count(problem):
            last = len(self._examples[kind]) == self.max_logged
            more = (
                " (further ones of this kind are counted and reported at the end)" if last else ""
            )
            logger.warning("%s%s", problem, more)
        if get_worker_info() is not None:
            self._pending.append(problem)

    def extend(self, problems: Iterable[Problem]) -> None:
        """Count and log several problems."""
        for problem in problems:
            self.add(*problem)

    def take_pending(self) -> list[Problem]:
        """Problems of this worker process that were not sent yet; none in the main process."""
        pending, self._pending = self._pending, []
        return pending

    def merge(self, problems: Iterable[Problem]) -> None:
        """Count problems that a worker process has already logged."""
        for problem in problems:
            self._count(Problem(*problem))

    def add_all(self, others: Iterable[ProblemReport]) -> None:
        """Take in what the reports of other training processes hold.

        What several met counts once: each of them has read the same label files.
        """
        for other in others:
            for kind, places in other._places.items():
                known = self._places.setdefault(kind, set())
                self._times[kind] = self._times.get(kind, 0) + len(places - known)
                known |= places
                examples = self._examples.setdefault(kind, [])
                examples += other._examples[kind][: self.max_logged - len(examples)]

    @property
    def counts(self) -> dict[str, int]:
        """Kind -> number of distinct places; an image met in two epochs counts once."""
        return {kind: len(places) for kind, places in self._places.items()}

    @property
    def problems(self) -> dict[str, list[Problem]]:
        """Kind -> the first few problems of it."""
        return {kind: list(examples) for kind, examples in self._examples.items()}

    def summary(self) -> str:
        """The totals as text, one line a kind; empty if there was no problem."""
        lines = []
        for kind, places in self._places.items():
            times = self._times[kind]
            met = f", met {times} times" if times > len(places) else ""
            first = self._examples[kind][0]
            lines.append(f"  {len(places)} x {kind}{met} (first: {first.where}: {first.details})")
        return "\n".join(lines)

    def log_totals(self) -> None:
        """Log the counts of this process; call it when training or evaluation ends."""
        if self._places:
            logger.warning("Problems in the data:\n%s", self.summary())
        else:
            logger.info("No problem was found in the data.")

    def clear(self) -> None:
        """Forget everything, for tests and for a second run in one process."""
        self.__init__(self.max_logged)

    def _count(self, problem: Problem) -> bool:
        """Returns whether the problem is new and among the first of its kind."""
        places = self._places.setdefault(problem.kind, set())
        examples = self._examples.setdefault(problem.kind, [])
        self._times[problem.kind] = self._times.get(problem.kind, 0) + 1
        if problem.where in places:
            return False
        places.add(problem.where)
        if len(examples) >= self.max_logged:
            return False
        examples.append(problem)
        return True


DATA_REPORT = ProblemReport()
"""The report of this process; there is one, because the catalogue of datasets is global too."""


def shown(value: Any, max_length: int = 80) -> str:
    """A value for a message, cut if it is long."""
    text = repr(value)
    return text if len(text) <= max_length else f"{text[:max_length]}..."
