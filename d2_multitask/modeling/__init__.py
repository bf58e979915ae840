"""Networks and backbones. Importing the package registers all of them with Detectron2."""

from d2_multitask.modeling.backbones import add_backbone_config
from d2_multitask.modeling.mae import MaskedAutoencoder, add_mae_config
from d2_multitask.modeling.mcn import MultitaskCenterNet

__all__ = ["MaskedAutoencoder", "MultitaskCenterNet", "add_backbone_config", "add_mae_config"]
