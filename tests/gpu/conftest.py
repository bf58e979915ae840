"""These tests are skipped without a GPU; see docs/gpu.md."""

from __future__ import annotations

import os

import pytest
import torch

# "cpu": a dry run of the tests themselves.
DEVICE = os.environ.get("D2_MULTITASK_TEST_DEVICE", "cuda")


@pytest.fixture
def device() -> str:
    """Where networks run; without TF32, so that numbers can be compared with the processor's."""
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA GPU; D2_MULTITASK_TEST_DEVICE=cpu runs the test on the processor")
    matmul, convolution = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield DEVICE
    torch.backends.cuda.matmul.allow_tf32 = matmul
    torch.backends.cudnn.allow_tf32 = convolution
