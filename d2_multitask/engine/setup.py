"""What command lines share: read the config, register datasets, set up logging and seed, show
progress, end without a traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from tqdm import tqdm

from d2_multitask.config import load_config
from d2_multitask.data.datasets.from_config import register_datasets
from d2_multitask.data.io import ImageReadError, ShardError
from d2_multitask.model_configs import get_config_file

logger = logging.getLogger(__name__)


def parse_with_overrides(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> argparse.Namespace:
    """Arguments in any order, and what is left over, ``KEY VALUE ...``, as ``opts``.

    For tools with positional arguments or with options of several words: after these,
    ``argparse.REMAINDER`` would swallow the options too.

    Args:
        parser: the tool's; it ends the program if something like an option is left over.
        arguments: ``None`` = the command line.
    """
    args, args.opts = parser.parse_known_args(arguments)
    for word in args.opts[::2]:
        if word.startswith("-"):
            parser.error(f"unrecognized arguments: {word}")
    return args


@contextlib.contextmanager
def ends_in_a_sentence() -> Iterator[None]:
    """End a command line without a traceback where it is interrupted, a disk is full, or an image
    cannot be used.

    Raises:
        SystemExit: 130 for an interrupt; otherwise with the sentence, which names the file.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted.\n")
        sys.exit(130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(f"Error: {place}{error.strerror}; what was whole before is kept. Make room")
    except (ImageReadError, ShardError, SizeMismatchError) as error:
        # A data loader's worker process puts its traceback before the message.
        sentence = str(error).rpartition(f"{type(error).__name__}: ")[2].strip()
        sys.exit(f"Error: {sentence}. Repair the file, or take it out of the dataset")
    except ValueError as error:
        # PyTorch's words for a batch norm that has one number to take a variance of.
        if "Expected more than 1 value per channel" not in str(error):
            raise
        sys.exit(
            f"Error: {error}: a batch norm needs more than one value. Set SOLVER.IMS_PER_BATCH to "
            "two images or more for each process, or a larger INPUT.SCALE_CROP.SIZE or "
            "INPUT.MIN_SIZE_TRAIN"
        )


def setup(args: argparse.Namespace, cfg: CfgNode | None = None) -> CfgNode:
    """The config of a run, ready to use, from the arguments of Detectron2's argument parser.

    Args:
        args: ``config_file`` (a path, or the name of a config that comes with the package),
            ``opts`` (``KEY VALUE`` pairs), and what `detectron2.engine.default_setup` reads.
        cfg: instead of these two, changed in place.

    Returns:
        The config, frozen. Datasets of ``DATASETS.REGISTER`` are registered; the logger, the
        random seed and ``OUTPUT_DIR/config.yaml`` are there.

    Raises:
        ValueError: a file, key or value of the config is wrong, or OUTPUT_DIR cannot be written.
    """
    args.config_file = find_config_file(args.config_file)
    cfg = load_config(args.config_file, args.opts) if cfg is None else cfg
    check_output_dir(cfg.OUTPUT_DIR)
    # Detectron2 sets up its own logger and fvcore's, not those of packages on top of it.
    setup_logger(cfg.OUTPUT_DIR, comm.get_rank(), name="d2_multitask", abbrev_name="d2mt")
    warning = fall_back_to_cpu(cfg)
    register_datasets(cfg.DATASETS.REGISTER)
    cfg.freeze()
    default_setup(cfg, args)
    if warning:
        logger.warning(warning)
    return cfg


def find_config_file(name: str) -> str:
    """A path as it is; otherwise the config of that name that comes with the package.

    Raises:
        ValueError: there is neither.
    """
    return name if not name or os.path.isfile(name) else get_config_file(name)


def check_output_dir(folder: str) -> None:
    """Make the folder ``OUTPUT_DIR``, before anything is computed for it.

    Raises:
        ValueError: it is an address or a file, or cannot be made or written.
    """
    if not folder:
        return  # none wanted
    if "://" in folder:  # a local folder of this name would be made, without a word
        raise ValueError(
            f"OUTPUT_DIR: found {folder!r}, expected a folder of this machine, such as "
            f"output/{folder.rstrip('/').rpartition('/')[2]}: checkpoints and the lock file are "
            "local files. Copy them to the address when the run has ended"
        )
    try:
        os.makedirs(folder, exist_ok=True)
        # access() says yes to root on read-only disks and to some network folders.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"OUTPUT_DIR: found {folder!r}, which cannot be written ({reason}); expected a folder. "
            "Another one: OUTPUT_DIR path/of/a/folder at the end of the command line"
        ) from None


def fall_back_to_cpu(cfg: CfgNode) -> str:
    """Change ``MODEL.DEVICE`` to the CPU if it names a GPU and there is none.

    ``cfg`` is changed in place.

    Returns:
        The warning to log, empty if nothing had to be changed.
    """
    device = cfg.MODEL.DEVICE
    if not device.startswith("cuda") or torch.cuda.is_available():
        return ""
    cfg.MODEL.DEVICE = "cpu"
    return (
        f"MODEL.DEVICE is {device!r}, but PyTorch {torch.__version__} finds no CUDA GPU here: "
        "running on the CPU, which is many times slower."
    )


def device_of(cfg: CfgNode) -> str:
    """``MODEL.DEVICE`` as it will be used."""
    cfg = cfg.clone()
    fall_back_to_cpu(cfg)
    return cfg.MODEL.DEVICE


def flat(cfg: CfgNode, prefix: str = "") -> dict[str, Any]:
    """``{"SOLVER.BASE_LR": 0.01, ...}``."""
    values: dict[str, Any] = {}
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = value
    return values


class _LogLines:
    """A text stream for tqdm: each state of the bar is a line of its own on stdout."""

    def write(self, text: str) -> None:
        if text.strip():
            sys.stdout.write(f"{text.strip()}\n")
            sys.stdout.flush()

    def flush(self) -> None:
        pass


def progress_bar(items: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """``tqdm`` on stdout; where that is no terminal, a plain line at most every five seconds."""
    options.setdefault("file", sys.stdout)
    if not sys.stdout.isatty():
        bar_format = "{n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}] {desc}"
        options |= {"file": _LogLines(), "mininterval": 5, "bar_format": bar_format}
    return tqdm(items, **options)
