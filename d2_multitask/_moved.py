"""Old names of modules: they work for one version, with a warning that has the new name."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

MOVED = {
    "data.build": "data.loader",
    "data.catalog": "data.datasets.catalog",
    "data.coco_format": "data.datasets.coco",
    "data.from_config": "data.datasets.from_config",
    "data.image_folder": "data.datasets.folders",
    "data.image_reading": "data.io",
    "data.mask_folder": "data.datasets.folders",
    "data.pascal_in_detail": "data.datasets.pascal_in_detail",
    "engine.coco_results": "engine.image_ids",
    "engine.media": "video",
    "evaluation.foreground": "evaluation.dense.foreground",
    "evaluation.request": "evaluation.base",
    "evaluation.saliency": "evaluation.dense.saliency",
    "evaluation.sem_seg": "evaluation.dense.sem_seg",
    "modeling.mae.answers": "modeling.mae.meta_arch",
    "modeling.mae.masked_autoencoder": "modeling.mae.meta_arch",
    "modeling.multitask_mae": "modeling.mae.multitask",
    "modeling.multitask_rcnn": "modeling.rcnn",
}


def new_name(fullname: str) -> str | None:
    """Full name of a module or package, or of what is in it -> its new one; ``None``: not moved."""
    package, _, name = fullname.partition(".")
    for old, new in MOVED.items():
        if package == __package__ and (name == old or name.startswith(f"{old}.")):
            return f"{package}.{new}{name.removeprefix(old)}"
    return None


class MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import hook: a module of :data:`MOVED` is the one that took its place."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See :class:`importlib.abc.MetaPathFinder`."""
        return importlib.util.spec_from_loader(fullname, self) if new_name(fullname) else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Import the new module."""
        new = new_name(spec.name)
        warnings.warn(
            f"{spec.name} is now {new}; the old name will be removed in the next version",
            FutureWarning,
            stacklevel=2,
        )
        module = importlib.import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Only put back its own spec, which importing has replaced: it has run already."""
        module.__spec__ = module.__spec__.loader_state


# First, or Python would look for submodules of moved packages itself and run them twice.
sys.meta_path.insert(0, MovedModules())
