"""What is compared: networks, compositions of networks, bare backbones, Detectron2's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_backbone, build_model
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch import Tensor, nn

from benchmark.people import random_people
from d2_multitask.config import load_config
from d2_multitask.modeling.inference import fuse_for_inference
from d2_multitask.targets.decode import suppress_non_peaks

Batch = list[dict[str, Any]]
Builder = Callable[[], "Contestant"]

KEYPOINT_RCNN = "COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x.yaml"
PANOPTIC_FPN = "COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml"

# What the trained network of configs/quick/mcn_seg_det_pose.yaml leaves to decoding in an image of
# its validation set: 40 to 50 objects above the threshold whatever the number of people, and 7, 10,
# 14 and 18 peaks of the keypoint that has most of them for 1, 2, 3 and 4 people.
OBJECTS = 50
JOINT_PEAKS_PER_PERSON = 4


@dataclass(frozen=True)
class Setting:
    """How networks are run.

    Attributes:
        device: a PyTorch device.
        dtype: type that autocast computes convolutions in; float32 is no autocast.
        channels_last: memory order of our networks; Detectron2's run as they come.
        fused: run our networks as evaluation does, see `d2_multitask.modeling.inference`.
        compiled: run our networks through ``torch.compile``.
        size: side of the images, pixels.
        people: in each image, where results decide on the work.
    """

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    channels_last: bool = True
    fused: bool = True
    compiled: bool = False
    size: int = 512
    people: int = 10

    def images(self, number: int) -> Batch:
        """Random images in the form that networks take."""
        return random_people(number, self.people, (self.size, self.size))


class Contestant(nn.Module):
    """Networks that run one after the other on the same images: one row of a table."""

    def __init__(
        self, networks: Sequence[nn.Module], num_parameters: int, setting: Setting
    ) -> None:
        """
        Args:
            networks: as they are run.
            num_parameters: of all of them, as they are trained.
            setting: its device and type are used.
        """
        super().__init__()
        self.networks = nn.ModuleList(networks).eval()
        self.num_parameters = num_parameters
        self.setting = setting

    def forward(self, inputs: Any) -> list[Any]:
        """One answer a network."""
        device, dtype = torch.device(self.setting.device).type, self.setting.dtype
        with torch.no_grad(), torch.autocast(device, dtype, enabled=dtype != torch.float32):
            return [network(inputs) for network in self.networks]

    def prepare(self, batch: Batch) -> Any:
        """What :meth:`forward` takes, from images; not timed."""
        return batch


class BareBackbone(Contestant):
    """A backbone with its neck, on an image tensor that is ready: the limit of what is possible."""

    def __init__(self, backbone: nn.Module, num_parameters: int, setting: Setting) -> None:
        super().__init__([backbone], num_parameters, setting)

    def prepare(self, batch: Batch) -> Tensor:
        """(N, 3, H, W) of random values, in the memory order of the backbone's weights."""
        weight = next(p for p in self.parameters() if p.dim() == 4 and p.shape[2] > 1)
        contiguous = weight.is_contiguous()
        order = torch.contiguous_format if contiguous else torch.channels_last
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(len(batch), 3, *batch[0]["image"].shape[1:], generator=generator)
        return images.to(weight.device).contiguous(memory_format=order)


def network_cfg(config_file: str, opts: Sequence[str], setting: Setting) -> CfgNode:
    """The config of a network with random weights.

    Raises:
        ValueError: the config is wrong.
    """
    cfg = load_config(config_file, opts)
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.FEATURE_EXTRACTOR.WEIGHTS = ""
    cfg.MODEL.FEATURE_EXTRACTOR.PRETRAINED = False
    cfg.MODEL.DEVICE = setting.device
    cfg.MODEL.CHANNELS_LAST = setting.channels_last
    return cfg


def build_networks(cfg: CfgNode, tasks: Sequence[Sequence[str]], setting: Setting) -> Contestant:
    """One network for each set of tasks, otherwise as the config says.

    The weights are random, so thresholds are set such that decoding has the work of
    ``setting.people`` an image, see :func:`set_candidate_thresholds`.
    """
    networks, num_parameters = [], 0
    for names in tasks:
        cfg = cfg.clone()
        cfg.MODEL.TASKS = list(names)
        torch.manual_seed(0)
        network = build_model(cfg)
        num_parameters += count_parameters(network)
        set_candidate_thresholds(network, setting.images(1), setting.people)
        networks.append(_for_inference(network, setting))
    return Contestant(networks, num_parameters, setting)


def build_bare_backbone(cfg: CfgNode, setting: Setting) -> Contestant:
    """The backbone and neck of one of our configs, run as in the whole network."""
    network = build_model(cfg)
    num_parameters = count_parameters(network.backbone)
    return BareBackbone(_for_inference(network, setting).backbone, num_parameters, setting)


def _for_inference(network: nn.Module, setting: Setting) -> nn.Module:
    if not (setting.fused or setting.compiled):
        return network
    return fuse_for_inference(network, fused=setting.fused, compiled=setting.compiled)


def build_detectron2_backbone(setting: Setting, depth: int = 18) -> Contestant:
    """Detectron2's ResNet-FPN with all its levels, 256 channels, as its builder makes it."""
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    if depth < 50:
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    backbone = build_backbone(cfg).to(setting.device)
    return BareBackbone(backbone, count_parameters(backbone), setting)


def build_detectron2_networks(setting: Setting, proposals: int = 1000) -> Contestant:
    """Detectron2's way to the same three answers: Keypoint R-CNN and Panoptic FPN, ResNet-50.

    The weights are random, so the score threshold is set such that objects are found: at most
    ``setting.people`` an image reach the keypoint and the mask head, and a few times as many the
    suppression of boxes before it.

    Args:
        setting: how networks are run.
        proposals: most boxes an image that the box head looks at; 1000 is the model zoo's.
    """
    networks = []
    for name in (KEYPOINT_RCNN, PANOPTIC_FPN):
        cfg = model_zoo.get_config(name)
        cfg.MODEL.WEIGHTS = ""
        cfg.MODEL.DEVICE = setting.device
        cfg.MODEL.RPN.POST_NMS_TOPK_TEST = proposals
        cfg.TEST.DETECTIONS_PER_IMAGE = setting.people
        torch.manual_seed(0)
        network = build_model(cfg).eval()
        calm_residuals(network)
        set_score_threshold(network, setting.images(1), 3 * setting.people)
        networks.append(network)
    return Contestant(networks, sum(map(count_parameters, networks)), setting)


@torch.no_grad()
def calm_residuals(network: nn.Module, weight: float = 0.1) -> None:
    """Keep the features of a random ResNet at the size of its inputs.

    With fixed batch norms of weight 1 they grow with every block, until all scores are 1 and all
    boxes are the image.

    Args:
        network: a Detectron2 network of bottleneck blocks; changed.
        weight: of the last norm of each block.
    """
    for block in network.modules():
        if isinstance(block, BottleneckBlock):
            block.conv3.norm.weight.fill_(weight)


@torch.no_grad()
def set_score_threshold(network: nn.Module, batch: Batch, count: int) -> None:
    """Let the ``count`` best boxes an image through the threshold of a Detectron2 detector.

    Args:
        network: a ``GeneralizedRCNN``; changed.
        batch: images to look at.
        count: boxes an image, before suppression.
    """
    predictor = network.roi_heads.box_predictor
    logits: list[Tensor] = []
    hook = predictor.register_forward_hook(lambda _m, _i, output: logits.append(output[0]))
    try:
        network(batch)
    finally:
        hook.remove()
    scores = logits[0].softmax(-1)[:, :-1].flatten()
    best = scores.topk(min(count * len(batch) + 1, len(scores))).values
    predictor.test_score_thresh = float(best[-1])


@torch.no_grad()
def set_candidate_thresholds(network: nn.Module, batch: Batch, people: int) -> None:
    """Let as many candidates through the thresholds of our heads as after training.

    Args:
        network: has heads or not; its thresholds and the scale of its heatmaps are changed, and it
            is put in evaluation mode.
        batch: images to look at.
        people: in each image.
    """
    heads = getattr(network.eval(), "heads", {})
    candidates = {
        "center": ("heatmap", OBJECTS),
        "pose": ("keypoint_heatmap", JOINT_PEAKS_PER_PERSON * people),
    }
    names = [name for name in candidates if name in heads]
    features = network.backbone(network.preprocess_image(batch).tensor) if names else {}
    for name in names:
        prediction, count = candidates[name]
        # Features of random weights can be so large that all scores are 1.
        spread = heads[name].layers(features)[prediction].std()
        getattr(heads[name], prediction)[-1].weight.div_(spread)
        scores = heads[name].layers(features)[prediction].float().sigmoid()
        peaks = suppress_non_peaks(scores).flatten(2)  # (N, channels, cells)
        best = peaks.topk(min(count + 1, peaks.shape[-1])).values
        owner = getattr(heads[name], "matching", heads[name])
        owner.score_threshold = float(best[..., -1].amax())


def count_parameters(network: nn.Module) -> int:
    """Parameters of a network, learned or fixed."""
    return sum(parameter.numel() for parameter in network.parameters())


def rows_of_config(
    config_file: str, opts: Sequence[str], setting: Setting, compiled: bool = False
) -> dict[str, Builder]:
    """The rows that belong to a config: joint, the compositions that do the same, the limit.

    The compositions are there if the config has the three tasks.

    Args:
        config_file: a path, or the name of a config that comes with the package.
        opts: overrides.
        setting: how networks are run.
        compiled: also the joint network through ``torch.compile``.
    """
    name = config_file.removesuffix(".yaml").rsplit("configs/", 1)[-1]

    def builder(tasks: Sequence[Sequence[str]] | None, setting: Setting = setting) -> Builder:
        def build() -> Contestant:
            cfg = network_cfg(config_file, opts, setting)
            return build_networks(cfg, tasks or [cfg.MODEL.TASKS], setting)

        return build

    rows = {name: builder(None)}
    if compiled:
        rows[f"{name}: compiled"] = builder(None, replace(setting, compiled=True))
    try:
        tasks = set(network_cfg(config_file, opts, setting).MODEL.TASKS)
    except ValueError:
        return rows  # building the row will tell what is wrong
    if tasks == {"seg", "det", "pose"}:
        rows[f"{name}: 3 single networks"] = builder([["seg"], ["det"], ["pose"]])
        rows[f"{name}: det+pose and seg"] = builder([["det", "pose"], ["seg"]])
    rows[f"{name}: bare backbone and neck"] = lambda: build_bare_backbone(
        network_cfg(config_file, opts, setting), setting
    )
    return rows


def detectron2_rows(setting: Setting) -> dict[str, Builder]:
    """Detectron2's composition, as it comes and with few proposals, and the backbone that speeds
    are given in.
    """
    composition = "Detectron2: Keypoint R-CNN and Panoptic FPN, R50"
    return {
        composition: partial(build_detectron2_networks, setting),
        f"{composition}, 100 proposals": partial(build_detectron2_networks, setting, 100),
        "Detectron2: bare R18-FPN (256)": partial(build_detectron2_backbone, setting),
    }
