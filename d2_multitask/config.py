"""Every key that the package adds to Detectron2's config, and safe reading of YAML files."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import getitem
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg

# Importing the packages registers what their keys configure.
from d2_multitask.data.datasets.from_config import add_data_config
from d2_multitask.evaluation.build import add_pascal_in_detail_config
from d2_multitask.heads import TASK_HEAD_REGISTRY
from d2_multitask.model_configs import get_config_file
from d2_multitask.modeling import add_backbone_config, add_mae_config, add_rcnn_config

_BASE = "_BASE_"

# Keys of the last version that no config set: they have this value now. Old files still load.
FIXED_KEYS = {
    "MODEL.BOUNDARY_HEAD.IGNORE_VALUE": 255,
    "MODEL.CLASSIFICATION_HEAD.IGNORE_VALUE": 255,
    "MODEL.FEATURE_EXTRACTOR.FREEZE_AT": 0,
    "MODEL.FEATURE_EXTRACTOR.FREEZE_NORM": False,
    "MODEL.FOREGROUND_HEAD.IGNORE_VALUE": 255,
    "MODEL.PARTS_HEAD.IGNORE_VALUE": 255,
}
# The keys of the last version's MODEL.SEG_HEAD; they are in Detectron2's MODEL.SEM_SEG_HEAD now.
_OLD_NODE, _NEW_NODE = "MODEL.SEG_HEAD", "MODEL.SEM_SEG_HEAD"
_MOVED_KEYS = ("IN_FEATURES", "LOSS_STRIDE")
# Far above every config: a larger file is a mistake, or an attempt to fill the memory.
_MOST_FILES = 100
_MOST_BYTES = 1 << 22
_MOST_LEVELS = 50
_MOST_VALUES = 200_000


class MultitaskCfgNode(CfgNode):
    """Detectron2's config, which reads files, configs and options with the old names of keys."""

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        """See Detectron2. Of a file and its bases, the later value wins, whichever name it has."""
        return _rename_keys(super().load_yaml_with_base(filename, allow_unsafe))

    def merge_from_other_cfg(self, cfg_other: CfgNode) -> None:
        """See Detectron2."""
        super().merge_from_other_cfg(CfgNode(_rename_keys(cfg_other)))

    def merge_from_list(self, cfg_list: Sequence[Any]) -> None:
        """See Detectron2."""
        super().merge_from_list(_rename_options(cfg_list))

    @classmethod
    def _decode_cfg_value(cls, value: Any) -> Any:
        # yacs makes nodes of this class here and refuses them where the config has plain ones.
        return CfgNode._decode_cfg_value(value)


def _rename_keys(content: Mapping[str, Any]) -> dict[str, Any]:
    """Nested keys and values with ``MODEL.SEG_HEAD`` moved; the argument is not changed."""
    model = content.get("MODEL")
    old = model.get("SEG_HEAD") if isinstance(model, Mapping) else None
    if not isinstance(old, Mapping) or not set(old) <= set(_MOVED_KEYS):
        return dict(content)
    _warn_renamed()
    model = {key: value for key, value in model.items() if key != "SEG_HEAD"}
    # The last version did not read the IN_FEATURES that a dumped config has in the new place.
    model["SEM_SEG_HEAD"] = {**model.get("SEM_SEG_HEAD", {}), **old}
    return {**content, "MODEL": model}


def _rename_options(options: Sequence[Any]) -> list[Any]:
    """``[KEY, VALUE, ...]`` with new names of the keys."""
    new_names = {f"{_OLD_NODE}.{key}": f"{_NEW_NODE}.{key}" for key in _MOVED_KEYS}
    if not new_names.keys().isdisjoint(options[::2]):
        _warn_renamed()
    return [item if n % 2 else new_names.get(item, item) for n, item in enumerate(options)]


def _warn_renamed() -> None:
    warnings.warn(
        f"{_OLD_NODE} will not be read by the next version: write {' and '.join(_MOVED_KEYS)} to "
        f"{_NEW_NODE}",
        FutureWarning,
        stacklevel=3,
    )


def add_multitask_config(cfg: CfgNode) -> None:
    """Add our keys, with their defaults, to a Detectron2 config; nothing of Detectron2's is
    changed.

    Each head, the backbones and the data side declare their own keys; here are those that belong to
    no single one of them. A plain Detectron2 config becomes a :class:`MultitaskCfgNode`.

    Args:
        cfg: a config from ``detectron2.config.get_cfg()``; changed in place.
    """
    # Which heads the network has: names of TASK_HEAD_REGISTRY. The heads that they require
    # are added.
    cfg.MODEL.TASKS = ["seg", "det", "pose"]
    # MultitaskCenterNet: modules that are not trained, by name: "backbone", "heads.det", ...
    cfg.MODEL.FREEZE = []
    # Which of them run at inference; empty = all. Other heads are not run.
    cfg.TEST.TASKS = []
    # Trained networks that this one learns from where an image has no label of a task, in training
    # alone: entries with WEIGHTS, CONFIG, TASKS and WEIGHT, as of `d2_multitask.engine.teachers`.
    cfg.MODEL.TEACHERS = []
    # What computes COCO's AP: "pycocotools", "hotcoco" (the same numbers, many times faster) or
    # "auto", hotcoco where it is installed.
    cfg.TEST.COCO_BACKEND = "auto"
    # Besides AP, COCO's average recall of boxes and masks without regard to classes: for detectors
    # whose training labels are segments that have no class.
    cfg.TEST.CLASS_AGNOSTIC_RECALL = False
    # Memory order (N, H, W, C): the same numbers, and convolutions are faster on CPUs and on GPUs
    # with half precision.
    cfg.MODEL.CHANNELS_LAST = True
    # Evaluation and prediction run a copy with batch norms folded into their convolutions and with
    # sizes and offsets computed at the found centres only: the same outputs in less time.
    cfg.TEST.FUSED = True
    # Also run that copy's backbone and heads through torch.compile. It needs a C++ compiler and a
    # minute per input size before the first output: for many images of one size.
    cfg.TEST.COMPILED = False
    # Run the network on so many sizes of the image, as factors of INPUT.RESIZE_TEST's, and join the
    # answers: objects by CENTER_HEAD.NMS_THRESH_TEST, maps by their mean. [] = on one.
    cfg.TEST.SCALES = []
    # MultitaskCenterNet: also join objects and semantic map to `panoptic_seg`. The thresholds are
    # those of MODEL.PANOPTIC_FPN.COMBINE. MODEL.MASK_ON gives `pred_masks`.
    cfg.TEST.PANOPTIC = False
    # After each evaluation OUTPUT_DIR/report.html and report.md: errors, curves, the worst images.
    cfg.TEST.REPORT = False
    cfg.TEST.FOREGROUND = CfgNode()
    # Before the metrics of binary segmentation, stretch each image's probabilities to 0..1, as
    # PySODMetrics and the older Matlab code do by default. False measures what was predicted.
    cfg.TEST.FOREGROUND.STRETCH = False
    _add_tiles_config(cfg)
    for _, head in TASK_HEAD_REGISTRY:
        head.add_config(cfg)
    add_backbone_config(cfg)
    add_rcnn_config(cfg)
    add_mae_config(cfg)
    add_data_config(cfg)
    add_pascal_in_detail_config(cfg)
    _add_solver_config(cfg)
    for key in FIXED_KEYS:
        cfg.register_deprecated_key(key)
    cfg.register_renamed_key(_OLD_NODE, _NEW_NODE)
    # Only the config itself can see old keys: Detectron2's merge_from_file ends in its methods.
    if type(cfg) is CfgNode:
        object.__setattr__(cfg, "__class__", MultitaskCfgNode)


def _add_tiles_config(cfg: CfgNode) -> None:
    cfg.TEST.TILES = CfgNode()
    # Run the network on overlapping tiles of images that are larger than a tile, after
    # INPUT.RESIZE_TEST, and blend the outputs. For tasks with outputs per pixel.
    cfg.TEST.TILES.ENABLED = False
    # (height, width) of a tile: the size of the training crops.
    cfg.TEST.TILES.SIZE = (224, 224)
    # Share of a tile that it has in common with its neighbour, at least.
    cfg.TEST.TILES.OVERLAP = 0.25
    # Tiles that run at once.
    cfg.TEST.TILES.BATCH_SIZE = 8


def _add_solver_config(cfg: CfgNode) -> None:
    # "SGD" (Detectron2's), "ADAM" (CenterNet's), "ADAMW", or for transformers "MUON": Muon for the
    # weights of linear layers, AdamW for the rest.
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Decay rates of the two averages of Adam and AdamW; MAE's pre-training has (0.9, 0.95).
    cfg.SOLVER.BETAS = (0.9, 0.999)
    # For vision transformers: the last block learns at this share of the rate, the one before it at
    # this share of that, and so on down to the patches. 1 = all at the same rate.
    cfg.SOLVER.LAYER_DECAY = 1.0
    # In deformable convolutions, the layers that predict the offsets learn at this share of the
    # rate. 1 is CenterNet's; "Deformable ConvNets v2" has 0.1. A step moves hundreds of weights the
    # same way: at ten times CenterNet's rate, offsets point outside the map after a few steps.
    cfg.SOLVER.OFFSET_LR_FACTOR = 1.0
    # Parameters without weight decay, by the last part of their names (norms and biases have keys
    # of their own: WEIGHT_DECAY_NORM, WEIGHT_DECAY_BIAS).
    cfg.SOLVER.UNDECAYED_PARAMETERS = ["pos_embed", "cls_token", "mask_token"]
    # Exponential moving average of the weights; the average is what is evaluated.
    cfg.SOLVER.EMA = CfgNode()
    cfg.SOLVER.EMA.ENABLED = False
    cfg.SOLVER.EMA.DECAY = 0.999
    # Weigh the tasks' losses: "none", "gradient_norm", "uncertainty", or, with torchjd, "upgrad";
    # see `d2_multitask.engine.balancing`.
    cfg.SOLVER.LOSS_BALANCING = "none"
    # Iterations between two measurements of the tasks' gradients.
    cfg.SOLVER.LOSS_BALANCING_PERIOD = 10
    # Of "uncertainty": the higher, the more equal are the weights.
    cfg.SOLVER.LOSS_BALANCING_TEMPERATURE = 1.0
    # Iterations between two progress lines.
    cfg.SOLVER.LOG_PERIOD = 20
    # The evaluation whose checkpoint is kept as model_best.pth: a metric, "bbox/AP", or the mean of
    # several metrics' shares, see `d2_multitask.engine.best`. "" = none.
    cfg.TEST.BEST_METRIC = ""
    # Evaluations without a better one after which the training ends; 0 = it never does.
    cfg.SOLVER.PATIENCE = 0
    # Beside the log, JSON and TensorBoard: some of "wandb" and "mlflow"; see
    # `d2_multitask.engine.loggers`.
    cfg.LOGGERS = []
    # How many of the checkpoints of each CHECKPOINT_PERIOD are kept, the last ones; 0 = all.
    cfg.SOLVER.KEEP_CHECKPOINTS = 0


def get_multitask_cfg() -> CfgNode:
    """Detectron2's default config with our keys."""
    cfg = get_cfg()
    add_multitask_config(cfg)
    return cfg


def load_config(config_file: str | os.PathLike[str] = "", opts: Sequence[str] = ()) -> CfgNode:
    """Defaults, then a YAML file, then ``KEY VALUE`` pairs. The result is not frozen.

    Args:
        config_file: a path, or the name of a file that comes with the package, such as
            ``quick/mcn_seg_det_pose.yaml``; empty = defaults only.
        opts: ``["KEY", "VALUE", ...]``.

    Returns:
        The config.

    Raises:
        ValueError: no such file, broken or unsafe YAML, a ``_BASE_`` that is not there or leads
            back to the file, an unknown key (with the nearest known ones), a value of the wrong
            type.
    """
    cfg = get_multitask_cfg()
    if config_file:
        path = os.fspath(config_file)
        if not os.path.isfile(path):
            path = get_config_file(path)
        _check_file(path, (), [])
        with _in_a_sentence(cfg, path):
            # Detectron2's default runs code that a YAML file contains.
            cfg.merge_from_file(path, allow_unsafe=False)
    merge_options(cfg, opts)
    return cfg


def parse_config(text: str, where: str) -> CfgNode:
    """Defaults, then YAML text, which is not trusted; no file is read.

    Args:
        text: YAML without ``_BASE_``.
        where: what has the text, for messages.

    Returns:
        The config, not frozen.

    Raises:
        ValueError: as of `load_config`; or the text names a ``_BASE_``.
    """
    cfg = get_multitask_cfg()
    content = _parse_text(text, where)
    if _BASE in content:
        raise ValueError(f"{where}: found the key {_BASE}, expected a config that is complete")
    with _in_a_sentence(cfg, where):
        cfg.merge_from_other_cfg(CfgNode(content))
    _check_nothing_is_empty(cfg, get_multitask_cfg(), where)
    return cfg


def _check_nothing_is_empty(cfg: CfgNode, default: CfgNode, where: str, prefix: str = "") -> None:
    """Refuse null, which Detectron2 takes for a value of any type."""
    for name, value in default.items():
        if isinstance(value, CfgNode) and isinstance(cfg[name], CfgNode):
            _check_nothing_is_empty(cfg[name], value, where, f"{prefix}{name}.")
        elif cfg[name] is None and value is not None:
            raise ValueError(
                f"{where}: {prefix}{name}: found nothing, expected {type(value).__name__}"
            )


@contextlib.contextmanager
def _in_a_sentence(cfg: CfgNode, path: str) -> Iterator[None]:
    """What Detectron2 raises for a config that does not fit, as ValueError."""
    try:
        yield
    except yaml.YAMLError:  # of a base on the web, whose text is not shown either
        raise ValueError(f"{path}: a file of its {_BASE} is not a plain YAML file") from None
    except KeyError as error:
        raise ValueError(_unknown_key(cfg, error, path)) from None
    except (ValueError, AssertionError) as error:
        # Of a node that is none, yacs shows all keys.
        found = re.sub(r" with values \(.{300,}\)", "", str(error), flags=re.DOTALL)
        raise ValueError(f"{path}: {found}") from None
    except (TypeError, AttributeError, OSError) as error:
        raise ValueError(f"{path}: found a key or value of the wrong type: {error}") from None


def _check_file(path: str, chain: tuple[str, ...], read: list[str]) -> None:
    """Refuse a file, or one that it rests on, that Detectron2 cannot merge.

    Args:
        path: of the file.
        chain: the files that led to it, the first one first.
        read: the files that were read before; grows.

    Raises:
        ValueError: says file, what was found and what was expected; never the file's text, because
            ``_BASE_`` may name any file of the machine.
    """
    real = os.path.realpath(path)
    if real in chain:
        raise ValueError(
            f"{path}: {_BASE}: the file includes itself: {' -> '.join(chain)} -> {real}"
        )
    if len(read) >= _MOST_FILES:
        raise ValueError(f"{read[0]}: {_BASE}: found more than {_MOST_FILES} files to include")
    read.append(path)
    content = _parse(path)
    bases = content.get(_BASE, [])
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str) or not base:
            found = type(base).__name__ if base != "" else "nothing"
            raise ValueError(f"{path}: {_BASE}: found {found}, expected the path of a YAML file")
        if base.startswith(("https://", "http://")):
            continue
        base_path = os.path.join(os.path.dirname(path), os.path.expanduser(base))
        if not os.path.isfile(base_path):
            raise ValueError(
                f"{path}: {_BASE}: there is no file {base_path}; expected a path relative to "
                "the folder of the file that names it"
            )
        _check_file(base_path, (*chain, real), read)


def _parse(path: str) -> dict[str, Any]:
    """The content of one file, checked to be nested mappings with keys that are text."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
        text = data.decode()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}: line {line}: found bytes that are not UTF-8 text") from None
    if len(data) > _MOST_BYTES:
        raise ValueError(f"{path}: found more than {_MOST_BYTES} bytes, expected a config file")
    return _parse_text(text, path)


def _parse_text(text: str, path: str) -> dict[str, Any]:
    """Of a file, or of what is called so in messages."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {_yaml_problem(error, text)}") from None
    except RecursionError:
        raise ValueError(f"{path}: found values nested too deeply for a config") from None
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError):
        # PyYAML's own, of numbers and dates that are none; their messages hold the text.
        raise ValueError(f"{path}: found a number, date or tag that YAML does not know") from None
    if not isinstance(content, dict):
        found = "an empty file" if content is None else type(content).__name__
        raise ValueError(f"{path}: found {found}, expected a mapping such as SOLVER: {{...}}")
    _check_values(path, content)
    _check_fixed_keys(path, content)
    return content


def _check_fixed_keys(path: str, content: dict[str, Any]) -> None:
    """Detectron2 skips deprecated keys: another value than the fixed one would be lost."""
    for key, value in FIXED_KEYS.items():
        found: Any = content
        for name in key.split("."):
            found = found.get(name, value) if isinstance(found, dict) else value
        _check_fixed_key(path, key, found)


def _check_fixed_key(where: str, key: str, found: Any) -> None:
    if found != FIXED_KEYS[key]:
        raise ValueError(
            f"{where}: {key}: found {found}, expected {FIXED_KEYS[key]}: the key is gone"
        )


def _yaml_problem(error: yaml.YAMLError, text: str) -> str:
    """Where and what, without the quotations from the text that PyYAML's messages hold."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line if mark else text.count("\n", 0, getattr(error, "position", 0))
    problem = getattr(error, "problem", None) or "a character that YAML does not allow"
    return f"line {line + 1}: not a plain YAML file: " + re.sub(
        r"['\"].*['\"]", "...", problem, flags=re.DOTALL
    )


def _check_values(path: str, content: dict[str, Any]) -> None:
    """Refuse keys that are no text, and aliases that hold themselves or multiply."""
    waiting: list[tuple[Any, str, int]] = [(content, "", 0)]
    seen = 0
    while waiting:
        value, where, depth = waiting.pop()
        seen += 1
        if depth > _MOST_LEVELS or seen > _MOST_VALUES:
            raise ValueError(
                f"{path}: found more than {_MOST_LEVELS} levels or {_MOST_VALUES} values (aliases "
                f"count as often as they are used) below {where.split('.')[0]}"
            )
        if isinstance(value, list | tuple):
            # Mappings in a list are no part of the tree of keys: SEM_SEG_IDS has numbers.
            waiting += [(item, f"{where}[]", depth + 1) for item in value]
        elif isinstance(value, dict):
            for key, item in value.items():
                if not isinstance(key, str) and "[]" not in where:
                    raise ValueError(
                        f"{path}: {where or 'top level'}: found a key of type "
                        f"{type(key).__name__}, expected text"
                    )
                waiting.append((item, f"{where}.{key}".lstrip("."), depth + 1))


def merge_options(cfg: CfgNode, opts: Sequence[str]) -> None:
    """Set keys, in place.

    Args:
        cfg: not frozen.
        opts: ``["KEY", "VALUE", ...]``.

    Raises:
        ValueError: an unknown key (with the nearest known ones), a value of the wrong type.
    """
    if len(opts) % 2:
        raise ValueError(
            f"command line: found {len(opts)} words of overrides ({' '.join(opts)}), expected "
            "KEY VALUE pairs"
        )
    opts = _rename_options(opts)
    known = set(_known_keys(cfg))
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        if key in FIXED_KEYS:
            _check_fixed_key("command line", key, cfg._decode_cfg_value(value))
        elif key.startswith("--"):
            raise ValueError(
                f"command line: found {key} among KEY VALUE pairs, expected options before them"
            )
        elif key not in known:
            raise ValueError(f"command line: {_suggest(key, known)}")
        elif key == "DATASETS.SAMPLING":  # a word or a list: yacs would keep it what it was
            cfg.DATASETS.SAMPLING = None
        if key in known and isinstance(reduce(getitem, key.split("."), cfg), float):
            given = cfg._decode_cfg_value(value)
            value = float(given) if type(given) is int else value  # yacs takes 1.0, but not 1
        try:
            cfg.merge_from_list([key, value])
        except (ValueError, AssertionError) as error:
            raise ValueError(f"command line: {key} {value}: {error}") from None


def _unknown_key(cfg: CfgNode, error: KeyError, path: str) -> str:
    match = re.search(r"config key: (\S+?)['\"]?$", str(error))
    if match is None:
        return f"{path}: {error}"
    return f"{path}: {_suggest(match.group(1), set(_known_keys(cfg)))}"


def _suggest(key: str, known: set[str]) -> str:
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"found the unknown config key {key}{hint}"


def _known_keys(cfg: CfgNode, prefix: str = "") -> list[str]:
    keys = []
    for name, value in cfg.items():
        keys.append(prefix + name)
        if isinstance(value, CfgNode):
            keys += _known_keys(value, f"{prefix}{name}.")
    return keys
