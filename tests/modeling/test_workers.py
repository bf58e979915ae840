"""Two processes with two images each learn what one process learns from all four."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from d2_multitask.config import load_config
from d2_multitask.modeling.teachers import Teacher, Teachers
from modeling.rcnn_support import rcnn, rcnn_image
from support import LABELS, labelled_image, without
from worker_support import in_two_processes

Batch = list[dict[str, Any]]
# Nothing is left to chance: every anchor and every proposal is sampled.
ALL_BOXES = ("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 8192, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8192)
STATIC = ("MODEL.ROI_KEYPOINT_HEAD.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS", False)


def of_config(name: str, **mae: int) -> nn.Module:
    """The network of a config, not pretrained; ``mae``: keys of ``MODEL.MAE``."""
    torch.manual_seed(0)
    cfg = load_config(name)
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = "", "cpu"
    cfg.MODEL.MAE.update(mae)
    return build_model(cfg)


def taught(name: str) -> nn.Module:
    """A network and a teacher that is sure of its peaks; one process may have nothing to ask."""
    model, teacher = of_config(name), of_config(name).eval().requires_grad_(False)
    for task, branch in (("center", "heatmap"), ("pose", "keypoint_heatmap")):
        teacher.heads[task].get_submodule(branch)[-1].bias.zero_()
    model.teachers = Teachers([Teacher(teacher, ("seg", "center", "det", "pose", "parts"))])
    return model


def mae(name: str) -> nn.Module:
    """A small autoencoder that removes the same patches of each image, whatever batch it is in."""
    model = of_config(name, DEPTH=2, DECODER_DEPTH=1)
    network = getattr(model, "backbone", model)
    reconstruct = network.reconstruct

    def repeatable(images: Tensor) -> Any:
        noise = torch.rand(4, 4096, generator=torch.Generator().manual_seed(0))
        length = images[0, 0].numel() // network.patch_size**2
        return reconstruct(images, noise=noise[:1, :length].expand(len(images), -1))

    network.reconstruct = repeatable
    return model


def images(make: Callable[..., dict[str, Any]], *, empty: bool, **kwargs: Any) -> Batch:
    """Two images with all labels, then two with few or none."""
    batch = [make(seed=seed, **kwargs) for seed in range(4)]
    if empty:
        return [*batch[:2], *(without(entry, *LABELS) for entry in batch[2:])]
    few = batch[2]["instances"]
    few.gt_keypoints.tensor[0, :, 2] = 0
    few.gt_masks.tensor[1] = False
    batch[2]["boundary"][:] = batch[2]["sem_seg"][:40] = 255
    batch[3] = without(batch[3], "sem_seg", "part_seg", "image_labels", "foreground")
    batch[3]["instances"] = batch[3]["instances"][:1]
    return batch


def cases() -> dict[str, tuple[Callable[[], nn.Module], Batch]]:
    found: dict[str, tuple[Callable[[], nn.Module], Batch]] = {}
    for empty in (False, True):
        name = "none" if empty else "few"
        people = images(rcnn_image, empty=empty)
        found[f"rcnn-{name}"] = (lambda: rcnn(None, *ALL_BOXES), people)
        found[f"rcnn-static-{name}"] = (lambda: rcnn(["det"], *ALL_BOXES, *STATIC), people)
        in_detail = images(labelled_image, empty=empty, num_keypoints=14)
        found[f"mcn-{name}"] = (partial(of_config, "quick/mcn_in_detail.yaml"), in_detail)
        found[f"teachers-{name}"] = (partial(taught, "quick/mcn_in_detail.yaml"), in_detail)
        small = images(labelled_image, empty=empty, height=32, width=32)
        joint, linear = "quick/foreground_decoder_joint.yaml", "quick/foreground_linear.yaml"
        found[f"mae-{name}"] = (partial(mae, joint), small)
        found[f"foreground-{name}"] = (partial(of_config, linear, DEPTH=2), small)
        for config in ("quick/centernet_r18_seg_det_pose.yaml", "movenet/mcn_people.yaml"):
            found[f"{config}-{name}"] = (
                partial(of_config, config),
                images(labelled_image, empty=empty),
            )
    found["mae-pretraining"] = (partial(mae, "quick/mae_pretrain.yaml"), small)
    return found


def learned(build: Callable[[], nn.Module], batch: Batch) -> tuple[dict, dict]:
    """Losses, and the gradients of a sum of them in which each has a weight of its own."""
    model = build()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # SyncBN too
            module.eval()  # batch statistics are another matter: they see what one process has
    with EventStorage():
        losses = model(batch)
    sum(k * losses[name] for k, name in enumerate(sorted(losses), 1)).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: loss.detach() for name, loss in losses.items()}, gradients


def of_worker(rank: int) -> dict[str, tuple[dict, dict]]:
    results = {}
    for name, (build, batch) in cases().items():
        results[name] = learned(build, batch[2 * rank : 2 * rank + 2])
        for values in results[name]:
            for key in sorted(values):
                dist.all_reduce(values[key])
                values[key] /= 2
    return results


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory) -> dict[str, tuple[dict, dict]]:
    return in_two_processes(of_worker, tmp_path_factory.mktemp("workers"))[0]


@pytest.mark.parametrize("name", cases())
def test_two_processes_are_one(name: str, two_workers) -> None:
    found, expected = two_workers[name], learned(*cases()[name])
    for kind in range(2):
        assert found[kind].keys() == expected[kind].keys()
        for key, value in expected[kind].items():
            size = max(float(value.abs().max()), 1e-3)
            difference = float((found[kind][key] - value).abs().max()) / size
            assert difference < 1e-5, f"{key}: {difference}"
