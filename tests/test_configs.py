"""Every YAML file builds on the CPU without weights, learns one step and answers once."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from config_support import CONFIGS, FILES, batch_for, small_config
from d2_multitask.checkpoint import load_weights
from d2_multitask.config import FIXED_KEYS, get_multitask_cfg, load_config
from d2_multitask.modeling.mae.config import encoder_arguments
from support import REPOSITORY

SUBSETS = [
    subset for size in (1, 2, 3) for subset in itertools.combinations(("seg", "det", "pose"), size)
]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_trains_and_answers(path: Path) -> None:
    cfg = small_config(path)
    torch.manual_seed(0)
    model = build_model(cfg)
    batch = batch_for(cfg)
    with EventStorage():  # Detectron2's R-CNN logs into it
        loss = sum(model(batch).values())
    loss.backward()
    assert torch.isfinite(loss)
    results = model.eval()(batch[:1])
    assert len(results) == 1
    if "sem_seg" in results[0]:
        assert results[0]["sem_seg"].shape == (cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, 64, 96)
    if "foreground" in cfg.MODEL.TASKS:
        assert results[0]["foreground"].shape == (64, 96)


SINGLE_TASKS = {
    "det": (["det"], False, False),
    "mask": (["det"], True, False),
    "pose": (["det"], False, True),
    **{
        name: ([name], False, False)
        for name in ("seg", "parts", "boundary", "occlusion", "classification")
    },
}
# What the joint network changes beside its tasks: see its file.
BALANCED = {
    "quick/mask_rcnn_in_detail": [
        *("MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", 3.0, "MODEL.BOUNDARY_HEAD.LOSS_WEIGHT", 60.0),
        *("MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT", 3.5),
    ]
}


@pytest.mark.parametrize("name", ["mask_rcnn_pascal_in_detail", "quick/mask_rcnn_in_detail"])
def test_single_tasks_differ_from_all_eight_in_their_tasks_only(name: str) -> None:
    everything = load_config(CONFIGS / f"{name}.yaml")
    assert everything.MODEL.MASK_ON and everything.MODEL.KEYPOINT_ON
    for task, (tasks, masks, joints) in SINGLE_TASKS.items():
        cfg = load_config(CONFIGS / f"{name}_{task}.yaml")
        assert cfg.OUTPUT_DIR.endswith(f"{Path(name).name}_{task}")
        assert (cfg.MODEL.TASKS, cfg.MODEL.MASK_ON, cfg.MODEL.KEYPOINT_ON) == (tasks, masks, joints)
        assert set(tasks) <= set(everything.MODEL.TASKS)
        cfg.MODEL.TASKS, cfg.OUTPUT_DIR = everything.MODEL.TASKS, everything.OUTPUT_DIR
        cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = True
        cfg.merge_from_list(BALANCED.get(name, []))
        assert cfg.dump() == everything.dump()


@pytest.mark.parametrize("folder", ["", "quick"])
@pytest.mark.parametrize("subset", SUBSETS, ids="_".join)
def test_the_seven_subsets_are_there(subset: tuple[str, ...], folder: str) -> None:
    cfg = load_config(CONFIGS / folder / f"mcn_{'_'.join(subset)}.yaml")
    assert tuple(cfg.MODEL.TASKS) == subset
    assert cfg.OUTPUT_DIR.endswith("mcn_" + "_".join(subset))


def test_subsets_differ_in_their_tasks_only() -> None:
    for folder in ("", "quick"):
        texts = set()
        for subset in SUBSETS:
            cfg = load_config(CONFIGS / folder / f"mcn_{'_'.join(subset)}.yaml")
            cfg.MODEL.TASKS, cfg.OUTPUT_DIR = [], ""
            texts.add(cfg.dump())
        assert len(texts) == 1


# The network that the weights are for, and what its images are like; a backbone's config repeats
# them, because it has a base of its own.
PRETRAINED = ["quick/mcn_mae_seg_det_pose", "quick/mask_rcnn_mae_in_detail"]


@pytest.mark.parametrize("name", PRETRAINED)
def test_networks_on_the_tiny_mae_take_all_of_its_encoder(name: str, tmp_path: Path) -> None:
    source = load_config(CONFIGS / "quick" / "mae_pretrain.yaml")
    cfg = load_config(CONFIGS / f"{name}.yaml")
    assert encoder_arguments(cfg.MODEL.MAE) == encoder_arguments(source.MODEL.MAE)
    assert cfg.MODEL.PIXEL_MEAN == source.MODEL.PIXEL_MEAN
    assert cfg.MODEL.PIXEL_STD == source.MODEL.PIXEL_STD
    assert cfg.INPUT.FORMAT == source.INPUT.FORMAT
    mae, model = build_model(source), build_model(cfg)
    path = str(tmp_path / "model_final.pth")
    torch.save({"model": mae.state_dict()}, path)
    report = load_weights(model, path)
    assert not report.resized and not report.mismatched
    learned = {n for n, _ in model.named_parameters() if n.startswith("backbone.net.")}
    assert learned == {n for n in report.matched if n.startswith("backbone.net.")}


def test_every_key_is_set_by_a_config_or_documented() -> None:
    ours = set(flat_keys(get_multitask_cfg())) - set(flat_keys(get_cfg()))
    used = {key for path in FILES for key in flat_keys(yaml.safe_load(path.read_text()))}
    pages = [REPOSITORY / "README.md", *REPOSITORY.glob("docs/*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    assert not {key for key in ours - used if key not in text}


def flat_keys(node: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in node.items():
        keys.append(prefix + key)
        if isinstance(value, Mapping):
            keys += flat_keys(value, f"{prefix}{key}.")
    return keys


def test_fixed_keys_of_old_files(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    nested: dict[str, Any] = {}
    for key, value in FIXED_KEYS.items():
        *names, last = key.split(".")
        node = nested
        for name in names:
            node = node.setdefault(name, {})
        node[last] = value
    file.write_text(yaml.safe_dump(nested))
    load_config(file)
    nested["MODEL"]["PARTS_HEAD"]["IGNORE_VALUE"] = 0
    file.write_text(yaml.safe_dump(nested))
    with pytest.raises(ValueError, match="PARTS_HEAD.IGNORE_VALUE: found 0, expected 255"):
        load_config(file)


def test_fixed_keys_of_old_commands() -> None:
    load_config(opts=[str(x) for pair in FIXED_KEYS.items() for x in pair])
    with pytest.raises(ValueError, match="PARTS_HEAD.IGNORE_VALUE: found 0, expected 255"):
        load_config(opts=["MODEL.PARTS_HEAD.IGNORE_VALUE", "0"])
