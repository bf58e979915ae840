"""What lies in a frame comes back in pixels of the image."""

from __future__ import annotations

import torch
from detectron2.structures import Boxes, Instances

from d2_multitask.config import get_multitask_cfg
from d2_multitask.heads import build_heads
from d2_multitask.modeling import MultitaskCenterNet
from d2_multitask.modeling.inference.tiles import crop_result
from support import TinyBackbone


def test_boxes_joints_and_maps() -> None:
    """Image 20 x 40 (h x w) at (8, 4) of a frame of 32 x 64, asked for at twice its size."""
    instances = Instances((32, 64))
    instances.pred_boxes = Boxes(torch.tensor([[10.0, 6, 20, 16], [0, 0, 7, 3]]))
    instances.pred_keypoints = torch.tensor([[[12.0, 8, 0.5]], [[0.0, 0, 0.5]]])
    sem_seg = torch.zeros(2, 32, 64)
    sem_seg[1, 4:24, 8:48] = 1
    labels = torch.tensor([3.0])
    result = {"instances": instances, "sem_seg": sem_seg, "image_labels": labels}
    cropped = crop_result(result, (8, 4, 48, 24), (32, 64), (40, 80))
    found = cropped["instances"]
    assert found.image_size == (40, 80) and len(found) == 1  # the second box is in the frame
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor([[4.0, 4, 24, 24]]))
    torch.testing.assert_close(found.pred_keypoints, torch.tensor([[[8.0, 8, 0.5]]]))
    assert cropped["sem_seg"].shape == (2, 40, 80)
    assert (cropped["sem_seg"][1] == 1).all() and not cropped["sem_seg"][0].any()
    assert cropped["image_labels"] is labels
    assert instances.pred_boxes.tensor[0].tolist() == [10, 6, 20, 16]  # arguments are not changed


def test_a_framed_image_gives_the_same_results() -> None:
    """The same pixels, handed over in a frame of whole cells, are found at the same places."""
    torch.manual_seed(0)
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS = ["seg", "det"]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.NORM = 2, ""
    cfg.MODEL.CENTER_HEAD.SCORE_THRESH_TEST = 0.0
    backbone = TinyBackbone()
    model = MultitaskCenterNet(
        backbone=backbone,
        heads=build_heads(cfg, backbone.output_shape()),
        pixel_mean=[0.0, 0.0, 0.0],
        pixel_std=[1.0, 1.0, 1.0],
    ).eval()
    # The heads look at one cell only, so that the frame has no influence on the image's cells.
    for name, parameter in model.heads.named_parameters():
        if parameter.dim() == 4 and parameter.shape[2] == 3:
            parameter.data[:, :, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
        if "wh" in name and parameter.dim() == 1 and len(parameter) == 2:
            parameter.data.fill_(3.0)
    image = torch.rand(3, 24, 40)
    framed = torch.zeros(3, 48, 64)
    framed[:, 8:32, 12:52] = image
    (alone,) = model([{"image": image}])
    window = {"image": framed, "window": (12, 8, 52, 32), "height": 24, "width": 40}
    (inside,) = model([window])
    assert inside["sem_seg"].shape == alone["sem_seg"].shape == (2, 24, 40)
    torch.testing.assert_close(
        inside["sem_seg"][:, 4:-4, 4:-4], alone["sem_seg"][:, 4:-4, 4:-4], rtol=1e-4, atol=1e-5
    )
    best = alone["instances"].pred_boxes.tensor[0]
    distance = (inside["instances"].pred_boxes.tensor - best).abs().amax(1)
    assert distance.min() < 1e-4
