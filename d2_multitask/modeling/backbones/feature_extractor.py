"""Any torchvision or timm network as a Detectron2 backbone, chosen by name.

Weights and normalisation: torchvision's weights (and nearly all of timm's) were trained on RGB
images in [0, 1] with ImageNet's mean and standard deviation. In Detectron2's keys, for images in
[0, 255]: `INPUT.FORMAT: "RGB"`, `MODEL.PIXEL_MEAN: [123.675, 116.28, 103.53]`,
`MODEL.PIXEL_STD: [58.395, 57.12, 57.375]`.
"""

from __future__ import annotations

import logging
import math

import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from d2_multitask.checkpoint import load_weights
from d2_multitask.modeling.backbones.fpn import StrideFourFPN, build_stride_four_fpn
from d2_multitask.modeling.backbones.probe import PROBE_SIZE, measure_features, run_probe
from d2_multitask.modeling.backbones.timm_body import build_timm_body
from d2_multitask.modeling.backbones.torchvision_body import build_torchvision_body

logger = logging.getLogger(__name__)


class FeatureExtractor(Backbone):
    """A foreign feature network behind Detectron2's `Backbone` interface.

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
        features = _as_list(run_probe(name, body, torch.zeros(1, in_channels, *PROBE_SIZE)))
        shapes = measure_features(name, features)
        self._out_features = list(shapes)
        self._out_feature_channels = {key: shape.channels for key, shape in shapes.items()}
        self._out_feature_strides = {key: shape.stride for key, shape in shapes.items()}
        self._in_channels = in_channels

    @property
    def size_divisibility(self) -> int:
        """Height and width of the images must be multiples of the coarsest stride."""
        return max(self._out_feature_strides.values())

    @property
    def padding_constraints(self) -> dict[str, int]:
        """How Detectron2's `ImageList` has to pad a batch."""
        return {"size_divisibility": self.size_divisibility}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute the features.

        Args:
            x: Normalised images, (N, C, H, W); H and W are multiples of `size_divisibility`.

        Returns:
            `{"res2": (N, C2, H / 4, W / 4), "res3": (N, C3, H / 8, W / 8), ...}`.
        """
        return dict(zip(self._out_features, _as_list(self.body(x)), strict=True))

    def freeze(self, num_levels: int) -> None:
        """Fix all layers on the way to the first `num_levels` outputs, batch norms included.

        Args:
            num_levels: 0 = none, 1 = all up to stride 4, 2 = up to stride 8, ...

        Raises:
            ValueError: There are not so many levels.
        """
        if not 0 <= num_levels <= len(self._out_features):
            raise ValueError(
                f"MODEL.FEATURE_EXTRACTOR.FREEZE_AT is {num_levels}; expected a number from 0 to "
                f"{len(self._out_features)}, the levels {self._out_features}"
            )
        if num_levels == 0:
            return
        # A parameter lies on the way to an output if the output has a gradient for it.
        parameters = dict(self.body.named_parameters())
        with torch.enable_grad():
            features = _as_list(self.body.eval()(torch.zeros(1, self._in_channels, *PROBE_SIZE)))
            total = sum(feature.sum() for feature in features[:num_levels])
            gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
        self.body.train(self.training)
        frozen = {n for n, grad in zip(parameters, gradients, strict=True) if grad is not None}
        for name in frozen:
            parameters[name].requires_grad_(False)
        norms = _batch_norms(self.body)
        _freeze_batch_norms(self.body, [name for name in norms if f"{name}.weight" in frozen])

    def freeze_norms(self) -> None:
        """Fix statistics and affine parameters of all batch norms; the key names stay."""
        _freeze_batch_norms(self.body, _batch_norms(self.body))


def build_feature_extractor(cfg: CfgNode, input_shape: ShapeSpec) -> FeatureExtractor:
    """Build the network that `MODEL.FEATURE_EXTRACTOR` names.

    Args:
        cfg: Read: `MODEL.FEATURE_EXTRACTOR`, `MODEL.WEIGHTS`, `MODEL.PIXEL_STD`, `INPUT.FORMAT`.
        input_shape: Its `channels` are the channels of the images.

    Returns:
        The network, with its own weights if the config names some.

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
    wants_weights = bool(node.WEIGHTS or node.PRETRAINED)
    load_now = wants_weights and not cfg.MODEL.WEIGHTS
    if wants_weights and not load_now:
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
    extractor.freeze(node.FREEZE_AT)
    if node.FREEZE_NORM:
        extractor.freeze_norms()
    return extractor


@BACKBONE_REGISTRY.register()
def build_feature_fpn_stride4_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> StrideFourFPN:
    """A torchvision or timm network with a feature pyramid of which only `p2` is computed.

    Args:
        cfg: Read: `MODEL.FEATURE_EXTRACTOR` (see `add_backbone_config`) and `MODEL.FPN`, whose
            IN_FEATURES may be empty (= all) or some of res2, res3, res4, res5.
        input_shape: Its `channels` are the channels of the images.

    Returns:
        The backbone with output `p2`.
    """
    return build_stride_four_fpn(cfg, build_feature_extractor(cfg, input_shape))


def _build_body(node: CfgNode, in_channels: int, pretrained: bool) -> nn.Module:
    library, _, name = node.NAME.partition("/")
    if library not in ("torchvision", "timm") or not name:
        raise ValueError(
            f"MODEL.FEATURE_EXTRACTOR.NAME is '{node.NAME}'; expected 'torchvision/<network>' or "
            "'timm/<network>'"
        )
    if library == "timm" and node.OUT_NODES:
        raise ValueError(
            f"MODEL.FEATURE_EXTRACTOR.OUT_NODES {list(node.OUT_NODES)} is for torchvision "
            f"networks; expected [] with '{node.NAME}', whose outputs timm defines"
        )
    try:
        if library == "timm":
            return build_timm_body(name, in_channels, pretrained)
        return build_torchvision_body(name, list(node.OUT_NODES), in_channels, pretrained)
    except OSError as error:  # of a download
        raise OSError(
            f"The weights of '{node.NAME}' could not be downloaded ({error}). Download them by "
            "hand and name the file in MODEL.FEATURE_EXTRACTOR.WEIGHTS, with PRETRAINED False"
        ) from error


@torch.no_grad()
def _scale_convolutions(body: nn.Module, scale: float) -> None:
    """Multiply the weights of convolutions without bias, after which a norm undoes it."""
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


def _as_list(features: dict[str, Tensor] | list[Tensor]) -> list[Tensor]:
    return list(features.values()) if isinstance(features, dict) else list(features)


def _batch_norms(body: nn.Module) -> list[str]:
    return [name for name, m in body.named_modules() if isinstance(m, nn.BatchNorm2d)]


def _freeze_batch_norms(body: nn.Module, names: list[str]) -> None:
    for name in names:
        parent, _, child = name.rpartition(".")
        setattr(body.get_submodule(parent), child, _frozen(body.get_submodule(name)))


def _frozen(norm: nn.BatchNorm2d) -> nn.Module:
    if type(norm) is nn.BatchNorm2d:
        return FrozenBatchNorm2d.convert_frozen_batchnorm(norm)
    # timm's batch norms contain the activation, which Detectron2's conversion would lose.
    from timm.layers import freeze_batch_norm_2d

    return freeze_batch_norm_2d(norm)
