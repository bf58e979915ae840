"""Checks that PyTorch, torchvision, Detectron2 and all the others are there and fit together.

pip cannot do this for us: which build of PyTorch or OpenCV is right depends on the machine, and
Detectron2 is not on the package index under its own name. So they are not in `install_requires`;
`import d2_multitask` calls `check_dependencies` first, and whoever lacks something reads what is
wrong, which versions were found and what to type, instead of an error from deep inside. Without
PyTorch or Detectron2 this is said when a module that needs them is imported: the others work.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.metadata
import importlib.util
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

TORCH_COMMAND = "python -m pip install torch==2.14.1 torchvision==0.29.1"
OPENCV_COMMAND = "python -m pip install opencv-python-headless"
REPOSITORY_COMMAND = "python tools/install.py"
TRAIN_COMMAND = "python -m pip install 'd2_multitask[train]'"

# The extra `train` of setup.py.
TRAIN_PACKAGES = {
    **{name: name for name in ("matplotlib", "networkx", "pycocotools", "scipy", "tabulate")},
    **{name: name for name in ("safetensors", "timm", "tqdm")},
    "yaml": "PyYAML",
}

# Modules that need neither PyTorch nor Detectron2.
WITHOUT_TORCH = (
    *(
        "__main__",
        "cli",
        "dependencies",
        "exits",
        "launchers",
        "loading",
        "runtime",
        "tracking",
        "version",
        "video",
        "viewer",
    ),
    *("data.whole_files", "visualization.contact_sheet"),
)
# With this environment variable the package is imported without them even where they are, in a
# tenth of the time.
RUNTIME_ONLY = "D2_MULTITASK_RUNTIME_ONLY"

# What a library of another build raises on import: a missing module or symbol (ImportError), a
# shared library that does not load (OSError), operators that were never registered (RuntimeError,
# AttributeError).
_LOAD_ERRORS = (ImportError, OSError, RuntimeError, AttributeError)

# Distributions that break Detectron2 when they are missing or too new, and the cure for each.
_DETECTRON2_NEEDS = {
    "pkg_resources": ("setuptools", "python -m pip install 'setuptools<81'"),
    "iopath": ("iopath", "python -m pip install 'iopath>=0.1.7,<0.1.10'"),
    "fvcore": ("fvcore", "python -m pip install 'fvcore>=0.1.5,<0.1.6'"),
}


def check_dependencies() -> None:
    """Import PyTorch, torchvision, OpenCV and Detectron2, look for the rest, or say what to type.

    Raises:
        ImportError: One of them is missing, does not load, or does not fit the others. The message
            has the versions found and the command that mends it.
    """
    _import("torch", "PyTorch")
    _import("torchvision", "torchvision")
    _check_torchvision_operators()
    _import("cv2", "OpenCV")
    with warnings.catch_warnings():
        # Detectron2 still uses it, and users cannot do anything about this warning.
        warnings.filterwarnings("ignore", ".*torch.jit.script.* is deprecated", FutureWarning)
        # These three pull in nearly all of Detectron2, and we import them anyway.
        for module in ("detectron2", "detectron2.data", "detectron2.modeling"):
            _import(module, "Detectron2")
    missing = [title for name, title in TRAIN_PACKAGES.items() if not _is_installed(name)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise ImportError(_message(f"{', '.join(missing)} {verb} not installed.", missing[0]))


def has_torch_and_detectron2() -> bool:
    """Whether both are installed and wanted; they are not imported."""
    return (
        not os.environ.get(RUNTIME_ONLY) and _is_installed("torch") and _is_installed("detectron2")
    )


def refuse_others() -> None:
    """Let modules outside of `WITHOUT_TORCH` raise the ImportError of `check_dependencies`."""
    sys.meta_path.insert(0, _OtherModules())


class _OtherModules(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: Any = None
    ) -> None:
        package, _, module = fullname.partition(".")
        if package == __package__ and not any(
            f"{module}.".startswith(f"{name}.") or f"{name}.".startswith(f"{module}.")
            for name in WITHOUT_TORCH
        ):
            check_dependencies()


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _import(module: str, title: str) -> None:
    """Import `module`; turn a failure into an ImportError that says what to do."""
    try:
        importlib.import_module(module)
    except _LOAD_ERRORS as error:
        package = module.partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            raise ImportError(_message(f"{title} is not installed.", package)) from error
        problem = f"{title} is installed but does not load: {type(error).__name__}: {error}"
        raise ImportError(_message(problem, package, error)) from error


def _check_torchvision_operators() -> None:
    """torchvision may import without its compiled operators; Detectron2 fails only much later."""
    import torch

    try:
        torch.ops.torchvision.nms  # noqa: B018 (the attribute access is the test)
    except _LOAD_ERRORS as error:
        problem = f"torchvision's compiled operators do not load with this PyTorch: {error}"
        raise ImportError(_message(problem, "torchvision", error)) from error


def _message(problem: str, package: str, error: Exception | None = None) -> str:
    found = ", ".join(
        f"{name} {_version(name)}" for name in ("torch", "torchvision", "detectron2", "setuptools")
    )
    cure = _cure(package, error)
    return f"d2_multitask cannot start. {problem}\n  Found: {found}.\n{cure}"


def _cure(package: str, error: Exception | None) -> str:
    """What to type, most specific first."""
    from_repository = f"  In a clone of d2_multitask, type: {REPOSITORY_COMMAND}"
    if package in ("torch", "torchvision"):
        return (
            f"{from_repository}\n"
            f"  Elsewhere, install the two as a pair, for example: {TORCH_COMMAND}"
        )
    if package == "cv2":
        return f"{from_repository}\n  Elsewhere: {OPENCV_COMMAND}"
    if package in TRAIN_PACKAGES.values():
        return f"{from_repository}\n  Elsewhere: {TRAIN_COMMAND}"
    for module, (distribution, command) in _DETECTRON2_NEEDS.items():
        if error is not None and module in str(error):
            return (
                f"  Detectron2 needs another {distribution} ({_version(distribution)}): {command}"
            )
    missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
    if missing and not missing.startswith("detectron2"):
        return f"  Detectron2 needs the missing package: python -m pip install {missing}"
    return (
        f"{from_repository}\n"
        "  Elsewhere, see detectron2.readthedocs.io, 'Installation'; after a change of PyTorch a "
        "Detectron2 that was built from source must be built again."
    )


def _version(distribution: str) -> str:
    """The installed version of `distribution`, under any of the names that it is published by."""
    names = ("detectron2", "sal-detectron2") if distribution == "detectron2" else (distribution,)
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "missing"
