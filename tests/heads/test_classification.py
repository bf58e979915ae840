"""Image classification: means over the image, not over its padding; labels that are not known."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import ImageList

from d2_multitask.config import get_multitask_cfg
from d2_multitask.heads import BatchLabels, ClassificationHead, Decoded, build_heads
from d2_multitask.heads.classification import NO_CLASS, mean_logits
from support import TinyBackbone, labelled_image, without


def classification_head(**keys: object) -> ClassificationHead:
    torch.manual_seed(0)
    cfg = get_multitask_cfg()
    cfg.MODEL.TASKS = ["classification"]
    for key, value in keys.items():
        cfg.MODEL.CLASSIFICATION_HEAD[key] = value
    return build_heads(cfg, TinyBackbone().output_shape())["classification"]


@pytest.mark.parametrize("map_stride", [4, 16, 32])
def test_mean_over_the_image_by_hand(map_stride: int) -> None:
    """A cell counts as much as it covers of the image: here 40 x 24 pixels of 64 x 32."""
    head = classification_head(MAP_STRIDE=map_stride)
    images = ImageList.from_tensors([torch.zeros(3, 40, 24), torch.zeros(3, 64, 32)])
    share = head._cell_share(images)
    assert share.shape == (2, 1, 64 // map_stride, 32 // map_stride)
    rows = torch.tensor([min(40 - y, map_stride) for y in range(0, 64, map_stride)]).clamp(min=0)
    columns = torch.tensor([min(24 - x, map_stride) for x in range(0, 32, map_stride)]).clamp(min=0)
    torch.testing.assert_close(share[0, 0], rows[:, None] * columns[None] / (40.0 * 24.0))
    class_map = torch.rand((2, 59, *share.shape[2:]))
    torch.testing.assert_close(mean_logits(class_map, share)[1], class_map[1].mean((1, 2)))


def test_padding_changes_no_answer() -> None:
    """With a 1x1 convolution, nothing outside the image is looked at."""
    head = classification_head(CONV_DIM=0, MAP_STRIDE=4)
    backbone = TinyBackbone()
    small, large = labelled_image(40, 40, seed=1), labelled_image(96, 104, seed=2)

    def answers(batch: list) -> torch.Tensor:
        images = ImageList.from_tensors([x["image"].float() / 255 for x in batch], 8)
        decoded = Decoded()
        head.inference(head.layers(backbone(images.tensor)), images, decoded)
        return decoded.maps["image_labels"]

    torch.testing.assert_close(answers([small])[0], answers([large, small])[1])


def test_a_linear_layer_on_normalised_features() -> None:
    """Features of another scale and mean give the same answers, in training and after it."""
    head = classification_head(CONV_DIM=0, NORM="BN", MAP_STRIDE=4)
    features = {"p2": torch.randn(4, 8, 8, 8)}
    other = {"p2": 0.1 * features["p2"] + 7}
    torch.testing.assert_close(
        head.layers(other)["class_map"], head.layers(features)["class_map"], atol=1e-3, rtol=0.0
    )
    for _ in range(200):  # the running averages
        head.layers(features)
    expected = head.layers(features)["class_map"]
    head.eval()
    torch.testing.assert_close(head.layers(features)["class_map"], expected, atol=1e-2, rtol=0.0)


def test_unknown_labels_and_images_cost_nothing() -> None:
    head = classification_head()
    known = labelled_image(seed=1)
    half_known = {**labelled_image(seed=2), "image_labels": known["image_labels"].clone()}
    half_known["image_labels"][10:] = 255
    batch = [known, half_known, without(labelled_image(seed=3), "image_labels")]
    images = ImageList.from_tensors([x["image"].float() for x in batch], 8)
    targets = head.targets(BatchLabels(batch, images))
    class_map = torch.zeros((3, 59, 2, 2), requires_grad=True)
    loss = head.losses({"class_map": class_map}, targets)["loss_classification"]
    loss.backward()
    assert loss.item() == pytest.approx(torch.tensor(2.0).log().item())
    learned = class_map.grad.abs().sum((2, 3)) > 0
    assert learned.sum(1).tolist() == [59, 10, 0]


def test_wrong_number_of_labels() -> None:
    entry = {**labelled_image(), "image_labels": torch.zeros(20, dtype=torch.long)}
    images = ImageList.from_tensors([entry["image"].float()])
    with pytest.raises(ValueError, match=r"\(20,\).*\(59,\)"):
        classification_head().targets(BatchLabels([entry], images))


def test_map_stride_must_fit() -> None:
    with pytest.raises(ValueError, match="MAP_STRIDE: found 6, expected a multiple of 4"):
        classification_head(MAP_STRIDE=6)


def test_one_class_is_a_softmax() -> None:
    """Loss and probabilities against PyTorch's; an image without a class costs nothing."""
    head = classification_head(SINGLE_LABEL=True, CONV_DIM=0, MAP_STRIDE=4)
    batch = [labelled_image(40, 40, seed=seed) for seed in range(3)]
    for entry, present in zip(batch, ([7], [58], []), strict=True):
        entry["image_labels"] = torch.zeros(59, dtype=torch.long)
        entry["image_labels"][present] = 1
    images = ImageList.from_tensors([x["image"].float() / 255 for x in batch], 8)
    targets = head.targets(BatchLabels(batch, images))
    assert targets["image_labels"].tolist() == [7, 58, NO_CLASS]
    class_map = torch.rand(3, 59, *targets["share"].shape[2:])
    logits = class_map.mean((2, 3))
    loss = head.losses({"class_map": class_map}, targets)["loss_classification"]
    expected = torch.nn.functional.cross_entropy(logits[:2], torch.tensor([7, 58]))
    torch.testing.assert_close(loss, expected)
    decoded = Decoded()
    head.inference({"class_map": class_map}, images, decoded)
    torch.testing.assert_close(decoded.maps["image_labels"], logits.softmax(1))


def test_several_classes_where_one_is_expected() -> None:
    head = classification_head(SINGLE_LABEL=True)
    batch = [labelled_image(seed=1)]
    batch[0]["image_labels"][[3, 9]] = 1
    images = ImageList.from_tensors([x["image"].float() for x in batch], 8)
    with pytest.raises(ValueError, match=r"image 0.*found the classes.*SINGLE_LABEL"):
        head.targets(BatchLabels(batch, images))
