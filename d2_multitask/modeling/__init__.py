"""Networks and backbones. Importing the package registers all of them with Detectron2."""

from d2_multitask.modeling.backbones import add_backbone_config
from d2_multitask.modeling.mae import MaskedAutoencoder, add_mae_config
from d2_multitask.modeling.mae.multitask import MultitaskMAE
from d2_multitask.modeling.mcn import MultitaskCenterNet
from d2_multitask.modeling.rcnn import MultitaskRCNN, add_rcnn_config
from d2_multitask.modeling.roi_heads import MultitaskROIHeads, MultitaskRPN

__all__ = [
    "MaskedAutoencoder",
    "MultitaskCenterNet",
    "MultitaskMAE",
    "MultitaskRCNN",
    "MultitaskROIHeads",
    "MultitaskRPN",
    "add_backbone_config",
    "add_mae_config",
    "add_rcnn_config",
]
