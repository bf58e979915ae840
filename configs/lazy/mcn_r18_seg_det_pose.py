"""The network of configs/mcn_r18_seg_det_pose.yaml as a LazyConfig of Detectron2.

    from detectron2.config import LazyConfig, instantiate
    model = instantiate(LazyConfig.load("configs/lazy/mcn_r18_seg_det_pose.py").model)

Heads are a plain list: ``instantiate`` builds what is in lists, and each head knows its name.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from detectron2.solver.build import get_default_optimizer_params
from torch.optim import AdamW

from d2_multitask.heads import BoxHead, CenterHead, ObjectGrid, PoseHead, SemSegHead
from d2_multitask.heads.refine import BoxRefinement
from d2_multitask.modeling import MultitaskCenterNet
from d2_multitask.modeling.backbones import StrideFourFPN

WIDTH = 64

grid = L(ObjectGrid)(channels=WIDTH, stride=4, in_feature="p2", assign_radius=2)

model = L(MultitaskCenterNet)(
    backbone=L(StrideFourFPN)(
        bottom_up=L(ResNet)(
            stem=L(BasicStem)(in_channels=3, out_channels=64, norm="BN"),
            stages=L(ResNet.make_default_stages)(depth=18, norm="BN"),
            out_features=["res2", "res3", "res4", "res5"],
            freeze_at=0,
        ),
        in_features=["res2", "res3", "res4", "res5"],
        out_channels=WIDTH,
        norm="BN",
    ),
    heads=[
        L(SemSegHead)(
            input_shape={"p2": ShapeSpec(channels=WIDTH, stride=4)},
            num_classes=2,
            conv_dim=64,
        ),
        L(CenterHead)(grid=grid, num_classes=1, score_threshold=0.01, nms_threshold=0.9),
        L(BoxHead)(
            grid=grid,
            box_loss="giou",
            giou_weight=5.0,
            refinement=L(BoxRefinement)(in_channels=WIDTH, stride=4, stages=2),
        ),
        L(PoseHead)(grid=grid, num_keypoints=17, rescore_power=0.25),
    ],
    pixel_mean=[103.530, 116.280, 123.675],
    pixel_std=[57.375, 57.12, 58.395],
)

optimizer = L(AdamW)(
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0, base_lr="${..lr}"),
    lr=0.0005,
    weight_decay=0.0001,
)
