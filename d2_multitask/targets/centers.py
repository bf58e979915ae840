"""Encoding: objects of a batch -> cells of the prediction grid. The inverse is in ``decode.py``.

Letters: N images, M objects of the whole batch, A assigned cells, K joints, (h, w) grid size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from detectron2.structures import Instances
from torch import Tensor


@dataclass(frozen=True)
class BatchObjects:
    """The labelled objects of a batch, one after the other, in stride units.

    Attributes:
        image_index: (M,) int64, which image an object belongs to.
        boxes: (M, 4) xyxy.
        classes: (M,) int64.
        keypoints: (M, K, 3) x, y and visibility (0 = unlabelled), or ``None`` if joints were not
            asked for.
        labelled: (N,) bool, False for an image that carries no object labels at all.
        keypoints_labelled: (N,) bool, False for an image that carries no joint labels at all.
    """

    image_index: Tensor
    boxes: Tensor
    classes: Tensor
    keypoints: Tensor | None
    labelled: Tensor
    keypoints_labelled: Tensor

    @property
    def wh(self) -> Tensor:
        """(M, 2) width and height."""
        return self.boxes[:, 2:] - self.boxes[:, :2]

    @property
    def center_xy(self) -> Tensor:
        """(M, 2) box centre (x, y)."""
        return (self.boxes[:, 2:] + self.boxes[:, :2]) / 2


def gather_objects(
    instances: Sequence[Instances | None],
    stride: int,
    device: torch.device,
    num_keypoints: int | None = None,
) -> BatchObjects:
    """Concatenate the labels of a batch.

    Args:
        instances: one entry an image; ``None`` where the image has no object labels. Fields
            ``gt_boxes`` (xyxy) and ``gt_classes``; ``gt_keypoints`` (n, K, 3) where joints are
            labelled. Pixels of the network input.
        stride: input pixels per cell.
        device: where the result lives.
        num_keypoints: K; ``None`` leaves the joints out.

    Returns:
        The objects, in stride units.

    Raises:
        ValueError: an image has another number of joints than ``num_keypoints``.
    """
    counts, boxes, classes, joint_labels = [], [], [], []
    for per_image in instances:
        present = per_image is not None
        joint_labels.append(present and per_image.has("gt_keypoints"))
        counts.append(len(per_image) if present else 0)
        if present:
            boxes.append(per_image.gt_boxes.tensor)
            classes.append(per_image.gt_classes)
    image_index = torch.arange(len(counts)).repeat_interleave(
        torch.tensor(counts, dtype=torch.long)
    )
    all_boxes = torch.cat(boxes) if boxes else torch.zeros(0, 4)
    all_classes = torch.cat(classes) if classes else torch.zeros(0, dtype=torch.long)
    objects = BatchObjects(
        image_index=image_index.to(device),
        boxes=all_boxes.to(device, torch.float32) / stride,
        classes=all_classes.to(device),
        keypoints=None,
        labelled=torch.tensor([x is not None for x in instances], device=device),
        keypoints_labelled=torch.tensor(joint_labels, device=device),
    )
    return (
        objects
        if num_keypoints is None
        else add_keypoints(objects, instances, stride, num_keypoints)
    )


def add_keypoints(
    objects: BatchObjects, instances: Sequence[Instances | None], stride: int, num_keypoints: int
) -> BatchObjects:
    """The same objects with their joints.

    Args:
        objects: what :func:`gather_objects` made of ``instances``.
        instances: see there.
        stride: input pixels per cell.
        num_keypoints: K.

    Raises:
        ValueError: an image has another number of joints than ``num_keypoints``.
    """
    keypoints = [
        _keypoints_of(per_image, per_image.has("gt_keypoints"), num_keypoints, index)
        for index, per_image in enumerate(instances)
        if per_image is not None
    ]
    joints = torch.cat(keypoints) if keypoints else torch.zeros(0, num_keypoints, 3)
    joints = joints.to(objects.boxes.device, torch.float32, copy=True)
    joints[..., :2] /= stride
    return replace(objects, keypoints=joints)


def _keypoints_of(per_image: Instances, present: bool, num_keypoints: int, index: int) -> Tensor:
    if not present:
        return torch.zeros(len(per_image), num_keypoints, 3)
    keypoints = per_image.gt_keypoints.tensor
    if keypoints.shape[1] != num_keypoints:
        raise ValueError(
            f"gt_keypoints of image {index} of the batch: found {keypoints.shape[1]} joints an "
            f"object, expected MODEL.POSE_HEAD.NUM_KEYPOINTS = {num_keypoints}"
        )
    return keypoints


@dataclass(frozen=True)
class CenterCells:
    """Where regressions are read and learnt: A assignments of an object to a cell.

    Attributes:
        object_index: (A,) int64 into the objects of the batch.
        image_index: (A,) int64.
        xy: (A, 2) int64 cell (x, y).
    """

    object_index: Tensor
    image_index: Tensor
    xy: Tensor

    def __len__(self) -> int:
        return len(self.object_index)

    def gather(self, feature: Tensor) -> Tensor:
        """Read ``feature`` (N, C, h, w) at the assigned cells -> (A, C)."""
        return feature[self.image_index, :, self.xy[:, 1], self.xy[:, 0]]


def cells_of(points_xy: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """The cell of each point.

    Args:
        points_xy: (..., 2) points (x, y), stride units.
        grid_hw: (h, w) of the grid.

    Returns:
        (..., 2) int64 cell (x, y). A point on the far border belongs to the last cell.
    """
    limit = points_xy.new_tensor([grid_hw[1] - 1, grid_hw[0] - 1])
    return torch.minimum(points_xy.floor().clamp(min=0), limit).long()


def assign_cells(
    objects: BatchObjects, num_images: int, grid_hw: tuple[int, int], radius: int = 0
) -> CenterCells:
    """Give each object its centre cell and, if asked, the cells around it.

    A cell that several objects want goes to the one whose centre cell it is, then to the smaller
    box, then to the first: the same on every device, unlike an indexed write with duplicates.

    Args:
        objects: the labelled objects.
        num_images: N.
        grid_hw: (h, w) of the grid.
        radius: 0 trains the centre cell alone, as CenterNet; 1 the 3x3 cells around it.

    Returns:
        The assignments, at most one object a cell.
    """
    num_objects, device = len(objects.boxes), objects.boxes.device
    height, width = grid_hw
    center = cells_of(objects.center_xy, grid_hw)  # (M, 2)
    steps = torch.arange(-radius, radius + 1, device=device)
    step_xy = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).reshape(-1, 2)  # (S, 2)
    xy = (center[:, None] + step_xy).reshape(-1, 2)  # (M * S, 2)
    object_index = torch.arange(num_objects, device=device).repeat_interleave(len(step_xy))
    is_neighbour = step_xy.ne(0).any(1).repeat(num_objects)

    # Small boxes first; `rank` orders the objects, neighbours come after every centre.
    order = torch.argsort(objects.wh.prod(1), stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(num_objects, device=device)
    claim = rank[object_index] + is_neighbour * num_objects

    inside = (xy >= 0).all(1) & (xy[:, 0] < width) & (xy[:, 1] < height)
    xy, object_index, claim = xy[inside], object_index[inside], claim[inside]
    image_index = objects.image_index[object_index]
    flat = (image_index * height + xy[:, 1]) * width + xy[:, 0]
    best = torch.full((num_images * height * width,), 2 * num_objects, device=device)
    best.scatter_reduce_(0, flat, claim, "amin")
    won = best[flat] == claim
    return CenterCells(object_index[won], image_index[won], xy[won])
