"""The network as a function of tensors; what cannot be exported."""

from __future__ import annotations

import pytest
import torch

from d2_multitask.export.network import ExportedNetwork, check_config, inside
from d2_multitask.modeling import MultitaskRCNN
from export_support import THRESHOLD, blobs, small_config, small_network


def test_a_padded_batch_gives_each_image_what_the_network_gives() -> None:
    model = small_network()
    images = [blobs(48, 64), blobs(40, 60, seed=1)]
    sizes = [(48, 64), (37, 58)]
    batch = torch.full((2, 48, 64, 3), 77, dtype=torch.uint8)
    inputs = []
    for index, (image, (height, width)) in enumerate(zip(images, sizes, strict=True)):
        pixels = torch.from_numpy(image[:height, :width])
        batch[index, :height, :width] = pixels
        inputs.append({"image": pixels.permute(2, 0, 1)})
    with torch.no_grad():
        answers = ExportedNetwork(model)(batch, torch.tensor(sizes, dtype=torch.int32))
        expected = model(inputs)
    for index, result in enumerate(expected):
        kept = answers["scores"][index] > THRESHOLD
        assert kept.sum() == len(result["instances"]) > 1
        assert torch.allclose(answers["scores"][index][kept], result["instances"].scores, atol=1e-5)
        keypoints = answers["keypoints"][index][kept]
        assert torch.allclose(keypoints, result["instances"].pred_keypoints, atol=1e-3)
        assert answers["classes"].dtype == torch.int32
    assert answers["sem_seg"].shape == (2, 2, 12, 16)


def test_the_flip_test_is_in_the_graph() -> None:
    batch = torch.from_numpy(blobs(48, 64))[None], torch.tensor([[48, 64]], dtype=torch.int32)
    with torch.no_grad():
        plain = ExportedNetwork(small_network(["seg"]))(*batch)["sem_seg"]
        flipping = ExportedNetwork(small_network(["seg"], flip_test=True))(*batch)["sem_seg"]
        mirrored = ExportedNetwork(small_network(["seg"]))(batch[0].flip(2), batch[1])["sem_seg"]
    assert torch.allclose(flipping, (plain + mirrored.flip(-1)) / 2, atol=1e-5)


def test_inside_is_false_in_the_padding_only() -> None:
    rows, columns = inside(torch.tensor([[2, 3], [4, 1]]), torch.zeros(2, 5, 4, 4))
    mask = rows * columns
    assert mask.shape == (2, 1, 4, 4)
    assert mask.sum((1, 2, 3)).tolist() == [6, 4]
    assert mask[0, 0, 1, 2] == 1 and mask[0, 0, 2, 2] == 0


def test_the_box_branch_of_an_rcnn_says_why_and_what_can_be_exported() -> None:
    model = MultitaskRCNN.__new__(MultitaskRCNN)
    torch.nn.Module.__init__(model)
    model.heads, model.other_tasks = small_network(["seg"]).heads, ("det",)
    model.test_tasks = ["det", "seg"]
    with pytest.raises(ValueError, match=r"'det'.*the R-CNN's box branch.*add --tasks seg"):
        ExportedNetwork(model)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("TEST.TILES.ENABLED", True, "add TEST.TILES.ENABLED False"),
        ("TEST.SCALES", [0.5, 1.0], "found .0.5, 1.0., expected .*add TEST.SCALES"),
        ("INPUT.RESIZE_TEST", "centernet_fixed", "interpolation is OpenCV's"),
    ],
)
def test_what_the_file_would_leave_out_is_refused(key: str, value: object, words: str) -> None:
    cfg = small_config()
    check_config(cfg)
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=words):
        check_config(cfg)
