"""What the config says about instance masks and panoptic segments of MultitaskCenterNet."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.data import Metadata
from torch import nn

from d2_multitask.modeling import MultitaskCenterNet
from d2_multitask.modeling.inference.instance_masks import InstanceMaskNetwork, MaskOptions
from d2_multitask.visualization.metadata import cfg_metadata, limbs


def mask_keys(cfg: CfgNode) -> list[str]:
    """The keys that ask a MultitaskCenterNet for masks; of an R-CNN these are a head's."""
    keys = {"MODEL.MASK_ON": cfg.MODEL.MASK_ON, "TEST.PANOPTIC": cfg.TEST.PANOPTIC}
    return [key for key, wanted in keys.items() if wanted]


def with_instance_masks(
    cfg: CfgNode, model: nn.Module, network: nn.Module, names: Metadata | None = None
) -> nn.Module:
    """The network with what ``MODEL.MASK_ON`` and ``TEST.PANOPTIC`` add to its results.

    Args:
        cfg: also ``MODEL.PANOPTIC_FPN.COMBINE``.
        model: the network itself.
        network: what runs it, in several sizes maybe; called as the network.
        names: of classes and keypoints, as of `cfg_metadata`.

    Raises:
        ValueError: the network has no objects or no semantic map, they have not the same classes,
            or it runs in tiles; ``TEST.PANOPTIC`` with another network.
    """
    keys = mask_keys(cfg)
    if not isinstance(model, MultitaskCenterNet):
        if cfg.TEST.PANOPTIC:
            raise ValueError(
                "TEST.PANOPTIC: found True with MODEL.META_ARCHITECTURE "
                f"{cfg.MODEL.META_ARCHITECTURE}, expected MultitaskCenterNet"
            )
        return network
    if not keys:
        return network
    if "seg" not in model.heads or not {"det", "pose"}.intersection(model.heads):
        raise ValueError(
            f"{keys[0]}: found True with MODEL.TASKS {list(cfg.MODEL.TASKS)}, expected 'seg' and "
            "one of 'det', 'pose': masks are parts of the semantic map, shared out among objects"
        )
    if cfg.TEST.TILES.ENABLED:
        raise ValueError(
            f"{keys[0]}: found True with TEST.TILES, expected one of the two: tiles have no objects"
        )
    metadata, combine = cfg_metadata(cfg, names), cfg.MODEL.PANOPTIC_FPN.COMBINE
    options = MaskOptions(
        thing_classes=metadata.thing_classes,
        stuff_classes=metadata.stuff_classes,
        skeleton=limbs(metadata) if "pose" in model.heads else (),
        confidence_threshold=combine.INSTANCES_CONFIDENCE_THRESH,
        least_stuff_area=combine.STUFF_AREA_LIMIT,
        masks=cfg.MODEL.MASK_ON,
        panoptic=cfg.TEST.PANOPTIC,
    )
    return InstanceMaskNetwork(network, options)
