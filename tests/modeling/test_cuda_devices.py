"""Every network on a simulated GPU: nothing on the wrong device, no kernel missing, few waits.

docs/gpu.md has the numbers and says what each wait is for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode, LazyConfig, instantiate
from detectron2.modeling import build_model
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from config_support import CONFIGS, FILES, batch_for, small_config
from d2_multitask.engine.hooks import WeightAverage
from d2_multitask.engine.solver import build_optimizer
from d2_multitask.engine.step import BatchMemory, FloatStep
from d2_multitask.modeling.inference import fuse_for_inference
from detail_support import MAIN
from device_support import SimulatedDevice, SimulatedTensor, without_kernel
from support import REPOSITORY, labelled_image
from synthetic.in_detail import write_synthetic_in_detail

NARROW = (
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.RESNETS.RES2_OUT_CHANNELS", "8"),
    *("MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "16"),
)
LOSSES = "to the processor in engine/step.py:_write_metrics"
ROWS = "nonzero in heads/center.py:postprocess"
# Where a network waits for the GPU in this package's code: in a training step with two images, and
# for the results of one image. What Detectron2 waits for is its own affair and differs by version.
WAITS: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "quick/mcn_seg_det_pose": ({LOSSES: 1}, {ROWS: 1}),
    "quick/mcn_in_detail": (
        {LOSSES: 1, "nonzero in losses.py:direction_loss": 1},
        {ROWS: 1},
    ),
    "quick/centernet_r18_deformable_seg_det_pose": ({LOSSES: 1}, {ROWS: 1}),
    "movenet/movenet_multipose": ({LOSSES: 1}, {ROWS: 1}),
    "quick/mcn_mae_seg_det_pose": ({LOSSES: 1}, {ROWS: 1}),
    "quick/mcn_mobilenetv4_seg_det_pose": ({LOSSES: 1}, {ROWS: 1}),
    "quick/mask_rcnn_in_detail": (
        {
            LOSSES: 1,
            "nonzero in modeling/roi_heads.py:_rows": 2,
            "nonzero in losses.py:direction_loss": 1,
        },
        {"nonzero in modeling/roi_heads.py:_rows": 1},
    ),
    "quick/mae_pretrain": ({LOSSES: 1}, {}),
    "quick/foreground_decoder_joint": ({LOSSES: 1}, {}),
}
# Without a kernel for MPS (PYTORCH_ENABLE_MPS_FALLBACK=1 computes them on the processor).
NOT_ON_MPS = {"torchvision.deform_conv2d.default", "torchvision._deform_conv2d_backward.default"}


def own(waits: Counter[str]) -> dict[str, int]:
    """Those in this package's code; backward passes belong to whom the forward passes do."""
    others = [place for place in waits if " in detectron2/" in place]
    if others:
        others += [place for place in waits if place.endswith(" in backward")]
    return {place: n for place, n in waits.items() if place not in others}


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> dict[str, float]:
    """Forward, losses, backward, optimizer and averaged weights; the losses."""
    average = WeightAverage(model, 0.9)
    step = FloatStep(model, BatchMemory([batch]), optimizer)
    torch.manual_seed(1)
    with EventStorage() as storage:
        step.iter = 0
        step.run_step()
        average.update(model)
        return {name: value for name, (value, _) in storage.latest().items() if "loss" in name}


def flat(result: Any) -> list[Tensor]:
    """All tensors of one image's results."""
    if isinstance(result, Instances):
        result = result.get_fields()
    if isinstance(result, dict):
        return [x for value in result.values() for x in flat(value)]
    result = getattr(result, "tensor", result)
    return [result] if isinstance(result, Tensor) else []


def run_on(
    device: SimulatedDevice,
    build: Callable[[str], nn.Module],
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    batch: list[dict[str, Any]],
) -> tuple[Counter[str], Counter[str]]:
    """Train and answer on the processor and on the simulated device; the waits of both there."""
    cpu = build("cpu")
    with sdpa_kernel(SDPBackend.MATH):  # that of the simulated device; boxes depend on rounding
        expected = one_step(cpu, make_optimizer(cpu), batch)
    with device.active():
        model = build(device.device.type)
        assert all(isinstance(x, SimulatedTensor) for x in model.state_dict().values())
        optimizer = make_optimizer(model)
        device.waits.clear()
        losses = one_step(model, optimizer, batch)
        training = Counter(device.waits)
        assert losses == pytest.approx(expected, rel=1e-3, abs=1e-4)
        waits = []
        for network in (model.eval(), fuse_for_inference(model)):
            device.waits.clear()
            results = network(batch[:1])
            waits.append(Counter(device.waits))
            assert all(isinstance(x, SimulatedTensor) for x in flat(results[0]))
        assert waits[0] == waits[1]
        assert not without_kernel(device.operations, "CUDA")
        assert without_kernel(device.operations, "MPS") <= NOT_ON_MPS
    return training, waits[0]


def run_config(path: Path, device: SimulatedDevice) -> tuple[Counter[str], Counter[str]]:
    cfg = small_config(path)

    def build(name: str) -> nn.Module:
        cfg.MODEL.DEVICE = name
        torch.manual_seed(0)
        model = build_model(cfg)
        if cfg.MODEL.KEYPOINT_ON:  # Detectron2 cannot decode the large logits of a fresh network
            with torch.no_grad():
                model.roi_heads.keypoint_head.score_lowres.weight.mul_(0.01)
        return model

    def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    return run_on(device, build, make_optimizer, batch_for(cfg))


@pytest.mark.parametrize("name", list(WAITS))
def test_a_step_and_answers_on_cuda(name: str) -> None:
    training, inference = run_config(CONFIGS / f"{name}.yaml", SimulatedDevice())
    print(f"{name}: {sum(training.values())} and {sum(inference.values())} waits in all")
    assert own(training) == WAITS[name][0]
    assert own(inference) == WAITS[name][1]


@pytest.mark.parametrize("name", ["quick/mcn_in_detail"])
def test_a_step_and_answers_on_mps(name: str) -> None:
    run_config(CONFIGS / f"{name}.yaml", SimulatedDevice("mps"))  # refuses float64


@pytest.mark.slow
@pytest.mark.parametrize("name", [x for x in WAITS if x != "quick/mcn_in_detail"])
def test_other_networks_on_mps(name: str) -> None:
    run_config(CONFIGS / f"{name}.yaml", SimulatedDevice("mps"))


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_every_config_on_cuda(path: Path) -> None:
    training, _ = run_config(path, SimulatedDevice())
    allowed = {place for waits, _ in WAITS.values() for place in waits}
    assert set(own(training)) <= allowed


def test_a_lazy_config_on_cuda() -> None:
    config = LazyConfig.load(str(CONFIGS / "lazy" / "mcn_r18_seg_det_pose.py"))

    def build(name: str) -> nn.Module:
        torch.manual_seed(0)
        return instantiate(config.model).to(name)

    def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters())

    training, _ = run_on(SimulatedDevice(), build, make_optimizer, [labelled_image()])
    assert own(training) == {LOSSES: 1}


def test_crowds_and_missing_labels_wait_no_longer() -> None:
    def build(name: str) -> nn.Module:
        cfg.MODEL.DEVICE = name
        torch.manual_seed(0)
        return build_model(cfg)

    cfg: CfgNode = small_config(CONFIGS / "quick" / "mcn_det_pose.yaml")
    batch = batch_for(cfg)
    batch[0]["ignore_mask"] = torch.zeros(64, 96, dtype=torch.bool)
    batch[0]["ignore_mask"][:20, :40] = True
    batch[0]["instances"].gt_keypoints.tensor[0, :5, 2] = 0
    batch[0]["labelled_keypoints"] = torch.arange(17) < 9
    del batch[1]["instances"]
    training, _ = run_on(SimulatedDevice(), build, lambda m: build_optimizer(cfg, m), batch)
    assert own(training) == {LOSSES: 1}


# Detectron2's description of the machine would ask the driver.
TRAIN = """
import runpy, sys
import d2_multitask, detectron2.engine.defaults
from device_support import SimulatedDevice
detectron2.engine.defaults.collect_env_info = str
with SimulatedDevice().active():
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_all_eight_tasks_train_are_drawn_and_evaluated(tmp_path: Path) -> None:
    write_synthetic_in_detail(tmp_path, 4, 2)
    config = "quick/mask_rcnn_in_detail.yaml"
    short = ("SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "VIS_PERIOD", "2")
    short += ("SOLVER.AMP.ENABLED", "True", "MODEL.DEVICE", "cuda", "OUTPUT_DIR", "out")
    short += ("TEST.PASCAL_IN_DETAIL.NUM_WORKERS", "0", "DATALOADER.NUM_WORKERS", "0")
    tool = str(REPOSITORY / "tools" / "train_net.py")
    words = [f"import sys; sys.argv = {[tool, '--config-file', config, *NARROW, *short]}{TRAIN}"]
    folders = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "tests", REPOSITORY / "tools")))
    environment = {**os.environ, "PYTHONPATH": folders, "DETECTRON2_DATASETS": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", *words],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "cannot be drawn" not in done.stdout + done.stderr
    assert set(json.loads((tmp_path / "out" / "results.json").read_text())) == set(MAIN)


@pytest.mark.slow
def test_the_tests_for_gpus_run_on_the_processor() -> None:
    """A dry run, so that they have no mistakes of their own when there is a GPU."""
    environment = {**os.environ, "D2_MULTITASK_TEST_DEVICE": "cpu"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "tests/gpu"]
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True)


def test_the_documented_waits_are_these() -> None:
    text = (REPOSITORY / "docs" / "gpu.md").read_text(encoding="utf-8")
    for name, (training, inference) in WAITS.items():
        row = f"| `{name}` | {sum(training.values())} | {sum(inference.values())} | "
        assert row in text, row


@pytest.mark.parametrize("name", ["quick/mcn_in_detail"])
def test_messages_between_processes_are_on_the_gpu(name: str, monkeypatch) -> None:
    """NCCL takes no tensors of the processor."""
    sent = []
    monkeypatch.setattr("d2_multitask.losses.comm.get_world_size", lambda: 2)
    monkeypatch.setattr("d2_multitask.losses.dist.all_reduce", sent.append)
    cfg = small_config(CONFIGS / f"{name}.yaml")
    cfg.MODEL.DEVICE = "cuda"
    with SimulatedDevice().active(), EventStorage():
        build_model(cfg)(batch_for(cfg))
    assert len(sent) > 5 and all(isinstance(x, SimulatedTensor) for x in sent)


def test_what_cuda_refuses_is_refused() -> None:
    with SimulatedDevice().active() as device:
        here, there = torch.ones(3, device="cuda"), torch.ones(3)
        assert here.device == torch.device("cuda:0") and here.is_cuda
        for operation in (
            lambda: here + there,
            lambda: torch.cat([here, there]),
            lambda: here.masked_fill(there > 0, 1.0),
            lambda: torch.rand(3, device="cuda", generator=torch.Generator()),
            lambda: torch.stack([here[0], there[0]]),
        ):
            with pytest.raises(RuntimeError):
                operation()
        with pytest.raises((TypeError, RuntimeError)):
            here.numpy()
        assert (here + there[0]).tolist() == [2, 2, 2]  # a scalar of the processor may be mixed in
        assert (here + here)[torch.tensor([0, 2])].device == here.device
        device.reset()
        here[here > 0].sum().item()
        assert sum(device.waits.values()) == 2
        device.reset()
        there.to("cuda", non_blocking=True).add_(1)
        assert not device.waits
        there.to("cuda")
        assert sum(device.waits.values()) == 1


def test_kernels_are_looked_up_in_pytorchs_table() -> None:
    operations = Counter(
        {"aten.add.Tensor": 1, "aten.conv2d.default": 1, "aten.nonzero.default": 1}
    )
    assert not without_kernel(operations, "CUDA") and not without_kernel(operations, "MPS")
    only_cpu = Counter(["aten.mkldnn_linear.default", "torchvision.deform_conv2d.default"])
    assert without_kernel(only_cpu, "CUDA") == {"aten.mkldnn_linear.default"}
    assert len(without_kernel(only_cpu, "MPS")) == 2
    if torch.backends.cuda.is_built():  # then PyTorch itself knows
        has = torch._C._dispatch_has_kernel_for_dispatch_key
        for name in ("nms", "roi_align", "deform_conv2d", "_deform_conv2d_backward"):
            assert has(f"torchvision::{name}", "CUDA")
