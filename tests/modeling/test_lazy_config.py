"""A LazyConfig builds the network of its YAML config, which then trains."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling import build_model

from d2_multitask.config import load_config
from d2_multitask.heads import TaskHeads
from d2_multitask.model_configs import get_config_file
from support import labelled_image

NAME = "mcn_r18_seg_det_pose"


@pytest.fixture(scope="module")
def config():
    return LazyConfig.load(get_config_file(f"lazy/{NAME}.py"))


def test_it_is_the_network_of_the_yaml_config(config) -> None:
    torch.manual_seed(0)
    lazy = instantiate(config.model)
    torch.manual_seed(0)
    ours = build_model(load_config(f"{NAME}.yaml", ["MODEL.DEVICE", "cpu"]))
    assert isinstance(lazy.heads, TaskHeads)
    assert list(lazy.state_dict()) == list(ours.state_dict())
    batch = [labelled_image(seed=1), labelled_image(40, 60, ((2, 2, 30, 38),), seed=2)]
    losses, expected = lazy(batch), ours(batch)
    assert list(losses) == list(expected)
    for name, value in expected.items():
        assert torch.equal(losses[name], value), name
    found, wanted = lazy.eval()(batch)[0], ours.eval()(batch)[0]
    assert torch.equal(found["sem_seg"], wanted["sem_seg"])
    for name, value in wanted["instances"].get_fields().items():
        own = found["instances"].get(name)
        assert torch.equal(*(getattr(x, "tensor", x) for x in (own, value))), name


def test_it_trains(config) -> None:
    config = copy.deepcopy(config)
    model = instantiate(config.model)
    config.optimizer.params.model = model
    optimizer = instantiate(config.optimizer)
    before = {name: value.clone() for name, value in model.named_parameters()}
    sum(model([labelled_image()]).values()).backward()
    optimizer.step()
    for name, value in model.named_parameters():
        assert not torch.equal(value, before[name]), name


def test_a_list_without_a_required_head_is_refused(config) -> None:
    heads = [instantiate(head) for head in config.model.heads]
    assert list(TaskHeads(heads[::-1])) == ["center", "det", "pose", "seg"]
    with pytest.raises(ValueError, match=r"heads: found \['det', 'seg'\], expected \['center'\]"):
        TaskHeads([heads[2], heads[0]])
