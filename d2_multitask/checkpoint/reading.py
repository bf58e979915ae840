"""Reads weight files without running code from them.

A pickle is a program. Detectron2 runs it as it is (`pickle.load`), so a `.pkl` file from a stranger
may do anything. Here a `.pkl` may build arrays and plain containers only, a PyTorch file is read
with `weights_only=True`, and what wants more is refused by name.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import pickle
import re
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

# Where frameworks put the weights inside a training checkpoint, in the order of preference.
_MODEL_KEYS = ("model", "state_dict", "model_state", "model_state_dict")
# Where they put an exponential moving average of the weights.
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
        path: A local file. `.pkl`: Detectron2's model zoo or Caffe2. `.safetensors`: tensors only.
            Anything else: PyTorch, either a plain dict of tensors or a training checkpoint that
            has it under one of "model", "state_dict", "model_state", "model_state_dict".
        prefer_ema: If the file has an exponential moving average too ("ema", "ema_state",
            "model_ema", "ema_model" or "state_dict_ema"), take its tensors instead.

    Returns:
        A dict as `DetectionCheckpointer` has it: "model" (name -> Tensor); possibly "__author__"
        and "matching_heuristics"; whatever else a training checkpoint holds, unchanged. Two
        entries are ours: "skipped", names below "model" that are no tensors, and "ema_used".

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, holds no tensors, or would have to run code.
        ImportError: `.safetensors` without the package safetensors.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no weight file {path}")
    if path.endswith(".pkl"):
        content = _with_pickle_conventions(_read_pickle(path))
    elif path.endswith(".safetensors"):
        content = _read_safetensors(path)
    else:
        content = _read_torch(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a dict of tensors")
    checkpoint = _split(content, path, prefer_ema)
    if path.endswith(".pyth"):  # pycls names its modules without our prefixes
        checkpoint["matching_heuristics"] = True
    return checkpoint


# What a pickle of arrays and plain containers refers to. Helpers of NumPy are taken from arrays
# themselves, since their module moved from numpy.core to numpy._core.
def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """Bytes in a Python 2 style pickle; the real `_codecs.encode` would take any codec."""
    if encoding != "latin1":
        raise ValueError(f"bytes encoded as {encoding!r}; expected latin1")
    return text.encode("latin1")


_RECONSTRUCT = np.empty(0).__reduce__()[0]
_SCALAR = np.float32(0).__reduce__()[0]
_FROM_BUFFER = np.empty(1).__reduce_ex__(5)[0]
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _encode_latin1,
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[(f"{_core}.multiarray", "_reconstruct")] = _RECONSTRUCT
    _ALLOWED[(f"{_core}.multiarray", "scalar")] = _SCALAR
    _ALLOWED[(f"{_core}.numeric", "_frombuffer")] = _FROM_BUFFER
for _builtins in ("builtins", "__builtin__"):  # Python 3, Python 2
    for _type in (set, frozenset, bytearray, complex):
        _ALLOWED[(_builtins, _type.__name__)] = _type


class _RefusedError(Exception):
    """A pickle wants something other than arrays and plain containers."""


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickler that can build arrays and plain containers, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _RefusedError(f"{module}.{name}")
        return _ALLOWED[(module, name)]

    def persistent_load(self, pid: Any) -> NoReturn:
        raise _RefusedError(f"a persistent object ({pid!r})")


def _read_pickle(path: str) -> Any:
    with open(path, "rb") as file:
        try:
            # latin1: Caffe2's files were written by Python 2
            return _ArrayUnpickler(file, encoding="latin1").load()
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


def _read_torch(path: str) -> Any:
    try:
        with _numpy_scalars_allowed():
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # RuntimeError, EOFError, UnpicklingError, ... by kind of damage
        wanted = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", str(error))
        if wanted is None:
            raise ValueError(_damaged(path, error)) from error
        raise ValueError(
            f"{path} is refused: it wants {wanted.group(1)}, and a weight file may hold tensors "
            f"and plain containers only. {_REFUSED}"
        ) from error


def _numpy_scalars_allowed() -> contextlib.AbstractContextManager:
    """Training checkpoints often hold a NumPy number (a metric, a learning rate).

    MAE's and its relatives' hold their command line, an argparse.Namespace, which runs no code.
    """
    if not hasattr(torch.serialization, "safe_globals"):  # before PyTorch 2.5
        return contextlib.nullcontext()
    dtypes = {type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}
    return torch.serialization.safe_globals(
        [
            *(_RECONSTRUCT, _SCALAR, np.ndarray, np.dtype, argparse.Namespace),
            *sorted(dtypes, key=str),
        ]
    )


def _read_safetensors(path: str) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(
            f"{path} needs the package safetensors: "
            "python -m pip install 'd2_multitask[safetensors]'"
        ) from error
    try:
        return load_file(path)
    except Exception as error:
        raise ValueError(_damaged(path, error)) from error


def _damaged(path: str, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [""])[0][:200]
    if "weights_only" in reason:  # advice to load it without checks, which would not mend it
        reason = "not what PyTorch writes"
    damaged = _DAMAGED.format(size=os.path.getsize(path))
    return f"{path} cannot be read ({type(error).__name__}: {reason}). {damaged}"


def _split(content: Mapping[str, Any], path: str, prefer_ema: bool) -> dict[str, Any]:
    """Find the weights in a file's content and turn them into tensors."""
    model_key = next((key for key in _MODEL_KEYS if isinstance(content.get(key), Mapping)), None)
    ema_key = next((key for key in _EMA_KEYS if isinstance(content.get(key), Mapping)), None)
    if model_key is None and ema_key is None:
        raw, checkpoint = content, {}
    else:
        raw = content.get(model_key, {})
        checkpoint = {key: value for key, value in content.items() if key != model_key}
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
