"""Weight files of CenterNet's public code: their names in our networks.

Published are ResNet-18, ResNet-101 and DLA-34, for boxes of COCO's 80 classes (`ctdet`) and for
people with keypoints (`multi_pose`). Their layers are ours, one to one (docs/centernet.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

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
DLA_KEY, RESNET_KEY = "dla_up.ida_0.proj_1.conv.weight", "deconv_layers.0.conv_offset_mask.weight"
CLASSIFIER = "the ImageNet classifier of the feature network, which detection does not use"
UNREAD = "a projection that CenterNet computes and does not use; our network does not have it"
NO_PLACE = "the network has no such layer (another backbone, or heads that MODEL.TASKS leaves out)"
PERSON = (
    "{name}: the file has {found} classes, the model 1: the file's class 0 is taken (in COCO's "
    "order the person), the others are dropped"
)


def is_centernet(names: Iterable[str]) -> bool:
    """Whether tensors of these names are one of CenterNet's networks that we have."""
    names = set(names)
    return DLA_KEY in names or RESNET_KEY in names


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
