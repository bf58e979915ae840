"""A training that is stopped and resumed ends with the bits of the uninterrupted one, everywhere.

Not only the weights are compared: also their average, the optimizer's and the schedule's state. The
networks draw random numbers of their own: proposals, patches to mask, stochastic depth, dropout.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase
from detectron2.utils.env import seed_all_rng
from torch import nn

from d2_multitask.config import load_config
from d2_multitask.data.datasets.shards import register_shards
from d2_multitask.engine import step
from d2_multitask.engine.trainer import MultitaskTrainer
from engine_support import SIZE, assert_same, registered_people, tiny_cfg
from shard_support import write_shards

STEPS, STOP = 6, 3


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    with registered_people(tmp_path_factory.mktemp("resume"), num_images=5) as name:
        yield name


def mcn() -> CfgNode:
    balancing = {"SOLVER__LOSS_BALANCING": "gradient_norm", "SOLVER__LOSS_BALANCING_PERIOD": 2}
    return tiny_cfg("", Path(), **balancing)


def mask_rcnn() -> CfgNode:
    cfg = load_config("quick/mask_rcnn_in_detail_det.yaml")
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 17
    cfg.MODEL.ROI_KEYPOINT_HEAD.KEYPOINT_CLASSES = [0]
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    # Fewer than there are: which ones is drawn at random.
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 8
    cfg.INPUT.MIN_SIZE_TRAIN = (SIZE, SIZE + 16)
    return cfg


def mae() -> CfgNode:
    return _small(load_config("quick/mae_pretrain.yaml"))


def foreground() -> CfgNode:
    cfg = _small(load_config("quick/foreground_decoder_joint.yaml"))
    cfg.MODEL.MAE_BACKBONE.DROP_PATH = 0.5
    return cfg


def _small(cfg: CfgNode) -> CfgNode:
    cfg.MODEL.MAE.DEPTH, cfg.MODEL.MAE.DECODER_DEPTH = 2, 1
    cfg.MODEL.MAE.IMAGE_SIZE = cfg.INPUT.RANDOM_RESIZED_CROP.SIZE = [SIZE, SIZE]
    return cfg


def started(cfg: CfgNode, seed: int, dropout: bool) -> MultitaskTrainer:
    """A training as another process would start it: its random states are its own."""
    seed_all_rng(seed)
    trainer = MultitaskTrainer(cfg)
    if dropout:
        trainer.model.backbone.register_forward_hook(
            lambda _, __, maps: {k: nn.functional.dropout(v, 0.3) for k, v in maps.items()}
        )
    return trainer


class Stop(HookBase):
    def after_step(self) -> None:
        if self.trainer.iter == STOP - 1:
            raise InterruptedError


@pytest.mark.parametrize(
    ("first", "then"), [("ADAM", "ADAMW"), ("ADAMW", "ADAM"), ("ADAMW", "SGD")]
)
def test_another_optimizer_is_refused(first, then, people, tmp_path):
    cfg = tiny_cfg(people, tmp_path, DATASETS__TEST=(), SOLVER__OPTIMIZER=first)
    MultitaskTrainer(cfg).train()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True  # not another optimizer
    MultitaskTrainer(cfg).resume_or_load(True)
    cfg.SOLVER.OPTIMIZER = then
    expected = rf"model_final\.pth.*SOLVER\.OPTIMIZER: found '{then}', expected '{first}' as in"
    with pytest.raises(ValueError, match=expected):
        MultitaskTrainer(cfg).resume_or_load(True)


@pytest.mark.parametrize(
    "amp", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["float", "amp"]
)
@pytest.mark.parametrize("workers", [2, pytest.param(0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [mcn, mask_rcnn, mae, foreground])
def test_resumed_training_equals_the_uninterrupted_one(
    kind: Callable[[], CfgNode], workers, amp, people, tmp_path, monkeypatch
):
    monkeypatch.setattr(step, "has_native_bfloat16", lambda: True)  # emulated, it is only slow
    cfg = kind()
    cfg.MODEL.WEIGHTS = ""
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (people,), ()
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.IMS_PER_BATCH = "ADAMW", 2
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD = STEPS, 1
    cfg.SOLVER.WARMUP_ITERS, cfg.VIS_PERIOD, cfg.SEED = 2, 0, 1
    cfg.SOLVER.EMA.ENABLED, cfg.SOLVER.AMP.ENABLED = True, amp
    contents = []
    for folder in ("whole", "parts"):
        cfg.OUTPUT_DIR = str(tmp_path / folder)
        trainer = started(cfg, 1, dropout=kind is mcn)
        if folder == "parts":
            trainer.register_hooks([Stop()])
            with pytest.raises(InterruptedError):
                trainer.train()
            trainer = started(cfg, 2, dropout=kind is mcn)  # begins with other weights
            trainer.resume_or_load(True)
            assert 0 < trainer.start_iter < STEPS
        trainer.train()
        path = tmp_path / folder / "model_final.pth"
        contents.append(torch.load(path, weights_only=True))
    assert_same(contents[1], contents[0])


def test_resumed_training_on_shards_likewise(tmp_path, monkeypatch):
    write_shards(tmp_path / "store", (5, 3, 4, 2))
    name = "shards_of_this_test"
    register_shards(name, str(tmp_path / "store/images-{000..003}.tar"))
    test_resumed_training_equals_the_uninterrupted_one(mae, 2, False, name, tmp_path, monkeypatch)
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
