"""What is added to Detectron2's boxes, masks and joints."""

from __future__ import annotations

import torch
from detectron2.structures import Boxes, Instances

from d2_multitask.modeling.roi_heads import ImageLabels
from modeling.rcnn_support import losses_of, rcnn, rcnn_image


def test_boxes_keep_their_coordinates_in_mixed_precision() -> None:
    """bfloat16 has 8 bits: a box at 201.3 would be pooled at 201 or 202."""
    heads = rcnn(["det"], masks=False, joints=False).roi_heads
    generator = torch.Generator().manual_seed(0)
    features = {
        f"p{i}": torch.rand((1, 16, 256 >> i, 256 >> i), generator=generator) for i in (2, 3, 4, 5)
    }
    boxes = [Boxes(torch.tensor([[201.3, 33.3, 251.7, 91.6]]))]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = {name: value.bfloat16() for name, value in features.items()}
        pooled = heads.box_pooler([heads._poolable(rounded)[f"p{i}"] for i in (2, 3, 4, 5)], boxes)
    exact = heads.box_pooler([features[f"p{i}"] for i in (2, 3, 4, 5)], boxes)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, exact, atol=5e-3, rtol=0)


def test_background_on_ignored_pixels_is_not_sampled() -> None:
    heads = rcnn(["det"], masks=False, joints=False).roi_heads
    mask = torch.zeros((96, 80), dtype=torch.bool)
    mask[:, 40:] = True
    target = ImageLabels.of({**rcnn_image(), "ignore_mask": mask}, torch.device("cpu"))
    target = ImageLabels((96, 80), mask, **target[:1].get_fields())  # the person at the left
    proposals = Instances((96, 80))
    proposals.proposal_boxes = Boxes(torch.tensor([[2.0, 80, 20, 95], [45, 20, 75, 80]]))
    proposals.objectness_logits = torch.zeros(2)
    from detectron2.utils.events import EventStorage

    with EventStorage():
        (sampled,) = heads.label_and_sample_proposals([proposals], [target])
    assert sorted(sampled.gt_classes.tolist()) == [0, 20]  # the person, and the box at the left
    background = sampled[sampled.gt_classes == 20]
    assert background.proposal_boxes.tensor.tolist() == [[2.0, 80, 20, 95]]


def test_joints_of_chosen_classes_only() -> None:
    """A person's joints are the same whether boats are looked at or not; boats get zeros."""
    model = rcnn(["det"], masks=False).eval()
    image = Instances((96, 80))
    image.pred_boxes = Boxes(torch.tensor([[8.0, 6, 50, 90], [40, 10, 78, 70], [5, 5, 30, 40]]))
    image.pred_classes = torch.tensor([3, 14, 14])
    features = model.backbone(model.preprocess_image([rcnn_image()]).tensor)
    joints = []
    for classes in ([], [14]):
        model.roi_heads.keypoint_classes = classes
        copy = Instances((96, 80), **image.get_fields())
        (found,) = model.roi_heads.forward_with_given_boxes(features, [copy])
        assert not found.has("pred_keypoint_heatmaps")
        joints.append(found.pred_keypoints.detach())
    torch.testing.assert_close(joints[0][1:], joints[1][1:])
    assert (joints[1][0] == 0).all() and (joints[0][0] != 0).any()


def test_no_detection_at_all() -> None:
    model = rcnn(["det"]).eval()
    model.roi_heads.box_predictor.test_score_thresh = 1.1
    (result,) = model([rcnn_image()])
    found = result["instances"]
    assert len(found) == 0
    assert found.pred_keypoints.shape == (0, 14, 3) and found.pred_masks.shape == (0, 96, 80)


def test_scores_of_a_class_that_a_dataset_does_not_label() -> None:
    """No gradient in its images; in other images of the batch, and for other classes, there is."""
    model = rcnn(["det"], masks=False, joints=False)
    labelled = torch.ones(20, dtype=torch.bool)
    labelled[7] = False
    gradients = []
    for batch in (
        [{**rcnn_image(), "labelled_classes": labelled}],
        [{**rcnn_image(), "labelled_classes": labelled}, rcnn_image(1)],
    ):
        model.zero_grad()
        losses_of(model, batch)["loss_det_cls"].backward()
        gradients.append(model.roi_heads.box_predictor.cls_score.bias.grad.clone())
    assert gradients[0][7] == 0
    assert (gradients[0][[0, 6, 8, 20]] != 0).all()
    assert gradients[1][7] != 0
    assert not model.roi_heads.box_predictor._forward_hooks
