"""Reads weight files without running code from them.

A pickle is a program. Detectron2 runs it as it is (`pickle.load`), so a `.pkl` file from a stranger
may do anything. Here a `.pkl` may build arrays and plain containers only, a PyTorch file is read
with `weights_only=True`, and files that need more are refused with the name of what they need.
Memory is limited by the file's size, time by `MAX_PICKLE` and `MAX_OPCODES`.

Damage is found where the format allows it: a zip (PyTorch since 1.6) has checksums, safetensors
has sizes. Older PyTorch files and `.pkl` have neither for their numbers; their end is checked.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import math
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NoReturn

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

_ZIP = b"PK\x03\x04"
MAX_PICKLE = 16 * 2**20
"""Bytes of the pickle, without the numbers, of a PyTorch file; large networks have 1 MB."""
MAX_OPCODES = 2_000_000
"""Reads of a `.pkl`; the model zoo's need some thousands."""
DESCRIPTION_KEY = "d2_multitask"
"""Where a weight file says what network it holds, see `d2_multitask.checkpoint.description`."""
MAX_GROWTH = 8
"""Bytes of memory per byte of the file."""

# Where frameworks store the weights in a training checkpoint, in the order of preference.
_MODEL_KEYS = ("model", "state_dict", "model_state", "model_state_dict")
# Where they store an exponential moving average of the weights.
_EMA_KEYS = ("ema", "ema_state", "model_ema", "ema_model", "state_dict_ema")

_DAMAGED = (
    "It is damaged, cut off, or not a weight file at all ({size} bytes). Get a fresh copy (if this "
    "is a cached download, delete it first); instead of a checkpoint of an interrupted training, "
    "take the one before it"
)
_REFUSED = (
    "Loading it could run code. If you trust its source, save its tensors alone once: load it in "
    "Python with pickle or torch.load(..., weights_only=False), and torch.save the dict of tensors"
)


def read_checkpoint(path: str, prefer_ema: bool = False) -> dict[str, Any]:
    """Read a weight file.

    Args:
        path: A local file. `.pkl`: Detectron2's model zoo or Caffe2. `.safetensors`: tensors,
            and the text under `DESCRIPTION_KEY` of its metadata. Anything else: PyTorch, either a
            plain dict of tensors or a training checkpoint that has it under one of "model",
            "state_dict", "model_state", "model_state_dict".
        prefer_ema: If the file has an exponential moving average too ("ema", "ema_state",
            "model_ema", "ema_model" or "state_dict_ema"), take its tensors instead.

    Returns:
        A dict as `DetectionCheckpointer` has it: "model" (name -> Tensor); possibly "__author__"
        and "matching_heuristics"; whatever else a training checkpoint holds, unchanged. Two
        entries are added: "skipped", names below "model" that are no tensors, and "ema_used".

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, holds no tensors, or would have to run code.
    """
    if not os.path.isfile(path):
        where = " (it is a folder)" if os.path.isdir(path) else ""
        raise FileNotFoundError(f"There is no weight file {path}{where}")
    if path.endswith(".pkl"):
        content = _with_pickle_conventions(_read_pickle(path))
    elif path.endswith(".safetensors"):
        try:
            content = load_file(path)
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
        except Exception as error:
            raise ValueError(_damaged(path, error)) from error
    else:
        content = _read_torch(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a dict of tensors")
    checkpoint = _split(content, path, prefer_ema)
    if path.endswith(".safetensors") and DESCRIPTION_KEY in metadata:
        checkpoint[DESCRIPTION_KEY] = metadata[DESCRIPTION_KEY]
    if path.endswith(".pyth"):  # pycls names its modules without our prefixes
        checkpoint["matching_heuristics"] = True
    return checkpoint


# PyTorch's files


def check_zip(path: str) -> bool:
    """Verify the checksums of a file of `torch.save`.

    Returns:
        Whether it is such a file; others are not checked.

    Raises:
        ValueError: The file is damaged, or its pickle is too long to be that of a network.
    """
    with open(path, "rb") as file:
        if file.read(len(_ZIP)) != _ZIP:
            return False
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                if sum(member.file_size for member in members) > MAX_GROWTH * _size(file):
                    raise ValueError(f"it takes more than {MAX_GROWTH} times its size in memory")
                if any(m.file_size > MAX_PICKLE for m in members if m.filename.endswith(".pkl")):
                    raise ValueError(
                        f"its pickle is longer than that of any network ({MAX_PICKLE} bytes)"
                    )
                damaged = archive.testzip()
                if damaged is not None:
                    raise ValueError(f"the checksum of {damaged} in it is another one")
                return True
        except Exception as error:  # BadZipFile, NotImplementedError, RuntimeError, ...
            raise ValueError(_damaged(path, error)) from error


def _read_torch(path: str) -> Any:
    is_zip = check_zip(path)
    try:
        _refuse_bytearray(path, is_zip)
        with _numpy_scalars_allowed(), open(path, "rb") as file:
            if is_zip:
                return torch.load(path, map_location="cpu", weights_only=True)
            bounded = _BoundedFile(file, max_bytes=MAX_PICKLE)
            content = torch.load(bounded, map_location="cpu", weights_only=True)
            _check_end(file)
            return content
    except Exception as error:  # RuntimeError, EOFError, UnpicklingError, ... by kind of damage
        wanted = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", str(error))
        if wanted is None:
            raise ValueError(_damaged(path, error)) from error
        raise ValueError(
            f"{path} is refused: it wants {wanted.group(1)}, and a weight file may hold tensors "
            f"and plain containers only. {_REFUSED}"
        ) from error


def _refuse_bytearray(path: str, is_zip: bool) -> None:
    """PyTorch lets a pickle make one of any length; no file of weights has any."""
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".pkl")]
            data = b"".join(map(archive.read, names))
    else:
        with open(path, "rb") as file:
            data = file.read(MAX_PICKLE)
    if re.search(rb"c(builtins|__builtin__)\nbytearray\n", data):
        raise ValueError("GLOBAL builtins.bytearray")


def _numpy_scalars_allowed() -> contextlib.AbstractContextManager:
    """Training checkpoints often hold a NumPy number (a metric, a learning rate).

    MAE's and similar ones hold their command line, an argparse.Namespace, which runs no code.
    """
    dtypes = sorted({type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}, key=str)
    return torch.serialization.safe_globals(
        [_RECONSTRUCT, _SCALAR, np.ndarray, np.dtype, argparse.Namespace, *dtypes]
    )


# Pickles


def _read_pickle(path: str) -> Any:
    with open(path, "rb") as file:
        try:
            content = _ArrayUnpickler(file).load()
            _check_end(file)
            return content
        except _RefusedError as error:
            raise ValueError(
                f"{path} is refused: it wants {error}, and a .pkl file may hold NumPy arrays and "
                f"plain containers only. {_REFUSED}"
            ) from error
        except Exception as error:  # damaged pickles raise nearly anything
            raise ValueError(_damaged(path, error)) from error


def _with_pickle_conventions(content: Any) -> Any:
    """Recognise Caffe2's files: flat names without any dot, such as res2_0_branch2a_bn_s."""
    if not isinstance(content, Mapping):
        return content
    blobs = content.get("blobs", content)  # Caffe2's detectors have "blobs", its classifiers not
    nested = any(isinstance(content.get(key), Mapping) for key in _MODEL_KEYS + _EMA_KEYS)
    if nested or not isinstance(blobs, Mapping) or any("." in str(name) for name in blobs):
        return content
    weights = {name: blob for name, blob in blobs.items() if not str(name).endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


class _RefusedError(Exception):
    """A pickle needs something other than arrays and plain containers."""


class _BoundedFile:
    """A file for an unpickler: its reads of opcodes are counted, and end at the end of the file."""

    def __init__(
        self, file: BinaryIO, *, max_bytes: float = math.inf, max_reads: float = math.inf
    ) -> None:
        self._file, self._file_size = file, _size(file)
        self._bytes_left, self._reads_left = max_bytes, max_reads
        # PyTorch reads numbers with readinto, which is bound by the file.
        self.readinto, self.seek, self.tell = file.readinto, file.seek, file.tell

    def read(self, count: int = -1) -> bytes:
        if count > self._file_size:  # else memory is allocated before the end is found
            raise EOFError(f"{count} bytes are to be read")
        return self._counted(self._file.read(count))

    def readline(self) -> bytes:
        return self._counted(self._file.readline())

    def _counted(self, data: bytes) -> bytes:
        self._bytes_left -= len(data)
        self._reads_left -= 1
        if self._bytes_left < 0 or self._reads_left < 0:
            raise ValueError("its pickle is longer than that of any network")
        return data


# What a pickle of arrays and plain containers refers to, as functions that take no more memory
# than the content of the file.
class _Array(np.ndarray):
    """An array that gets its memory with its content, so that a shape alone costs nothing."""

    def __new__(cls, *_: Any) -> _Array:
        return super().__new__(cls, (0,), np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, data = state[-4], state[-1]
        if isinstance(data, list) and len(data) != math.prod(shape):
            raise ValueError(f"an array of shape {shape} with {len(data)} values")
        super().__setstate__(state)


def _reconstruct(kind: type, *_: Any) -> _Array:
    if kind is not _Array:
        raise ValueError(f"an array of type {kind}")
    return _Array()


def _scalar(dtype: np.dtype, data: bytes | str) -> Any:
    return _SCALAR(dtype, data)  # NumPy's makes one of any size if there are no data


def _bytearray(*content: Any) -> bytearray:
    if content and isinstance(content[0], int):
        raise ValueError("a bytearray given by its length")
    return bytearray(*content)


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":  # Python 2's bytes; the real function would take any codec
        raise ValueError(f"bytes encoded as {encoding!r}; expected latin1")
    return text.encode("latin1")


# NumPy's helpers are taken from arrays, since their module moved from numpy.core to numpy._core.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_SCALAR = np.float32(0).__reduce__()[0]
_FROM_BUFFER = np.empty(1).__reduce_ex__(5)[0]
_ALLOWED = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _encode_latin1,
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[(f"{_core}.multiarray", "_reconstruct")] = _reconstruct
    _ALLOWED[(f"{_core}.multiarray", "scalar")] = _scalar
    _ALLOWED[(f"{_core}.numeric", "_frombuffer")] = _FROM_BUFFER
for _builtins in ("builtins", "__builtin__"):  # Python 3, Python 2
    _ALLOWED[(_builtins, "bytearray")] = _bytearray
    for _type in (set, frozenset, complex):
        _ALLOWED[(_builtins, _type.__name__)] = _type


def _count_memory(step: Callable[[Any], None]) -> Callable[[Any], None]:
    """An opcode that creates an object, with a limit of the memory of all of them."""

    def counting(unpickler: _ArrayUnpickler) -> None:
        step(unpickler)
        made = unpickler.stack[-1]
        unpickler.memory_left -= sys.getsizeof(made) + getattr(made, "nbytes", 0)
        if unpickler.memory_left < 0:
            raise ValueError(f"it takes more than {MAX_GROWTH} times its size in memory")

    return counting


class _ArrayUnpickler(pickle._Unpickler):
    """Unpickler that can build arrays and plain containers, nothing else.

    Python's, not C's: C's allocates as many memos as the largest index of one.
    """

    dispatch = {
        **pickle._Unpickler.dispatch,
        pickle.FRAME[0]: lambda self: self.read(8),  # a frame would hide its reads from the file
        pickle.REDUCE[0]: _count_memory(pickle._Unpickler.dispatch[pickle.REDUCE[0]]),
        pickle.BUILD[0]: _count_memory(pickle._Unpickler.dispatch[pickle.BUILD[0]]),
    }

    def __init__(self, file: BinaryIO) -> None:
        # latin1: Caffe2's files were written by Python 2.
        super().__init__(_BoundedFile(file, max_reads=MAX_OPCODES), encoding="latin1")
        self.memory_left = MAX_GROWTH * _size(file) + 2**20

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _RefusedError(f"{module}.{name}")
        return _ALLOWED[(module, name)]

    def persistent_load(self, pid: Any) -> NoReturn:
        raise _RefusedError(f"a persistent object ({pid!r})")


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _check_end(file: BinaryIO) -> None:
    if file.tell() != _size(file):
        raise ValueError(f"its content ends after {file.tell()} of {_size(file)} bytes")


def _damaged(path: str, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [""])[0][:200]
    if "weights_only" in reason:  # advice to load it without checks, which would not help
        reason = "not what PyTorch writes"
    damaged = _DAMAGED.format(size=os.path.getsize(path))
    return f"{path} cannot be read ({type(error).__name__}: {reason}). {damaged}"


# Contents


def _split(content: Mapping[str, Any], path: str, prefer_ema: bool) -> dict[str, Any]:
    """Find the weights in a file's content and convert them to tensors."""
    model_key = next((key for key in _MODEL_KEYS if isinstance(content.get(key), Mapping)), None)
    ema_key = next((key for key in _EMA_KEYS if isinstance(content.get(key), Mapping)), None)
    if model_key is None and ema_key is None:
        raw, checkpoint = content, {}
    else:
        raw = content.get(model_key, {})
        checkpoint = {key: value for key, value in content.items() if key != model_key}
    arrays = sum(value.nbytes for value in raw.values() if isinstance(value, np.ndarray))
    if arrays > MAX_GROWTH * os.path.getsize(path) + 2**20:
        raise ValueError(f"{path} is refused: its arrays are {arrays} bytes. {_REFUSED}")
    weights, skipped = _to_tensors(raw)
    ema = _find_tensors(content[ema_key]) if ema_key is not None else {}
    ema_used = bool(ema) and (prefer_ema or not weights)
    if ema_used:  # an average often covers the parameters only; buffers come from the raw weights
        averaged = {name: value for name, value in ema.items() if name in weights or not weights}
        weights = {**weights, **averaged}
    if not weights:
        raise ValueError(
            f"{path} holds no tensors: found the keys {list(content)[:10]}; expected a dict of "
            f"tensors, or a training checkpoint that has one under any of {_MODEL_KEYS + _EMA_KEYS}"
        )
    return {**checkpoint, "model": weights, "skipped": skipped, "ema_used": ema_used}


def _find_tensors(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of an average, which may be one level deeper ("module", "shadow", ...)."""
    inner = [value for value in content.values() if isinstance(value, Mapping)]
    found = next((tensors for tensors in map(_find_tensors, inner) if tensors), None)
    return found or _to_tensors(content)[0]


def _to_tensors(weights: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """Names and tensors, without the prefixes of wrappers; and the names of all else."""
    tensors: dict[str, Tensor] = {}
    skipped = []
    for name, value in weights.items():
        if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biuf":
            value = torch.from_numpy(np.array(value))  # a copy: unpickled arrays may be read-only
        if isinstance(value, Tensor):
            tensors[str(name)] = value
        else:
            skipped.append(str(name))
    for wrapper in ("module.", "_orig_mod."):  # DistributedDataParallel, torch.compile
        if tensors and all(name.startswith(wrapper) for name in tensors):
            tensors = {name[len(wrapper) :]: value for name, value in tensors.items()}
    return tensors, skipped
