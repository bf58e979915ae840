from __future__ import annotations

import math

import pytest
import torch

from d2_multitask.evaluation.dense.reconstruction import ReconstructionEvaluator
from mae_support import small_mae


def output(errors, mask, off_by):
    """A 2x2 grid of patches of 2x2 pixels, every predicted pixel off by the same amount."""
    return {
        "reconstruction": torch.full((3, 4, 4), 100.0 + off_by),
        "patch_mask": torch.tensor(mask, dtype=torch.bool),
        "patch_error": torch.tensor(errors),
        "patch_variance": torch.full((2, 2), 4.0),
        "patch_smooth_error": 2 * torch.tensor(errors),
    }


def test_numbers_by_hand():
    evaluator = ReconstructionEvaluator("x", distributed=False)
    inputs = [{"image": torch.full((3, 4, 4), 100, dtype=torch.uint8)}] * 2
    first = output([[1.0, 9.0], [2.0, 3.0]], [[1, 0], [1, 1]], 10)
    first["reconstruction"][:, :2, 2:] = 0  # visible: does not count
    second = output([[4.0, 0.0], [0.0, 0.0]], [[1, 0], [0, 0]], 20)
    evaluator.process(inputs, [first, second])
    scores = evaluator.evaluate()["reconstruction"]
    assert scores["error"] == pytest.approx((1 + 2 + 3 + 4) / 4)
    assert scores["error_of_mean_color"] == 4
    assert scores["error_of_smooth_surface"] == pytest.approx(5)
    assert scores["relative_error"] == pytest.approx(2.5 / 4)
    squared = (3 * 100 + 400) / 4
    assert scores["PSNR"] == pytest.approx(10 * math.log10(255**2 / squared))
    assert scores["num_images"] == 2
    assert evaluator.metric_names() == [f"reconstruction/{name}" for name in scores]


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_baseline_is_the_error_of_the_mean_colour(norm_pix_loss):
    """The network's own loss, asked about patches that are painted in their mean colours."""
    model = small_mae(norm_pix_loss=norm_pix_loss).eval()
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    result = model.inference({"image": image})
    images = model.preprocess_image([{"image": image}])
    target = model.patchify(images)
    if norm_pix_loss:
        target = (target - target.mean(-1, keepdim=True)) / (
            target.var(-1, keepdim=True) + 1e-6
        ).sqrt()
    colors = target.view(1, 16, 64, 3).mean(2, keepdim=True).expand(-1, -1, 64, -1)
    _, error = model.forward_loss(images, colors.flatten(2), torch.ones(1, 16))
    assert torch.allclose(result["patch_variance"].flatten(), error[0], rtol=1e-4)


def test_nothing_removed_and_no_reconstruction():
    evaluator = ReconstructionEvaluator("x", distributed=False)
    assert evaluator.evaluate() == {"reconstruction": {"num_images": 0}}
    with pytest.raises(ValueError, match="expected 'reconstruction'"):
        evaluator.process([{"file_name": "a.png"}], [{"instances": 0}])
