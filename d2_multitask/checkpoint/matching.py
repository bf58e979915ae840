"""Finds for each tensor of a weight file its name in the model."""

from __future__ import annotations

import collections
import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from detectron2.checkpoint import c2_model_loading
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn

from d2_multitask.checkpoint.centernet import (
    convert_centernet,
    detectron2_resnet_name,
    is_centernet,
)
from d2_multitask.checkpoint.report import AdaptedWeights, LoadReport, ShapeMismatch

# Below this share a file is of another architecture: matches are accidental.
_MIN_BACKBONE_SHARE = 0.5


def match_weights(
    model: nn.Module, checkpoint: dict[str, Any], file: str, adapt: bool = True
) -> tuple[dict[str, Tensor], LoadReport]:
    """Match the tensors of a weight file to those of a model, by name and shape.

    Args:
        model: The model; it is not changed.
        checkpoint: From `read_checkpoint`.
        file: The file's name, for the report.
        adapt: Let a module with a method ``adapt_weights`` translate the file, if it can.

    Returns:
        The tensors that fit, under the model's names, and the report.

    Raises:
        ValueError: The names fit in more than one way, or a module refuses the file.
    """
    state = model.state_dict()
    adapted = (_adapt(model, checkpoint["model"], file) if adapt else None) or AdaptedWeights()
    if adapted.weights:
        checkpoint = {**checkpoint, "model": {**adapted.rest, **adapted.weights}}
    renamed = _rename(model, state, checkpoint, file)
    report = LoadReport(file=file, prefix=renamed.prefix, ema=checkpoint.get("ema_used", False))
    implied = _implied_statistics(model, renamed.weights)
    matched = {}
    for name, value in state.items():
        weight = renamed.weights.get(name)
        if weight is None:
            (report.matched if name in implied else report.fresh).append(name)
        elif weight.shape != value.shape:
            mismatch = ShapeMismatch(name, tuple(weight.shape), tuple(value.shape))
            report.mismatched.append(mismatch)
        else:
            report.matched.append(name)
            matched[name] = weight
    unused = [renamed.sources[name] for name in renamed.weights if name not in state]
    unused = [adapted.sources.get(name, name) for name in unused]
    report.unused = [*unused, *renamed.dropped, *checkpoint.get("skipped", [])]
    report.dialect, report.left_out = adapted.dialect, adapted.left_out
    report.reasons, report.notes = renamed.dropped, renamed.notes
    report.resized = [
        ShapeMismatch(name, shape, tuple(state[name].shape))
        for name, shape in adapted.resized.items()
        if name in matched
    ]
    return matched, report


def _adapt(model: nn.Module, weights: dict[str, Tensor], file: str) -> AdaptedWeights | None:
    """Let the first module with a method ``adapt_weights`` translate a file, if it can.

    The method is ``(weights, file) -> AdaptedWeights | None``, with the module's names; returned
    are the model's. It is not called for a file that fits the module as it is.
    """
    modules = model.named_modules()
    name, module = next(((n, m) for n, m in modules if hasattr(m, "adapt_weights")), ("", None))
    if module is None:
        return None
    prefix = f"{name}." if name else ""
    own = module.state_dict(prefix=prefix)
    below = {key for key in weights if key.startswith(prefix)}
    if own.keys() == below and all(weights[key].shape == own[key].shape for key in own):
        return None
    adapted = module.adapt_weights(weights, file)
    if adapted is not None:
        for field in ("weights", "sources", "resized"):
            values = {prefix + key: value for key, value in getattr(adapted, field).items()}
            setattr(adapted, field, values)
    return adapted


def check_architecture(report: LoadReport) -> None:
    """Refuse weights of another architecture.

    Counted are the backbone's tensors or, for a model without one, all, without batch norms'
    counters. A file that a module has translated is not checked again: the module has done it.

    Raises:
        ValueError: Fewer than half of these tensors match the file's.
    """
    if report.dialect:
        return
    mismatched = {mismatch.name: mismatch for mismatch in report.mismatched}
    names = [*report.matched, *mismatched, *report.fresh]
    names = [name for name in names if not name.endswith("num_batches_tracked")]
    backbone = [name for name in names if name.startswith("backbone.")]
    expected = set(backbone or names)
    matched = expected.intersection(report.matched)
    if len(matched) >= _MIN_BACKBONE_SHARE * len(expected):
        return
    what = "the backbone's tensors" if backbone else "the network's tensors"
    missing = [name for name in names if name in expected and name not in matched]
    missing.sort(key=lambda name: "bottom_up" not in name)  # these names tell the architecture
    wrong_shapes = [str(mismatched[name]) for name in missing if name in mismatched]
    raise ValueError(
        f"{report.file} holds the weights of another architecture: {len(matched)} of "
        f"{len(expected)} of {what} ({100 * len(matched) / len(expected):.0f} %) found a value in "
        f"it. Found in the file, for example: {report.unused[:3] or 'nothing else'}; expected, for "
        f"example: {missing[:3]}; other shapes, for example: {wrong_shapes[:2] or 'none'}"
    )


def _rename(
    model: nn.Module, state: dict[str, Tensor], checkpoint: dict[str, Any], file: str
) -> AdaptedWeights:
    """The file's tensors under the model's names, where a name was found."""
    weights = checkpoint["model"]
    if is_centernet(weights):
        return convert_centernet(weights, model, file)
    if checkpoint.get("matching_heuristics", False):
        caffe2 = checkpoint.get("__author__") == "Caffe2"
        try:
            return _rename_with_heuristics(state, weights, caffe2)
        except (AssertionError, ValueError) as error:  # from Detectron2, without the file
            raise ValueError(
                f"The names in {file} fit the model in more than one way: {error}"
            ) from error
    names = {name: name for name in weights}  # in the file -> in the model
    # A ResNet under torchvision's and timm's names for Detectron2's ResNet.
    if "layer1.0.conv1.weight" in weights and any(
        name.endswith("res2.0.conv1.weight") for name in state
    ):
        names = {name: detectron2_resnet_name(name) for name in weights}
    prefix = _best_prefix(state, {names[name]: value for name, value in weights.items()})
    aliases = _aliases(model, state, names.values())
    names = {name: aliases.get(new, new) for name, new in names.items()}
    taken = set(names.values())
    for name, new in names.items():
        if prefix + new in state and prefix + new not in taken:
            names[name] = prefix + new
    return AdaptedWeights(
        weights={names[name]: value for name, value in weights.items()},
        sources={new: name for name, new in names.items()},
        prefix=prefix,
    )


def _aliases(model: nn.Module, state: dict[str, Tensor], names: Any) -> dict[str, str]:
    """Other names of tensors -> their names in the model.

    A module's ``weight_aliases`` maps the beginning of a file's names to the beginning of its own,
    as the segmentation head does for Detectron2's Panoptic FPN.
    """
    names = set(names)
    places = {}
    for module_name, module in model.named_modules():
        prefix = f"{module_name}." if module_name else ""
        for theirs, ours in getattr(module, "weight_aliases", {}).items():
            for name in names:
                place = prefix + ours + name.removeprefix(theirs)
                if name.startswith(theirs) and place in state and place not in names:
                    places[name] = place
    return places


def _best_prefix(state: dict[str, Tensor], weights: dict[str, Tensor]) -> str:
    """The prefix with which most of the file's tensors match; the shortest of equally good ones."""
    places: collections.Counter[str] = collections.Counter()
    for name, value in state.items():
        parts = name.split(".")
        for depth in range(len(parts)):
            weight = weights.get(".".join(parts[depth:]))
            if weight is not None and weight.shape == value.shape:
                places["".join(f"{part}." for part in parts[:depth])] += 1
    return min(places, key=lambda prefix: (-places[prefix], len(prefix)), default="")


def _rename_with_heuristics(
    state: dict[str, Tensor], weights: dict[str, Tensor], caffe2: bool
) -> AdaptedWeights:
    """Detectron2's own renaming: Caffe2's names, then the longest common suffix of the names."""
    sources = {name: name for name in weights}
    with _silenced(c2_model_loading.__name__):  # the report has the same in one table
        if caffe2:
            weights, sources = c2_model_loading.convert_c2_detectron_names(weights)
        aligned = c2_model_loading.align_and_update_state_dicts(state, weights, c2_conversion=False)
    # It moves the tensor objects without saying from where.
    names_by_tensor = {id(value): name for name, value in weights.items()}
    renamed = AdaptedWeights()
    for name, value in aligned.items():
        original = names_by_tensor[id(value)]
        if name not in state:  # it leaves out tensors of another shape; the report must name them
            ends = [key for key in state if key not in aligned and key.endswith(f".{name}")]
            name = ends[0] if len(ends) == 1 else name
        renamed.weights[name] = value
        renamed.sources[name] = sources[original]
    return renamed


@contextlib.contextmanager
def _silenced(logger_name: str) -> Iterator[None]:
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _implied_statistics(model: nn.Module, weights: dict[str, Tensor]) -> set[str]:
    """Statistics that a file lacks because they are folded into scale and shift.

    Detectron2's frozen batch norm fills them in on loading (mean 0, variance 1).
    """
    implied = set()
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, FrozenBatchNorm2d) and f"{prefix}weight" in weights:
            implied |= {f"{prefix}running_mean", f"{prefix}running_var"}
    return implied
