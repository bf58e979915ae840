"""The console script `d2mt`: finds the command's module and gives it the rest of the line.

Only the chosen command's module is imported; each has a function ``main(arguments) -> exit code``.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from d2_multitask.dependencies import (
    RUNTIME_ONLY,
    check_dependencies,
    has_torch_and_detectron2,
)
from d2_multitask.launchers import place_of
from d2_multitask.loading import EXPORTED_SUFFIXES

EXPORTED_PREDICTION = "d2_multitask.cli.predict_exported"
# command -> its module, and what it does
COMMANDS = {
    "predict": ("d2_multitask.cli.predict", "show what a network finds in images and videos"),
    "track": ("d2_multitask.cli.track", "follow what a network finds through videos and streams"),
    "view": ("d2_multitask.cli.view", "show an exported network on a page in the browser"),
    "export": ("d2_multitask.cli.export", "write a network as one file, ONNX for example"),
    "eval": ("d2_multitask.cli.eval", "measure a network, or an exported file, on labelled images"),
    "report": ("d2_multitask.cli.report", "measure a network, with a page of its errors"),
    "check": ("d2_multitask.cli.check", "check a config and its datasets without training"),
    "train": ("d2_multitask.cli.train", "train a network, as Detectron2's tools/train_net.py"),
}
# Commands whose work several processes share.
SEVERAL = ("train", "eval", "report", "predict")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; ``None`` = the command line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0 if words else 2
    name, *rest = words
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        sys.stderr.write(
            f"Error: found the command {name!r}, expected one of: {', '.join(COMMANDS)}{hint}\n"
        )
        return 2
    try:
        if name not in SEVERAL and (place := place_of()):
            raise ValueError(
                f"d2mt {name}: found {place.world_size} processes of {place.started_by}, expected "
                f"one; several do: {', '.join(SEVERAL)}"
            )
    except ValueError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 2
    sys.argv[0] = f"d2mt {name}"  # what argparse says in its usage
    try:
        module = importlib.import_module(module_of(name, rest))
    except ImportError as error:
        sys.stderr.write(f"Error: {_what_to_type(error)}\n")
        return 2
    return module.main(rest)


def _what_to_type(error: ImportError) -> ImportError:
    """The error of `check_dependencies`, if PyTorch or Detectron2 is what is missing."""
    if "pip install" in str(error):
        return error  # it says so itself
    try:
        if not os.environ.get(RUNTIME_ONLY):
            check_dependencies()
    except ImportError as said:
        return said
    return error


def module_of(name: str, words: Sequence[str]) -> str:
    """The module of a command; prediction with an exported network has one without PyTorch."""
    exported = any(word.lower().endswith(EXPORTED_SUFFIXES) for word in words)
    if {"-h", "--help"}.intersection(words) and not has_torch_and_detectron2():
        exported = True  # whose help is all that can be used here
    return EXPORTED_PREDICTION if name == "predict" and exported else COMMANDS[name][0]


def usage() -> str:
    """What `d2mt --help` prints."""
    lines = [f"  {name:<9}{summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        ["usage: d2mt COMMAND ...", "", *lines, "", "d2mt COMMAND --help shows a command's options"]
    )
