"""Shards, tar files of images in webdataset's layout: what they hold, and how they come here.

A shard behind an http(s) address is copied as a whole into a cache folder: one request for a
thousand images, read in sequence, is what object stores are fast at, and from then on it is a local
file. ``D2_MULTITASK_SHARD_CACHE`` names the folder, best on a local disk; the shards unused for
longest are deleted to stay below ``D2_MULTITASK_SHARD_CACHE_GB`` (100). All processes of a computer
share it.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import os
import posixpath
import re
import shutil
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

from detectron2.utils.file_io import PathHandler, PathManager

from d2_multitask.data.folder_lock import one_at_a_time
from d2_multitask.data.io import IMAGE_SUFFIXES, ShardError
from d2_multitask.data.whole_files import whole_file

PREFIX = "shard://"
"""Of the addresses of images in shards, which ``PathManager`` opens as it opens files."""

_BLOCK = 512  # of tar files
_INDEXED = 32  # shards whose lists of images are kept
_WAITS = (1, 2, 4, 8, 16)  # seconds between attempts
_TIMEOUT = 60  # seconds without an answer
_AGAIN = "copy or pack it again; a training goes on with --resume"


class Member(NamedTuple):
    """A file in a shard: its name, where its content begins, and its length in bytes."""

    name: str
    start: int
    size: int


def is_remote(shard: str) -> bool:
    """Whether a shard is an address rather than a path."""
    return shard.startswith(("http://", "https://"))


def address(shard: str, image: Member) -> str:
    """What ``PathManager`` opens; ends with the image's name."""
    return f"{PREFIX}{image.start}+{image.size}@{shard}#/{image.name.replace('#', '_')}"


@functools.lru_cache(maxsize=_INDEXED)
def images_in(shard: str, count: int | None = None) -> tuple[Member, ...]:
    """The images of a shard, ``key.jpg``; other members, such as ``key.json``, are passed over.

    Args:
        shard: path or address.
        count: how many the index says, if there is one.

    Raises:
        ShardError: the shard is not there, cut, no tar file, or has another number of images.
    """
    with _opened(shard) as file:
        members = list(_members(file, shard))
    images = tuple(m for m in members if _suffix(m.name) in IMAGE_SUFFIXES)
    if not images or count not in (None, len(images)):
        kinds = sorted({_suffix(m.name) for m in members})
        raise ShardError(
            f"{shard}: found {len(images)} images (members end with {kinds}), expected "
            f"{count or 'at least one'}; {_AGAIN}, and make the index again"
        )
    return images


def _suffix(name: str) -> str:
    """After webdataset's key, which ends with the first dot of the name."""
    return "." + posixpath.basename(name).partition(".")[2].lower()


def _members(file: BinaryIO, shard: str) -> Iterator[Member]:
    """Read the headers only: each worker does so for each shard, and tarfile takes ten times as
    long.
    """
    size, position, long_name = os.fstat(file.fileno()).st_size, 0, ""
    while True:
        file.seek(position)
        header = file.read(_BLOCK)
        if header == bytes(_BLOCK):
            return
        if len(header) == _BLOCK and not _is_header(header):
            raise ShardError(
                f"{shard}: found no tar header at byte {position}, expected a tar file that is not "
                f"compressed; {_AGAIN}"
            )
        start = position + _BLOCK
        length = _number(header[124:136]) if len(header) == _BLOCK else 0
        position = start + -(-length // _BLOCK) * _BLOCK
        if len(header) < _BLOCK or position > size:
            raise ShardError(
                f"{shard}: found its end at byte {size} in the member that begins at byte "
                f"{start - _BLOCK}, expected a whole tar file: it is cut; {_AGAIN}"
            )
        kind = header[156:157]
        if kind in b"Lx":  # the name of the next member, GNU's and POSIX's way
            long_name = _long_name(file.read(length), kind) or long_name
        elif kind in b"0\0":
            name = b"/".join(_text(part) for part in (header[345:500], header[:100]) if part[0])
            yield Member(long_name or name.decode("utf-8", "replace"), start, length)
            long_name = ""


def _is_header(block: bytes) -> bool:
    """Whether it has a size, and the right checksum, whose own field counts as spaces."""
    with suppress(ValueError):
        checksum = sum(block) - sum(block[148:156]) + 8 * ord(" ")
        return _number(block[124:136]) >= 0 and _number(block[148:156]) == checksum
    return False


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU's way for files from 8 GiB
        return int.from_bytes(field[1:], "big")
    return int(_text(field).strip() or b"0", 8)


def _long_name(content: bytes, kind: bytes) -> str:
    if kind == b"L":
        return _text(content).decode("utf-8", "replace")
    path = re.search(rb"(?:^|\n)\d+ path=(.*?)\n", content)  # among records "length key=value\n"
    return path[1].decode("utf-8", "replace") if path else ""


def _opened(shard: str) -> BinaryIO:
    try:
        return open(local_path(shard), "rb")
    except (OSError, ValueError) as error:  # of a null byte in the name, for example
        if isinstance(error, ShardError):
            raise
        why = getattr(error, "strerror", error)
        raise ShardError(f"{shard}: cannot be read: {why}; {_AGAIN}") from error


class _ShardHandler(PathHandler):
    """Lets ``PathManager`` open an `address`, so that all that reads images reads shards."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **_: Any) -> IO[Any]:
        place, _, shard = path.removeprefix(PREFIX).rpartition("#")[0].partition("@")
        start, size = map(int, place.split("+"))
        with _opened(shard) as file:
            file.seek(start - _BLOCK)
            header, content = file.read(_BLOCK), file.read(size)
        if len(header) == _BLOCK and not (_is_header(header) and _number(header[124:136]) == size):
            raise ShardError(
                f"{shard}: found no member of {size} bytes at byte {start}, expected the image of "
                f"{path}: the shard is another one than when its images were listed; list them anew"
            )
        if len(content) < size:
            raise ShardError(f"{shard}: it ends before byte {start + size}: it is cut; {_AGAIN}")
        return io.BytesIO(content)


PathManager.register_handler(_ShardHandler(), allow_override=True)


def local_path(shard: str) -> Path:
    """Where a shard is on this computer; one behind an address is fetched first.

    Raises:
        ShardError: it cannot be fetched, after attempts over half a minute.
    """
    if not is_remote(shard):
        return Path(shard)
    folder, _ = cache()
    name = posixpath.basename(urllib.parse.urlsplit(shard).path)
    path = folder / f"{hashlib.sha256(shard.encode()).hexdigest()[:16]}-{name}"
    for _ in range(2):
        with suppress(FileNotFoundError):
            os.utime(path)  # used now: not among the first to be deleted
            return path
        folder.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(path.with_suffix(".guard")):
            if not path.exists():
                _with_retries(lambda: _download(shard, path), shard)
    return path


def cache() -> tuple[Path, float]:
    """The cache folder, and how many bytes it may hold."""
    folder = os.environ.get("D2_MULTITASK_SHARD_CACHE", "~/.cache/d2_multitask/shards")
    gigabytes = os.environ.get("D2_MULTITASK_SHARD_CACHE_GB", "100")
    try:
        return Path(folder).expanduser(), float(gigabytes) * 1e9
    except ValueError:
        raise ValueError(
            f"D2_MULTITASK_SHARD_CACHE_GB: found {gigabytes!r}, expected a number"
        ) from None


def shard_size(shard: str) -> int:
    """Bytes of a shard, which is not fetched for that.

    Raises:
        ShardError: it is not there.
    """
    if not is_remote(shard):
        with _opened(shard) as file:
            return os.fstat(file.fileno()).st_size

    def ask() -> int:
        # Not HEAD: signed addresses allow GET alone.
        request = urllib.request.Request(shard, headers={"Range": "bytes=0-0"})
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            return int(total or answer.headers["Content-Length"])

    return _with_retries(ask, shard)


def fetched(url: str) -> bytes:
    """The content of a small file behind an address, anew each time; raises as `local_path`."""
    return _with_retries(lambda: urllib.request.urlopen(url, timeout=_TIMEOUT).read(), url)


def _download(shard: str, path: Path) -> None:
    with urllib.request.urlopen(shard, timeout=_TIMEOUT) as answer:
        expected = answer.headers.get("Content-Length")
        _make_room(path.parent, int(expected or 0))
        with whole_file(path, durable=True) as unfinished:  # it is not checked again
            with open(unfinished, "wb") as file:
                shutil.copyfileobj(answer, file, 1 << 20)
            found = unfinished.stat().st_size
            if expected and found != int(expected):
                raise ConnectionError(f"found {found} bytes, expected {expected}")


def _make_room(folder: Path, needed: int) -> None:
    """Delete what was unused for longest; who has it open can read it to the end."""
    files = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process deletes too
            files.append((path.stat().st_mtime, path.stat().st_size, path))
    total = needed + sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= cache()[1]:
            return
        if path.suffix != ".guard":
            path.unlink(missing_ok=True)
            total -= size


def _with_retries(work: Callable[[], Any], shard: str) -> Any:
    """What ``work`` returns; a server that is away or busy is asked again."""
    for wait in (*_WAITS, None):
        try:
            return work()
        except (OSError, HTTPException, ValueError) as error:  # an OSError: urllib's, time-outs
            code = getattr(error, "code", 0)  # of HTTP
            final = (400 <= code < 500 and code not in (408, 429)) or isinstance(error, ValueError)
            if wait is None or final or getattr(error, "errno", 0) == errno.ENOSPC:
                raise ShardError(
                    f"{shard}: cannot be fetched: {error}; when it can, a training goes on with "
                    "--resume"
                ) from error
            time.sleep(wait)
    raise AssertionError
