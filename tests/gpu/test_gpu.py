"""Numbers, mixed precision, memory, compilation and NCCL on a GPU: `make test-gpu`."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.modeling import build_model
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from config_support import CONFIGS, batch_for, small_config
from d2_multitask.config import load_config
from d2_multitask.engine.processes import distributed
from d2_multitask.engine.solver import build_optimizer
from d2_multitask.engine.step import CudaAmpStep, build_step
from d2_multitask.engine.trainer import MultitaskTrainer
from d2_multitask.modeling.inference import compile_network, fuse_for_inference
from engine_support import registered_people, tiny_cfg
from support import labelled_image

NETWORKS = [
    "quick/mcn_in_detail",
    "quick/centernet_r18_deformable_seg_det_pose",
    "movenet/movenet_multipose",
    "quick/mcn_mobilenetv4_seg_det_pose",
    "quick/mcn_mae_seg_det_pose",
    "quick/foreground_decoder_joint",
]
# Peak of training configs/mcn_seg_det_pose.yaml as it is: ResNet-50, 32 images of 512x512, float16.
# Estimated without a GPU (docs/gpu.md): 3.6 GiB are tensors; workspaces and gaps come on top.
MOST_MEMORY = 8 * 2**30


def network(name: str, device: str, **keys: Any) -> nn.Module:
    cfg = small_config(CONFIGS / f"{name}.yaml")
    cfg.merge_from_list([x for key, value in keys.items() for x in (key.replace("__", "."), value)])
    cfg.MODEL.DEVICE = device
    torch.manual_seed(0)
    return build_model(cfg)


def batch_of(name: str) -> list[dict[str, Any]]:
    return batch_for(small_config(CONFIGS / f"{name}.yaml"))


def fixed_norms(model: nn.Module) -> nn.Module:
    """Batch statistics are of one process's images; of two images they magnify any difference."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    return model


def learned(model: nn.Module, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Losses and gradients, on the processor."""
    fixed_norms(model)
    torch.manual_seed(1)
    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {name: value.detach().cpu() for name, value in {**losses, **gradients}.items()}


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor], share: float) -> None:
    """Differences are a small share of each tensor's largest number."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        if value.numel() == 0:
            continue
        value = value.float()
        difference = float(
            (found[name].float() - value).abs().max() / value.abs().max().clamp(1e-3)
        )
        assert difference < share, f"{name}: {difference:.2g}"


def answers(model: nn.Module, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
    """The first image's maps and its objects' scores, on the processor."""
    result = model.eval()(batch[:1])[0]
    found = {}
    for name, value in result.items():
        if isinstance(value, Instances):
            name, value = "scores", value.scores
        found[name] = value.detach().cpu()
    return found


# The masks of MAE and the R-CNN's boxes are drawn on the device, whose random numbers are others.
@pytest.mark.parametrize("name", [x for x in NETWORKS if "joint" not in x])
def test_losses_and_gradients_are_those_of_the_processor(name: str, device: str) -> None:
    batch = batch_of(name)
    expected, found = (learned(network(name, x), batch) for x in ("cpu", device))
    assert_near(found, expected, 0.01)


@pytest.mark.parametrize("name", [*NETWORKS, "quick/mask_rcnn_in_detail"])
def test_answers_are_those_of_the_processor(name: str, device: str) -> None:
    batch = batch_of(name)
    expected, found = (answers(network(name, x), batch) for x in ("cpu", device))
    if "mask_rcnn" in name:  # fresh networks find boxes whose scores hardly differ
        expected.pop("scores"), found.pop("scores")
    assert_near(found, expected, 0.01)
    fused = answers(fuse_for_inference(network(name, device).eval()), batch)
    fused.pop("scores" if "mask_rcnn" in name else "", None)
    assert_near(fused, expected, 0.02)


@pytest.mark.parametrize("name", NETWORKS[:2])
def test_the_memory_order_changes_no_number(name: str, device: str) -> None:
    batch = batch_of(name)
    expected, found = (
        learned(network(name, device, MODEL__CHANNELS_LAST=order), batch) for order in (False, True)
    )
    assert_near(found, expected, 0.01)


def test_compiled_inference_gives_the_same(device: str) -> None:
    name = NETWORKS[0]
    model = network(name, device).eval()
    compiled = fuse_for_inference(model)
    options = {"backend": "eager"} if device == "cpu" else {}
    assert "backbone" in compile_network(compiled, **options)
    batch = batch_of(name)
    assert_near(answers(compiled, batch), answers(model, batch), 0.02)


def test_mixed_precision_learns_what_float32_learns(device: str, tmp_path: Path) -> None:
    losses = {}
    with registered_people(tmp_path / "people") as people:
        for amp in (False, True):
            folder = tmp_path / str(amp)
            cfg = tiny_cfg(people, folder, SOLVER__AMP__ENABLED=amp, SOLVER__MAX_ITER=20)
            cfg.MODEL.DEVICE = device
            torch.manual_seed(0)
            trainer = MultitaskTrainer(cfg)
            assert isinstance(trainer._trainer, CudaAmpStep) is (amp and device == "cuda")
            trainer.train()
            losses[amp] = trainer.storage.history("loss_seg").values()
    assert all(math.isfinite(x) for x, _ in losses[True])
    first, last = losses[False][0][0], losses[False][-1][0]
    assert losses[True][0][0] == pytest.approx(first, rel=0.02)
    # Skipped steps, with which float16 begins, cost a part of what is learned.
    assert last < first and losses[True][-1][0] < first


def test_the_same_seed_gives_the_same_training(device: str, tmp_path: Path) -> None:
    runs = []
    with registered_people(tmp_path / "people") as people:
        for number in range(2):
            cfg = tiny_cfg(people, tmp_path / str(number), DATASETS__TEST=(), SEED=5)
            cfg.MODEL.DEVICE = device
            torch.manual_seed(0)
            trainer = MultitaskTrainer(cfg)
            trainer.train()
            runs.append([x for x, _ in trainer.storage.history("total_loss").values()])
    assert runs[0][0] == pytest.approx(runs[1][0], rel=1e-6)
    # CUDA adds gradients up in no fixed order (docs/gpu.md).
    assert runs[0] == pytest.approx(runs[1], rel=1e-6 if device == "cpu" else 1e-3)


def test_r50_fits_into_the_stated_memory(device: str) -> None:
    cfg = load_config("mcn_seg_det_pose.yaml")
    cfg.MODEL.DEVICE = device
    num_images, side = (cfg.SOLVER.IMS_PER_BATCH, 512) if device == "cuda" else (1, 64)
    batch = [labelled_image(side, side, seed=seed) for seed in range(num_images)]
    model = build_model(cfg)
    step = build_step(cfg, model, [batch] * 2, build_optimizer(cfg, model))
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with EventStorage():
        for step.iter in range(2):
            step.run_step()
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
        print(f"{peak / 2**30:.2f} GiB")
        assert peak < MOST_MEMORY


def test_ddp_gives_the_gradients_of_one_process(device: str, tmp_path: Path) -> None:
    """With NCCL on two GPUs; with one of them in one process."""
    world = min(torch.cuda.device_count(), 2) if device == "cuda" else 2
    mp.spawn(_in_process, (world, device, str(tmp_path)), nprocs=world)
    found = torch.load(tmp_path / "gradients.pt")
    expected = learned(network(NETWORKS[0], device), _four_images())
    gradients = {name: value for name, value in expected.items() if name in found}
    assert gradients and not any(name.startswith("loss") for name in gradients)
    assert_near(found, gradients, 0.02 if device == "cuda" else 1e-4)


def _four_images() -> list[dict[str, Any]]:
    return [labelled_image(num_keypoints=14, seed=seed) for seed in range(4)]


def _in_process(rank: int, world: int, device: str, folder: str) -> None:
    backend = "nccl" if device == "cuda" else "gloo"
    place = f"cuda:{rank}" if device == "cuda" else "cpu"
    if device == "cuda":
        torch.cuda.set_device(rank)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    dist.init_process_group(backend, f"file://{folder}/meeting", rank=rank, world_size=world)
    try:
        model = fixed_norms(network(NETWORKS[0], place))
        parallel = distributed(model) if world > 1 else DistributedDataParallel(model, [rank])
        mine = copy.deepcopy(_four_images()[rank::world])
        with EventStorage():
            sum(parallel(mine).values()).backward()
        if rank == 0:
            gradients = {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}
            torch.save(gradients, f"{folder}/gradients.pt")
    finally:
        dist.destroy_process_group()


def test_a_batch_is_not_waited_for(device: str) -> None:
    """CUDA itself looks for what the simulated device counts: only the losses are waited for."""
    if device != "cuda":
        pytest.skip("only CUDA can tell")
    model = network("quick/mcn_seg_det_pose", device)
    batch = batch_of("quick/mcn_seg_det_pose")
    optimizer = torch.optim.AdamW(model.parameters())
    sum(model(batch).values()).backward()  # what is made once
    optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        sum(model(batch).values()).backward()
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
