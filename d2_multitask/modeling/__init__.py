"""Networks and backbones. Importing the package registers all of them with Detectron2."""

from d2_multitask.modeling.backbones import add_backbone_config
from d2_multitask.modeling.mcn import MultitaskCenterNet

__all__ = ["MultitaskCenterNet", "add_backbone_config"]
