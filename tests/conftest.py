"""Fixtures of the whole suite; plain functions that tests call are in ``support.py``."""

from __future__ import annotations

import os

import pytest
import torch

from support import TinyBackbone

# The cores are shared with whatever else runs; small tensors gain nothing from threads.
torch.set_num_threads(int(os.environ.get("D2_MULTITASK_TEST_THREADS", "1")))


@pytest.fixture
def tiny_backbone() -> TinyBackbone:
    torch.manual_seed(0)
    return TinyBackbone()
