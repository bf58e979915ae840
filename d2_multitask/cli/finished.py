"""Which images of a folder `d2mt predict` has finished: it goes on where it was stopped."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from d2_multitask.data.whole_files import whole_file

FINISHED = "finished.jsonl"


class Finished:
    """Records of finished images, of this call and of earlier ones with the same settings.

    They are lines of JSON in the output folder; each process appends to a file of its own.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], rank: int = 0) -> None:
        """
        Args:
            folder: of the outputs; has to be there.
            settings: everything that the outputs depend on, as JSON can hold it.
            rank: of this process.
        """
        self._folder = folder
        self._settings = json.loads(json.dumps(settings))
        self._own = folder / f"finished.{rank}.jsonl"
        self._records = dict(self._read())
        self._file: Any = None

    def get(self, path: str) -> dict[str, Any] | None:
        """The record of an image, unless it is not finished or no longer the same file."""
        record = self._records.get(path)
        if record is None or record["stamp"] != stamp(path):
            return None
        return record if all((self._folder / name).exists() for name in record["files"]) else None

    def add(self, path: str, record: Mapping[str, Any]) -> None:
        """Note that all ``files`` of an image, names below the folder, are written."""
        line = {"path": path, "stamp": stamp(path), **record}
        if self._file is None:
            self._file = self._own.open("a" if self._is_ours(self._own) else "w")
            self._file.write(f"\n{json.dumps(self._settings)}\n")
        self._file.write(f"{json.dumps(line)}\n")
        self._file.flush()
        self._records[path] = line

    def close(self) -> None:
        """This process has finished its images."""
        if self._file is not None:
            self._file.close()

    def merge(self) -> None:
        """Make one file of those of all processes, which have to be closed."""
        self._records = dict(self._read())
        with whole_file(self._folder / FINISHED) as unfinished, unfinished.open("w") as file:
            file.write(f"{json.dumps(self._settings)}\n")
            file.writelines(f"{json.dumps(record)}\n" for record in self._records.values())
        for part in self._folder.glob("finished.*.jsonl"):
            part.unlink()

    def _read(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for file in [self._folder / FINISHED, *sorted(self._folder.glob("finished.*.jsonl"))]:
            if self._is_ours(file):
                yield from ((record["path"], record) for record in _lines(file) if "path" in record)

    def _is_ours(self, file: Path) -> bool:
        return next(_lines(file), None) == self._settings


def stamp(path: str) -> list[int]:
    """Size and time of a file: another file has others."""
    status = Path(path).stat()
    return [status.st_size, status.st_mtime_ns]


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """The whole lines; a process that was killed leaves a part of one."""
    with contextlib.suppress(FileNotFoundError), file.open() as lines:
        for line in lines:
            with contextlib.suppress(ValueError):
                if line.strip():
                    yield json.loads(line)
