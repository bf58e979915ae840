"""Weight files of CenterNet's public code: their contents, and their names in our networks.

Published are ResNet-18, ResNet-101 and DLA-34, for boxes of COCO's 80 classes (`ctdet`) and for
people with keypoints (`multi_pose`). Their layers are ours, one to one (docs/centernet.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from d2_multitask.checkpoint.report import AdaptedWeights

# CenterNet's heads and ours: 3x3 convolution ".0", 1x1 convolution ".2", which is our ".1".
HEADS = {
    "hm": "heads.center.heatmap",
    "reg": "heads.center.offset",
    "wh": "heads.det.wh",
    "hps": "heads.pose.keypoint_offset",
    "hm_hp": "heads.pose.keypoint_heatmap",
    "hp_offset": "heads.pose.keypoint_heatmap_offset",
}
TASKS = {"ctdet": ("hm", "wh", "reg"), "multi_pose": tuple(HEADS)}
# Heads of CenterNet's other tasks, for messages.
_OTHER_TASKS = {"dep": "ddd (boxes in 3D)", "hm_t": "exdet (extreme points)"}

_DLA_KEY, _RESNET_KEY = "dla_up.ida_0.proj_1.conv.weight", "deconv_layers.0.conv_offset_mask.weight"
# Blocks of the third stage -> depth, without and with bottlenecks.
_RESNET_DEPTHS = {False: {2: 18, 6: 34}, True: {6: 50, 23: 101, 36: 152}}

CLASSIFIER = "the ImageNet classifier of the feature network, which detection does not use"
UNREAD = "a projection that CenterNet computes and does not use; our network does not have it"
NO_PLACE = "the network has no such layer (another backbone, or heads that MODEL.TASKS leaves out)"
PERSON = (
    "{name}: the file has {found} classes, the model 1: the file's class 0 is taken (in COCO's "
    "order the person), the others are dropped"
)


@dataclass(frozen=True)
class CenterNetFile:
    """Contents of a file."""

    network: str  # "dla34", "r18", "r34", "r50", "r101" or "r152"
    task: str  # "ctdet" or "multi_pose"
    num_classes: int  # of the centre heatmap


def is_centernet(names: Iterable[str]) -> bool:
    """Whether tensors of these names are one of CenterNet's networks that we have."""
    names = set(names)
    return _DLA_KEY in names or _RESNET_KEY in names


def identify(weights: Mapping[str, Tensor], file: str) -> CenterNetFile:
    """Tell which published network and task a file holds.

    Args:
        weights: Name -> tensor, without `module.` prefixes.
        file: For messages.

    Raises:
        ValueError: Another network or task, or heads are missing.
    """
    network = _network(weights, file)
    heads = {name.split(".")[0] for name in weights if re.fullmatch(r"\w+\.[02]\.weight", name)}
    for head, task in _OTHER_TASKS.items():
        if head in heads:
            raise ValueError(
                f"{file} is CenterNet's {task}: found the head {head!r}, expected those of ctdet "
                f"{TASKS['ctdet']} or multi_pose {TASKS['multi_pose']}"
            )
    task = "multi_pose" if heads & {"hps", "hm_hp", "hp_offset"} else "ctdet"
    missing = [name for name in TASKS[task] if f"{name}.2.weight" not in weights]
    if missing:
        raise ValueError(
            f"{file} lacks the heads {missing} of CenterNet's {task}: found {sorted(heads)}; "
            "expected a file of CenterNet's model zoo, whole"
        )
    return CenterNetFile(network, task, weights["hm.2.weight"].shape[0])


def convert_centernet(
    weights: Mapping[str, Tensor], model: nn.Module, file: str = "the file"
) -> AdaptedWeights:
    """Rename and scale a file's tensors, so that our network has the same outputs.

    Args:
        weights: Name -> tensor, without `module.` prefixes; not changed.
        model: The network that they are for.
        file: For messages.

    Raises:
        ValueError: The model has plain convolutions where the file has deformable ones: the
            tensors would fit, but the outputs would be wrong.
    """
    state = model.state_dict()
    _check_deformable(state, file)
    result = AdaptedWeights()
    for name, value in weights.items():
        ours = our_name(name)
        reason = drop_reason(name) or ("" if ours in state else NO_PLACE)
        if reason:
            result.dropped[name] = reason
            continue
        value = _person_only(ours, value, state, result)
        scale = _output_scale(ours, model)
        result.weights[ours] = value if scale == 1 else value / scale
        result.sources[ours] = name
    return result


def drop_reason(name: str) -> str:
    """Why a tensor of CenterNet is not in our network; "" = it is."""
    if name.startswith("base.fc."):
        return CLASSIFIER
    # The outer tree of two: its projection is passed to an inner tree, which has its own.
    return UNREAD if re.match(r"base\.level[34]\.project\.", name) else ""


def our_name(name: str) -> str:
    """CenterNet's name of a tensor -> ours; an unknown name is returned as it is."""
    first, _, rest = name.partition(".")
    if first in HEADS and rest[:2] in ("0.", "2."):
        return f"{HEADS[first]}.{int(rest[0]) // 2}.{rest[2:]}"
    if first == "base":
        return f"backbone.bottom_up.{rest}"
    match = re.match(r"(?:dla_up\.ida_(\d+)|ida_up)\.(proj|node|up)_(\d+)\.(.*)", name)
    if match:
        row, kind, index, rest = match.groups()
        module = "output_aggregation" if row is None else f"aggregations.{row}"
        modules = {"proj": "projections", "node": "nodes", "up": "ups"}[kind]
        rest = rest.removeprefix("conv.").replace("actf.0.", "norm.")
        return f"backbone.{module}.{modules}.{int(index) - 1}.{rest}"
    match = re.match(r"deconv_layers\.(\d+)\.(.*)", name)
    if match:
        stage, layer = divmod(int(match[1]), 6)
        part = {0: "conv", 1: "conv.norm", 3: "up", 4: "norm"}.get(layer, f"layer{layer}")
        return f"backbone.ups.{stage}.{part}.{match[2]}"
    if re.match(r"(layer[1-4]|conv1|bn1)\.", name):
        return f"backbone.bottom_up.{detectron2_resnet_name(name)}"
    return name


def detectron2_resnet_name(name: str) -> str:
    """torchvision's name of a ResNet's tensor -> Detectron2's (layer1.0.bn2 -> res2.0.conv2.norm).

    The model zoo has no ImageNet weights of ResNet-18 and -34; torchvision has.
    """
    name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
    name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    return re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)


def _network(weights: Mapping[str, Tensor], file: str) -> str:
    if _DLA_KEY in weights:
        return "dla34"
    if _RESNET_KEY in weights:
        bottleneck = "layer1.0.conv3.weight" in weights
        blocks = sum(bool(re.fullmatch(r"layer3\.\d+\.conv1\.weight", name)) for name in weights)
        if blocks in _RESNET_DEPTHS[bottleneck]:
            return f"r{_RESNET_DEPTHS[bottleneck][blocks]}"
    kinds = {
        "pre.0.conv.weight": "CenterNet's Hourglass-104, a network that this package does not have",
        _RESNET_KEY: "a part of a ResNet, or one of unknown depth",
        "deconv_layers.0.weight": "a ResNet without deformable convolution (CenterNet's 'res')",
        "base.base_layer.0.weight": "CenterNet's first version of DLA ('dlav0') or a part of DLA",
    }
    found = next((what for key, what in kinds.items() if key in weights), "another network")
    if any(name.startswith("backbone.") for name in weights):
        found = "a checkpoint of Detectron2 or of this package, which needs no conversion"
    raise ValueError(
        f"{file} holds {found}: found, for example, {list(weights)[:3]}; expected the deformable "
        "DLA-34, ResNet-18 or ResNet-101 of CenterNet's model zoo (ctdet_coco_dla_2x.pth, ...)"
    )


def _check_deformable(state: Mapping[str, Tensor], file: str) -> None:
    up_sampled = any(name.startswith(("backbone.ups.", "backbone.aggregations.")) for name in state)
    if up_sampled and not any("conv_offset_mask" in name for name in state):
        raise ValueError(
            f"{file} holds deformable convolutions, the network has plain ones, with which its "
            "outputs would be wrong; expected MODEL.UPSAMPLING.DEFORMABLE True"
        )


def _person_only(
    ours: str, value: Tensor, state: Mapping[str, Tensor], result: AdaptedWeights
) -> Tensor:
    if not ours.startswith(f"{HEADS['hm']}.1.") or ours not in state:
        return value
    if len(state[ours]) != 1 or len(value) == 1:
        return value
    result.notes.append(PERSON.format(name=ours, found=len(value)))
    return value[:1].clone()


def _output_scale(ours: str, model: nn.Module) -> float:
    """The factor by which our head, but not CenterNet's, multiplies the last layer's output."""
    scales = {"wh": ("det", "wh_scale"), "hps": ("pose", "offset_scale")}
    for theirs, (task, attribute) in scales.items():
        if ours.startswith(f"{HEADS[theirs]}.1.") and task in getattr(model, "heads", {}):
            return getattr(model.heads[task], attribute)
    return 1.0
