"""Several sizes of an image: objects are joined, maps averaged."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from d2_multitask.modeling.inference.scales import MultiScaleNetwork, has_stronger_twin

BOXES = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [30, 30, 40, 40]])


class Network(nn.Module):
    """One object per image: at the full size box 0, at half box 1, of class 0; at a quarter box 2.

    The map is the mean of the image.
    """

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, batched_inputs, tasks=None):
        self.seen.append([tuple(x["image"].shape[-2:]) for x in batched_inputs])
        return [self.one(x) for x in batched_inputs]

    @staticmethod
    def one(x):
        height, width = x["height"], x["width"]
        index = {80: 0, 40: 1, 20: 2}[x["image"].shape[-2]]
        found = Instances((height, width))
        found.pred_boxes = Boxes(BOXES[index : index + 1])
        found.scores = torch.tensor([0.5 + 0.1 * index])
        found.pred_classes = torch.zeros(1, dtype=torch.long)
        sem_seg = torch.full((2, height, width), float(index))
        return {"instances": found, "sem_seg": sem_seg}


def run(scales, **changes):
    network = Network()
    image = torch.rand(3, 80, 60)
    batch = [{"image": image, "height": 160, "width": 120, **changes}]
    return network, MultiScaleNetwork(network, scales, 0.6)(batch)[0]


def test_objects_of_all_scales_are_joined_and_the_stronger_of_two_stays():
    network, result = run([1.0, 0.5, 0.25])
    assert network.seen == [[(80, 60)], [(40, 30)], [(20, 15)]]
    found = result["instances"]
    assert found.image_size == (160, 120)
    torch.testing.assert_close(found.scores, torch.tensor([0.7, 0.6]))
    torch.testing.assert_close(found.pred_boxes.tensor, BOXES[[2, 1]])


def test_maps_are_averaged():
    _, result = run([1.0, 0.25])
    torch.testing.assert_close(result["sem_seg"], torch.ones(2, 160, 120))


def test_one_scale_is_the_network_itself():
    network, result = run([1.0])
    torch.testing.assert_close(result["sem_seg"], torch.zeros(2, 160, 120))
    assert network.seen == [[(80, 60)]]


@pytest.mark.parametrize(
    ("scales", "threshold", "message"),
    [([], 0.6, "SCALES"), ([0.0], 0.6, "SCALES"), ([5.0], 0.6, "SCALES"), ([1.0], 0.0, "NMS")],
)
def test_wrong_numbers(scales, threshold, message):
    with pytest.raises(ValueError, match=message):
        MultiScaleNetwork(Network(), scales, threshold)


def test_images_in_a_frame_are_refused():
    with pytest.raises(ValueError, match="frame"):
        run([1.0, 0.5], window=(0, 0, 60, 80))


def test_a_head_of_a_person_that_is_found_as_a_whole_goes():
    whole = torch.tensor([[50.0, 20, 0.9], [45, 15, 0.9], [55, 15, 0.9], [40, 60, 0.5]])
    head = whole + torch.tensor([[1.0, 1, 0], [1, -1, 0], [0, 1, 0], [30, 30, -0.5]])
    child = whole + torch.tensor([20.0, 0, 0])
    boxes = torch.tensor([[0.0, 0, 100, 100], [35, 0, 65, 30], [20, 0, 120, 100]])
    keypoints = torch.stack([whole, head, child])
    classes = torch.zeros(3, dtype=torch.long)
    assert has_stronger_twin(keypoints, boxes, classes).tolist() == [False, True, False]
    assert not has_stronger_twin(keypoints, boxes, torch.tensor([0, 1, 0])).any()
    unsure = keypoints * torch.tensor([1, 1, 0.1])  # nothing is known of keypoints that nobody sees
    assert not has_stronger_twin(unsure, boxes, classes).any()
    assert has_stronger_twin(keypoints[:0], boxes[:0], classes[:0]).shape == (0,)


def test_other_results_are_refused():
    class Panoptic(nn.Module):
        def forward(self, batched_inputs, tasks=None):
            return [{"panoptic_seg": (torch.zeros(2, 2), [])} for _ in batched_inputs]

    with pytest.raises(ValueError, match="found tuple as the result 'panoptic_seg'"):
        MultiScaleNetwork(Panoptic(), [1.0], 0.6)([{"image": torch.rand(3, 80, 60)}])
