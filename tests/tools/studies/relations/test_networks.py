"""The same network with less training, and what the table says about its difference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from d2_multitask.config import load_config
from studies.relations.differences import NOT_DISTINGUISHABLE, difference_table, undistinguished
from studies.relations.divisions import controls, mean_mask
from studies.relations.networks import early_checkpoint, untrained
from studies.relations.relations import of_network, split_network, with_controls
from tool_support import SMALL_MAE


def test_random_weights_of_the_seed():
    cfg = load_config("configs/quick/mae_textures.yaml", list(SMALL_MAE))
    first = untrained(cfg).state_dict()
    torch.rand(1)  # what was drawn before does not matter
    second = untrained(cfg).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = untrained(load_config("configs/quick/mae_textures.yaml", [*SMALL_MAE, "SEED", "2"]))
    assert any(not torch.equal(first[k], v) for k, v in other.state_dict().items())


def test_the_checkpoint_nearest_to_five_percent(tmp_path):
    opts = ["MODEL.WEIGHTS", str(tmp_path / "model_final.pth"), "SOLVER.MAX_ITER", "8000"]
    cfg = load_config("configs/quick/mae_textures.yaml", opts)
    for iteration in (99, 249, 499, 1999):
        (tmp_path / f"model_{iteration:07}.pth").touch()
    (tmp_path / "model_final.pth").touch()
    assert early_checkpoint(cfg) == tmp_path / "model_0000499.pth"
    (tmp_path / "model_0000499.pth").unlink()
    assert early_checkpoint(cfg) == tmp_path / "model_0000249.pth"
    (tmp_path / "model_0000249.pth").unlink()
    assert early_checkpoint(cfg) is None


def test_names():
    assert of_network("ridge / louvain", "early") == "ridge (early) / louvain"
    assert split_network("color+ridge (untrained)") == ("color+ridge", "untrained")
    assert split_network("ridge") == ("ridge", "")
    assert with_controls(["color", "ridge"], ["untrained"]) == [
        *("color", "ridge", "ridge (untrained)"),
    ]


@pytest.mark.parametrize(
    ("gain", "said"),
    [((1, 1, 1, -1), True), ((1, 1, 1, 0), False), ((-1, -1, -1, 0), False), ((1,), True)],
)
def test_two_standard_errors(gain, said):
    # mean .5, standard error .5: within two; mean .75, standard error .25: beyond
    base = np.arange(float(len(gain)))
    values = {"ridge / louvain": base + gain, "ridge (untrained) / louvain": base}
    assert NOT_DISTINGUISHABLE == "not distinguishable from an untrained autoencoder"
    assert list(undistinguished(values)) == (["ridge / louvain"] if said else [])
    assert (f"- ridge / louvain: {NOT_DISTINGUISHABLE} (" in difference_table(values, [])) == said


def test_mean_mask():
    left, all_of_it = np.zeros((8, 8), bool), np.ones((4, 6), bool)
    left[:, :4] = True
    mean = mean_mask([left, left, all_of_it, all_of_it])
    found = {s: a.foreground for name, s, a in controls((2, 2), mean) if name == "mean mask"}
    np.testing.assert_array_equal(found["0.5"], [[True, True], [True, True]])
    np.testing.assert_array_equal(found["0.6"], [[True, False], [True, False]])
