"""Any torchvision or timm network as a Detectron2 backbone, chosen by name.

Weights and normalisation: torchvision's weights (and nearly all of timm's) were trained on RGB
images in [0, 1] with ImageNet's mean and standard deviation. In Detectron2's keys, for images in
[0, 255]: `INPUT.FORMAT: "RGB"`, `MODEL.PIXEL_MEAN: [123.675, 116.28, 103.53]`,
`MODEL.PIXEL_STD: [58.395, 57.12, 57.375]`.
"""

from __future__ import annotations

import difflib
import logging
import math
from typing import Any

import torch
import torchvision
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from d2_multitask.checkpoint import load_weights
from d2_multitask.modeling.backbones.resnet import StrideFourFPN, build_stride_four_fpn

logger = logging.getLogger(__name__)

_STRIDES = (4, 8, 16, 32)

# (h, w) of the image that strides are measured with. Divisible by 64, and not square, so that a
# map with channels last is not taken for one with channels first; small enough that a global
# pooling (1 x 1) has none of the strides.
_PROBE_SIZE = (128, 192)


class FeatureExtractor(Backbone):
    """A feature network of another library behind Detectron2's `Backbone` interface.

    Args:
        name: For error messages.
        body: Module (N, C, H, W) -> list or dict of feature maps of strides 4, 8, 16, ...; it keeps
            its own parameter names, below `body.`.
        in_channels: Channels C of the images.

    Raises:
        ValueError: The strides are others, or the network takes only one image size.
    """

    def __init__(self, name: str, body: nn.Module, in_channels: int = 3) -> None:
        super().__init__()
        self.body = body
        features = _as_list(_run(name, body, in_channels))
        strides = [_stride(feature) for feature in features]
        if strides != [4 * 2**level for level in range(len(strides))]:
            raise ValueError(
                f"MODEL.FEATURE_EXTRACTOR '{name}' gives feature maps of the strides {strides} "
                "(None: the map does not divide the image; shapes "
                f"{[tuple(f.shape) for f in features]} for an image of {_PROBE_SIZE}); expected "
                "4, 8, 16, ... in this order"
            )
        self._out_features = [f"res{level}" for level in range(2, 2 + len(features))]
        self._out_feature_channels = {
            key: feature.shape[1] for key, feature in zip(self._out_features, features, strict=True)
        }
        self._out_feature_strides = dict(zip(self._out_features, strides, strict=True))

    @property
    def size_divisibility(self) -> int:
        """Height and width of the images must be multiples of the coarsest stride."""
        return max(self._out_feature_strides.values())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W), normalised; H and W are multiples of `size_divisibility` -> features.

        `{"res2": (N, C2, H / 4, W / 4), "res3": (N, C3, H / 8, W / 8), ...}`.
        """
        return dict(zip(self._out_features, _as_list(self.body(x)), strict=True))


@BACKBONE_REGISTRY.register()
def build_feature_fpn_stride4_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> StrideFourFPN:
    """A torchvision or timm network with a feature pyramid of which only `p2` is computed.

    `cfg`: `MODEL.FEATURE_EXTRACTOR` (see `add_backbone_config`) and `MODEL.FPN`, whose IN_FEATURES
    may be empty (= all) or some of res2, res3, res4, res5.
    """
    return build_stride_four_fpn(cfg, build_feature_extractor(cfg, input_shape))


def build_feature_extractor(cfg: CfgNode, input_shape: ShapeSpec) -> FeatureExtractor:
    """The network that `MODEL.FEATURE_EXTRACTOR` names, with its own weights if it names some.

    Raises:
        ValueError: Bad name, nodes, strides or weights; the message names the key.
        FileNotFoundError: There is no file WEIGHTS.
    """
    node = cfg.MODEL.FEATURE_EXTRACTOR
    if node.WEIGHTS and node.PRETRAINED:
        raise ValueError(
            f"MODEL.FEATURE_EXTRACTOR has both WEIGHTS ({node.WEIGHTS}) and PRETRAINED; "
            "expected one of them"
        )
    load_now = bool(node.WEIGHTS or node.PRETRAINED)
    if load_now and cfg.MODEL.WEIGHTS:
        load_now = False
        logger.info(
            "MODEL.FEATURE_EXTRACTOR's own weights are not read, because MODEL.WEIGHTS (%s) "
            "initialises the whole model.",
            cfg.MODEL.WEIGHTS,
        )
    body = _build_body(node, input_shape.channels, pretrained=load_now and node.PRETRAINED)
    extractor = FeatureExtractor(node.NAME, body, input_shape.channels)
    if load_now:
        _warn_about_normalisation(cfg)
        if node.WEIGHTS:
            load_weights(body, node.WEIGHTS)
    else:
        _scale_convolutions(body, node.INIT_SCALE)
    return extractor


def _build_body(node: CfgNode, in_channels: int, pretrained: bool) -> nn.Module:
    """The network as a module (N, C, H, W) -> list or dict of feature maps, finest first."""
    library, _, name = node.NAME.partition("/")
    if library not in ("torchvision", "timm") or not name:
        raise ValueError(
            f"MODEL.FEATURE_EXTRACTOR.NAME is '{node.NAME}'; expected 'torchvision/<network>' or "
            "'timm/<network>'"
        )
    try:
        if library == "torchvision":
            return _torchvision_body(name, list(node.OUT_NODES), in_channels, pretrained)
        if node.OUT_NODES:
            raise ValueError(
                f"MODEL.FEATURE_EXTRACTOR.OUT_NODES {list(node.OUT_NODES)} is for torchvision "
                f"networks; expected [] with '{node.NAME}', whose outputs timm defines"
            )
        return _timm_body(name, in_channels, pretrained)
    except OSError as error:  # of a download
        raise OSError(
            f"The weights of '{node.NAME}' could not be downloaded ({error}). Download them by "
            "hand and name the file in MODEL.FEATURE_EXTRACTOR.WEIGHTS, with PRETRAINED False"
        ) from error


def _timm_body(name: str, in_channels: int, pretrained: bool) -> nn.Module:
    """At each stride the last feature map that timm offers."""
    import timm  # registers all of timm's networks, which takes a second

    if not timm.is_model(name):
        raise ValueError(
            f"MODEL.FEATURE_EXTRACTOR.NAME 'timm/{name}': timm has no such network. "
            f"Similar names: {_similar(name, timm.list_models())}"
        )
    # The "getter" wrapper, because the others rename the parameters (`stem.0.weight` becomes
    # `stem_0.weight`), and weight files would not match any more.
    options = {"features_only": True, "feature_cls": "getter", "in_chans": in_channels}
    try:
        strides = timm.create_model(name, **options).feature_info.reduction()
    except (AttributeError, RuntimeError) as error:
        raise ValueError(
            f"MODEL.FEATURE_EXTRACTOR.NAME 'timm/{name}' gives no feature maps: {error}"
        ) from error
    last = {stride: index for index, stride in enumerate(strides)}
    indices = _at_strides(last, f"timm/{name}")
    return timm.create_model(name, pretrained=pretrained, out_indices=indices, **options)


def _torchvision_body(
    name: str, out_nodes: list[str], in_channels: int, pretrained: bool
) -> nn.Module:
    """The network up to its last node, with torchvision's parameter names."""
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ValueError(
            f"MODEL.FEATURE_EXTRACTOR.NAME 'torchvision/{name}': torchvision has no such "
            f"classification network. Similar names: {_similar(name, known)}"
        )
    if in_channels != 3:
        raise ValueError(
            f"MODEL.FEATURE_EXTRACTOR.NAME 'torchvision/{name}' takes images of 3 channels; "
            f"MODEL.PIXEL_MEAN has {in_channels} numbers"
        )
    model = torchvision.models.get_model(name, weights="DEFAULT" if pretrained else None)
    nodes = out_nodes or find_last_blocks(f"torchvision/{name}", model)
    try:
        return create_feature_extractor(model, nodes, suppress_diff_warning=True)
    except ValueError as error:
        raise ValueError(
            f"MODEL.FEATURE_EXTRACTOR.OUT_NODES {nodes} do not fit 'torchvision/{name}': {error}"
        ) from error


def find_last_blocks(name: str, model: nn.Module) -> list[str]:
    """Find the last block at each of the strides 4, 8, 16 and 32.

    A block is a child of the network; an `nn.Sequential` whose children have different strides
    (such as MobileNetV2's `features`) is opened and its children are the blocks. The last *layer*
    at a stride would be the wrong choice: the next block often begins at the old stride with its
    expansion (MobileNetV2: 144 instead of 24 channels at stride 4).

    Returns:
        Four module names, finest first.

    Raises:
        ValueError: The network has no feature map at one of the strides; names ``name``.
    """
    strides = _module_strides(name, model)
    last = {strides[block]: block for block in _blocks(model, "", strides)}
    return _at_strides(last, name)


def _module_strides(name: str, model: nn.Module) -> dict[str, int | None]:
    """Stride of each module's output (None = not a feature map), in the order of execution."""
    strides: dict[str, int | None] = {}
    names = {module: path for path, module in model.named_modules()}

    def record(module: nn.Module, _inputs: tuple, output: object) -> None:
        strides[names[module]] = _stride(output)

    hooks = [module.register_forward_hook(record) for module in names]
    try:
        _run(name, model, 3)
    finally:
        for hook in hooks:
            hook.remove()
    return strides


def _blocks(module: nn.Module, prefix: str, strides: dict[str, int | None]) -> list[str]:
    """Names of the blocks below `module` that ran, in the order of execution."""
    blocks = []
    for child_name, child in module.named_children():
        name = f"{prefix}{child_name}"
        inner = {strides.get(f"{name}.{grandchild}") for grandchild, _ in child.named_children()}
        mixed = isinstance(child, nn.Sequential) and len(inner) > 1
        if mixed or name not in strides:  # containers such as ModuleList do not run themselves
            blocks += _blocks(child, f"{name}.", strides)
        else:
            blocks.append(name)
    order = list(strides)
    return sorted(blocks, key=order.index)


def _at_strides(last: dict[int | None, Any], name: str) -> list[Any]:
    missing = [stride for stride in _STRIDES if stride not in last]
    if missing:
        found = sorted(stride for stride in last if stride is not None)
        raise ValueError(
            f"MODEL.FEATURE_EXTRACTOR.NAME '{name}' has feature maps (N, C, H, W) of the strides "
            f"{found}; expected {list(_STRIDES)}"
        )
    return [last[stride] for stride in _STRIDES]


def _stride(output: object) -> int | None:
    """Stride of a feature map (N, C, h, w) of an image of _PROBE_SIZE; None = it is not one."""
    if not isinstance(output, Tensor) or output.dim() != 4:
        return None
    height, width = output.shape[-2:]
    stride = _PROBE_SIZE[0] // height
    return stride if (height * stride, width * stride) == _PROBE_SIZE else None


@torch.no_grad()
def _run(name: str, network: nn.Module, in_channels: int) -> Any:
    """The network's output for a small image, in evaluation mode."""
    was_training = network.training
    network.eval()
    try:
        return network(torch.zeros(1, in_channels, *_PROBE_SIZE))
    except Exception as error:  # which one depends on the network
        raise ValueError(
            f"MODEL.FEATURE_EXTRACTOR.NAME '{name}' does not run on an image of "
            f"{_PROBE_SIZE[0]} x {_PROBE_SIZE[1]}: {error}. Expected a network for images of any "
            "size"
        ) from error
    finally:
        network.train(was_training)


@torch.no_grad()
def _scale_convolutions(body: nn.Module, scale: float) -> None:
    """Multiply the weights of convolutions without bias, whose output a norm scales back."""
    if not 0 < scale < math.inf:
        raise ValueError(
            f"MODEL.FEATURE_EXTRACTOR.INIT_SCALE: found {scale}, expected a number > 0"
        )
    for module in body.modules():
        if isinstance(module, nn.Conv2d) and module.bias is None:
            module.weight.mul_(scale)


def _warn_about_normalisation(cfg: CfgNode) -> None:
    if cfg.INPUT.FORMAT != "RGB" or all(std == 1 for std in cfg.MODEL.PIXEL_STD):
        logger.warning(
            "The pretrained weights of %s expect RGB images with MODEL.PIXEL_STD [58.395, 57.12, "
            "57.375] and PIXEL_MEAN [123.675, 116.28, 103.53]; found INPUT.FORMAT %s, PIXEL_STD %s "
            "and PIXEL_MEAN %s.",
            cfg.MODEL.FEATURE_EXTRACTOR.NAME,
            cfg.INPUT.FORMAT,
            list(cfg.MODEL.PIXEL_STD),
            list(cfg.MODEL.PIXEL_MEAN),
        )


def _similar(name: str, known: list[str]) -> str:
    return ", ".join(difflib.get_close_matches(name, known, n=5, cutoff=0.4)) or "none"


def _as_list(features: dict[str, Tensor] | list[Tensor]) -> list[Tensor]:
    return list(features.values()) if isinstance(features, dict) else list(features)
