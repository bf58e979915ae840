from __future__ import annotations

import numpy as np
import torch

from d2_multitask.visualization.training import CAPTIONS, reconstruction_pictures, training_pictures
from mae_support import small_mae


def test_columns():
    image = torch.full((3, 4, 8), 200, dtype=torch.uint8)
    image[0] = 10  # blue in BGR
    result = {
        "reconstruction": torch.full((3, 4, 8), 50.4),
        "patch_mask": torch.tensor([[True, False]]),
        "patch_error": torch.tensor([[4.0, 0.0]]),
    }
    pictures = reconstruction_pictures({"image": image}, result, "BGR")
    assert len(pictures) == len(CAPTIONS)
    assert all(p.shape == (4, 8, 3) and p.dtype == np.uint8 for p in pictures)
    original, seen, completed, predicted, error = (p[0, [0, 7]].tolist() for p in pictures)
    assert original == [[200, 200, 10]] * 2
    assert seen == [[128] * 3, [200, 200, 10]]
    assert completed == [[50] * 3, [200, 200, 10]]
    assert predicted == [[50] * 3] * 2
    assert sum(error[0]) > sum(error[1])


def test_pictures_of_a_training_batch():
    model = small_mae()
    batch = [
        {"image": torch.randint(0, 256, (3, 32, 48), dtype=torch.uint8), "file_name": f"{i}.png"}
        for i in range(3)
    ]
    pictures = training_pictures(model, batch, 2, input_format="RGB")
    assert set(pictures) == {"pictures/reconstruction"}
    assert pictures["pictures/reconstruction"].dtype == np.uint8
    assert model.training
