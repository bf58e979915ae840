"""Encoding: the labels of a batch -> the prediction grid. The inverse is in ``decode.py``.

Objects and their cells are computed on the processor, where the data loader leaves the labels: the
shapes depend on how many there are, and a GPU that is asked for that has to finish its work first.

Letters: N images, M objects of the whole batch, A assigned cells, K keypoints, C channels,
(H, W) padded network input, (h, w) grid.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.structures import ImageList, Instances
from torch import Tensor

RADIUS_RULES = ("centernet", "exact")


def _once(method: Callable[..., Any]) -> Callable[..., Any]:
    """Keep what a method of ``BatchLabels`` makes, for each of its arguments."""

    @functools.wraps(method)
    def made(labels: BatchLabels, *arguments: int) -> Any:
        key = (method.__name__, *arguments)
        if key not in labels._made:
            labels._made[key] = method(labels, *arguments)
        return labels._made[key]

    return made


@dataclass(eq=False)
class BatchLabels:
    """The labels of one batch; what several heads need of them is made at most once.

    Attributes:
        batched_inputs: one dict per image, as the meta-architecture gets them.
        images: the images, preprocessed and padded; maps are made on their device, everything of
            objects on the processor. :func:`to_device` moves it.
    """

    batched_inputs: list[dict[str, Any]]
    images: ImageList
    _made: dict[tuple[Any, ...], Any] = field(default_factory=dict, repr=False)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.images.tensor.device

    @property
    def instances(self) -> list[Instances | None]:
        """The objects of each image; ``None`` where an image has no object labels."""
        return [x.get("instances") for x in self.batched_inputs]

    @_once
    def objects(self, stride: int) -> BatchObjects:
        """The labelled objects in stride units; see :func:`gather_objects`."""
        return gather_objects(self.instances, stride)

    @_once
    def keypoints(self, stride: int, num_keypoints: int) -> Tensor:
        """(M, K, 3), those of :meth:`objects`; see :func:`gather_keypoints`."""
        return gather_keypoints(self.instances, stride, num_keypoints)

    @_once
    def keypoint_confidence(self) -> Tensor | None:
        """(M, K) in [0, 1], of :meth:`keypoints`; ``None`` if all labels are sure."""
        return gather_confidence(self.instances, "gt_keypoint_confidence")

    @_once
    def cells(self, stride: int, radius: int) -> CenterCells:
        """The cells that learn from the objects; see :func:`assign_cells`."""
        objects, grid_hw = self.objects(stride), grid_size(self.images, stride)
        cells = assign_cells(objects, len(self.batched_inputs), grid_hw, radius)
        if objects.confidence is None:
            return cells
        return replace(cells, weight=objects.confidence[cells.object_index])

    @property
    def has_ignored(self) -> bool:
        """Whether any image has an ``ignore_mask``."""
        return any(x.get("ignore_mask") is not None for x in self.batched_inputs)

    @_once
    def ignored_cells(self, stride: int) -> Tensor:
        """(N, 1, h, w) bool, the cells that any pixel of an ``ignore_mask`` (a crowd) touches."""
        if not self.has_ignored:
            grid = (len(self.batched_inputs), 1, *grid_size(self.images, stride))
            return torch.zeros(grid, dtype=torch.bool, device=self.device)
        pixels = self.label_map("ignore_mask", 0)[:, None].float()
        return F.max_pool2d(pixels, stride, ceil_mode=True) > 0

    def flags(self, name: str) -> Tensor:
        """(N, C) bool of the entries ``name`` (C,), True where one is missing; C is 1 if all are.

        On the processor.
        """
        rows = [x.get(name) for x in self.batched_inputs]
        given = next((row for row in rows if row is not None), torch.ones(1, dtype=torch.bool))
        every = torch.ones_like(given, device="cpu")
        return torch.stack([every if row is None else row.cpu() for row in rows])

    def label_map(self, name: str, fill_value: int) -> Tensor:
        """(N, H, W) int64 of the entries ``name``; see :func:`pad_label_maps`."""
        maps = [x.get(name) for x in self.batched_inputs]
        return pad_label_maps(maps, tuple(self.images.tensor.shape[-2:]), fill_value, self.device)

    def confidence_map(self, name: str) -> Tensor | None:
        """(N, H, W) float32 in [0, 1], of :meth:`label_map`; ``None`` if all labels are sure."""
        maps = [x.get(f"{name}_confidence") for x in self.batched_inputs]
        if all(x is None for x in maps):
            return None
        size = tuple(self.images.tensor.shape[-2:])
        return pad_label_maps(maps, size, 1, self.device, dtype=torch.float32)


def to_device(targets: Any, device: torch.device) -> Any:
    """The same nested dicts, tuples and :class:`CenterCells`, their tensors on a device."""
    if isinstance(targets, Tensor):
        return targets.to(device, non_blocking=True)
    if isinstance(targets, dict):
        return {name: to_device(value, device) for name, value in targets.items()}
    if isinstance(targets, tuple):
        return tuple(to_device(value, device) for value in targets)
    if isinstance(targets, CenterCells):
        fields = targets.object_index, targets.image_index, targets.xy, targets.weight
        return CenterCells(*to_device(fields, device))
    return targets


def grid_size(images: ImageList, stride: int) -> tuple[int, int]:
    """(h, w) of the prediction grid of a padded batch."""
    height, width = images.tensor.shape[-2:]
    return -(-height // stride), -(-width // stride)


def image_cells(images: ImageList, stride: int) -> Tensor:
    """(N, 1, h, w) bool, True for the cells that begin inside the unpadded image."""
    height, width = grid_size(images, stride)
    device = images.tensor.device
    sizes = torch.as_tensor(images.image_sizes).to(device, non_blocking=True)  # (N, 2) h, w
    rows = torch.arange(height, device=device) * stride < sizes[:, 0:1]  # (N, h)
    columns = torch.arange(width, device=device) * stride < sizes[:, 1:2]  # (N, w)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


@dataclass(frozen=True)
class BatchObjects:
    """The labelled objects of a batch, one after the other, in stride units.

    Attributes:
        image_index: (M,) int64, which image an object belongs to.
        boxes: (M, 4) xyxy.
        classes: (M,) int64.
        labelled: (N,) bool, False for an image that carries no object labels at all.
        keypoints_labelled: (N,) bool, False for an image that carries no keypoint labels at all.
        confidence: (M,) in [0, 1], by which losses of objects are multiplied; ``None`` = all 1.
    """

    image_index: Tensor
    boxes: Tensor
    classes: Tensor
    labelled: Tensor
    keypoints_labelled: Tensor
    confidence: Tensor | None = None

    @property
    def wh(self) -> Tensor:
        """(M, 2) width and height."""
        return self.boxes[:, 2:] - self.boxes[:, :2]

    @property
    def center_xy(self) -> Tensor:
        """(M, 2) box centre (x, y)."""
        return (self.boxes[:, 2:] + self.boxes[:, :2]) / 2


def gather_objects(instances: Sequence[Instances | None], stride: int) -> BatchObjects:
    """Concatenate the objects of a batch, on the processor.

    Args:
        instances: per image; ``None`` where the image has no object labels. Fields ``gt_boxes``
            (xyxy, pixels of the network input), ``gt_classes``, and perhaps ``gt_keypoints`` and
            ``gt_confidence``.
        stride: input pixels per cell.
    """
    present = [x for x in instances if x is not None]
    counts = torch.tensor([0 if x is None else len(x) for x in instances], dtype=torch.long)
    boxes, classes = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    if present:
        boxes = torch.cat([x.gt_boxes.tensor for x in present])
        classes = torch.cat([x.gt_classes for x in present])
    with_keypoints = [x is not None and x.has("gt_keypoints") for x in instances]
    return BatchObjects(
        image_index=torch.arange(len(counts)).repeat_interleave(counts),
        boxes=boxes.to("cpu", torch.float32) / stride,
        classes=classes.cpu(),
        labelled=torch.tensor([x is not None for x in instances]),
        keypoints_labelled=torch.tensor(with_keypoints),
        confidence=gather_confidence(instances, "gt_confidence"),
    )


def gather_confidence(instances: Sequence[Instances | None], name: str) -> Tensor | None:
    """The field ``name`` of a batch's objects, (M, ...), 1 where an image has none.

    Returns:
        On the processor, in the order of :func:`gather_objects`; ``None`` if no image has it.
    """
    present = [x for x in instances if x is not None]
    given = next((x.get(name) for x in present if x.has(name)), None)
    if given is None:
        return None
    rows = [
        x.get(name) if x.has(name) else given.new_ones(len(x), *given.shape[1:]) for x in present
    ]
    return torch.cat(rows).to("cpu", torch.float32)


def gather_keypoints(
    instances: Sequence[Instances | None], stride: int, num_keypoints: int
) -> Tensor:
    """Concatenate the keypoints of a batch, as and in the order of :func:`gather_objects`.

    Args:
        instances: see there; ``gt_keypoints`` (n, K, 3), pixels of the network input.
        stride: input pixels per cell.
        num_keypoints: K.

    Returns:
        (M, K, 3) x and y in stride units, visibility (0 = unlabelled).

    Raises:
        ValueError: an image has another number of keypoints.
    """
    keypoints = []
    for index, image in enumerate(instances):
        if image is None:
            continue
        if not image.has("gt_keypoints"):
            keypoints.append(image.gt_boxes.tensor.new_zeros(len(image), num_keypoints, 3))
            continue
        keypoints.append(image.gt_keypoints.tensor)
        if keypoints[-1].shape[1] != num_keypoints:
            raise ValueError(
                f"gt_keypoints of image {index} of the batch: found {keypoints[-1].shape[1]} "
                f"keypoints per object, expected MODEL.POSE_HEAD.NUM_KEYPOINTS = {num_keypoints}"
            )
    result = torch.cat(keypoints) if keypoints else torch.zeros(0, num_keypoints, 3)
    result = result.to("cpu", torch.float32)  # not the labels themselves, which stay as they are
    result[..., :2] /= stride
    return result


def keypoints_known(objects: BatchObjects, labelled: Tensor, missing: Tensor) -> Tensor:
    """(N, K) bool: False where objects of the image have other keypoints but none has this one.

    Args:
        objects: of the batch.
        labelled: (M, K) bool, the labelled keypoints.
        missing: (M, K) bool, those that are not labelled though the object may have them.
    """
    shape = (len(objects.labelled), labelled.shape[1])
    only_others = missing & labelled.any(1, keepdim=True)
    num_labelled, num_only_others = (
        torch.zeros(shape, dtype=torch.long, device=labelled.device).index_add_(
            0, objects.image_index, x.long()
        )
        for x in (labelled, only_others)
    )
    known = (num_labelled > 0) | (num_only_others == 0)
    return known & objects.keypoints_labelled[:, None]


@dataclass(frozen=True)
class CenterCells:
    """Where regressions are read and learned: A assignments of an object to a cell.

    Attributes:
        object_index: (A,) int64 into the objects of the batch.
        image_index: (A,) int64.
        xy: (A, 2) int64 cell (x, y).
        weight: (A,) by which the losses of an assignment are multiplied; ``None`` = all 1.
    """

    object_index: Tensor
    image_index: Tensor
    xy: Tensor
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.object_index)

    @property
    def index(self) -> tuple[Tensor, slice, Tensor, Tensor]:
        """``prediction[index]``: (N, C, h, w) -> (A, C), values at the assigned cells."""
        return self.image_index, slice(None), self.xy[:, 1], self.xy[:, 0]


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
        The assignments, at most one object per cell.
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


def gaussian_radius(wh: Tensor, min_overlap: float, rule: str = "centernet") -> Tensor:
    """How far a corner pair may move while the box keeps an IoU of ``min_overlap``.

    CornerNet (arXiv 1808.01244, section 3.1) and CenterNet (arXiv 1904.07850, section 3).

    Args:
        wh: (M, 2) box width and height, stride units.
        min_overlap: the IoU that shifted corners must keep, in (0, 1).
        rule: ``"exact"`` solves the three cases of CornerNet (both corners out, both in, one of
            each) and takes the smallest root. ``"centernet"`` is what CenterNet and all its
            descendants compute: the third root lacks its division by 2a, which makes the radius
            about 3.4 times larger at ``min_overlap`` 0.7. Trained weights and published numbers
            belong to ``"centernet"``.

    Returns:
        (M,) float radius, stride units, not rounded.

    Raises:
        ValueError: unknown ``rule``.
    """
    if rule not in RADIUS_RULES:
        raise ValueError(f"GAUSSIAN_RADIUS: found {rule!r}, expected one of {RADIUS_RULES}")
    width, height = wh.double().unbind(1)  # double: the roots are differences of near numbers
    total, area = width + height, width * height
    shift = total.square() - 4 * area * (1 - min_overlap) / (1 + min_overlap)
    shrink = total.square() - 4 * (1 - min_overlap) * area
    grow = (min_overlap * total).square() + 4 * min_overlap * (1 - min_overlap) * area
    if rule == "exact":
        roots = (
            (total - shift.sqrt()) / 2,
            (total - shrink.sqrt()) / 4,
            (grow.sqrt() - min_overlap * total) / (4 * min_overlap),
        )
    else:
        # The plus signs and the missing divisions are those of CenterNet's code.
        roots = (
            (total + shift.sqrt()) / 2,
            total + shrink.sqrt(),
            grow.sqrt() - min_overlap * total,
        )
    return torch.stack(roots).amin(0).float()


def object_radius(wh: Tensor, min_overlap: float, rule: str = "centernet") -> Tensor:
    """(M,) int64 radius in cells of each object's Gaussian; see :func:`gaussian_radius`.

    Sizes are rounded up and the radius is rounded down, as in CenterNet.
    """
    return gaussian_radius(wh.ceil(), min_overlap, rule).clamp(min=0).floor().long()


def draw_gaussians(
    channel: Tensor,
    cell_xy: Tensor,
    radius: Tensor,
    num_channels: int,
    grid_hw: tuple[int, int],
    device: torch.device | None = None,
) -> Tensor:
    """Draw every Gaussian in its window, keeping the larger value where windows meet.

    The window of radius r has side 2r + 1 and sigma (2r + 1) / 6; its peak is exactly 1. A Gaussian
    is the product of its row and its column, so exponentials are taken along the axes only, of all
    objects at once. Objects of equal radius are then drawn by one scatter: the Python loop runs
    over distinct radii (bounded by the grid), never over objects or images.

    Args:
        channel: (M,) int64 index of the channel that each Gaussian is drawn on.
        cell_xy: (M, 2) int64 cell (x, y), inside the grid.
        radius: (M,) int64 radius in cells.
        num_channels: C.
        grid_hw: (h, w) of the grid.
        device: where the result lives; ``None`` = where the Gaussians' numbers do.

    Returns:
        (C, h, w) float32 in [0, 1].
    """
    height, width = grid_hw
    canvas = torch.zeros(num_channels * height * width, device=device or channel.device)
    if len(channel) == 0:
        return canvas.view(num_channels, height, width)
    radius, order = radius.sort()
    radii, radius_index, counts = torch.unique_consecutive(
        radius, return_inverse=True, return_counts=True
    )
    farthest = max(height, width) - 1  # no window need reach further than across the grid
    reach = min(int(radii[-1]), farthest)
    steps = torch.arange(-reach, reach + 1, device=channel.device)  # (S,)
    profile = torch.exp(steps.square() / (-2 * ((2 * radii + 1) / 6).square())[:, None])
    cell = cell_xy[order].t()[:, :, None] + steps  # (2, M, S), x and y
    # What falls outside of the grid is moved into it with the value 0, which changes no maximum.
    last = cell.new_tensor([width - 1, height - 1])[:, None, None]
    clipped = torch.minimum(cell.clamp(min=0), last)
    gaussians = profile[radius_index] * (clipped == cell)  # (2, M, S)
    gaussian_x, gaussian_y = gaussians.to(canvas.device, non_blocking=True)
    clipped[1] = (clipped[1] + channel[order, None] * height) * width
    column, row = clipped.to(canvas.device, non_blocking=True)
    start = 0
    for r, count in zip(radii.tolist(), counts.tolist(), strict=True):
        r = min(r, farthest)
        here = slice(start, start + count), slice(reach - r, reach + r + 1)
        index = row[here][:, :, None] + column[here][:, None, :]  # (count, 2r + 1, 2r + 1)
        window = gaussian_y[here][:, :, None] * gaussian_x[here][:, None, :]
        canvas.scatter_reduce_(0, index.view(-1), window.view(-1), "amax")
        start += count
    return canvas.view(num_channels, height, width)


def draw_heatmaps(
    image_index: Tensor,
    channel: Tensor,
    cell_xy: Tensor,
    radius: Tensor,
    shape: tuple[int, int, int, int],
    device: torch.device | None = None,
) -> Tensor:
    """Heatmaps of a batch, (N, C, h, w) = ``shape``; see :func:`draw_gaussians`."""
    num_images, num_channels, *grid_hw = shape
    channel = image_index * num_channels + channel
    channels = num_images * num_channels
    return draw_gaussians(channel, cell_xy, radius, channels, grid_hw, device).view(shape)


def peak_index(
    image_index: Tensor, channel: Tensor, cell_xy: Tensor, shape: tuple[int, int, int, int]
) -> tuple[Tensor, ...]:
    """Where :func:`draw_heatmaps` draws peaks: indices of its result, each peak once, in order."""
    return torch.unravel_index(_flat_cells(image_index, channel, cell_xy, shape).unique(), shape)


def peak_weight(
    image_index: Tensor,
    channel: Tensor,
    cell_xy: Tensor,
    shape: tuple[int, int, int, int],
    confidence: Tensor | None,
) -> Tensor | None:
    """(P,) of the peaks of :func:`peak_index`: the largest ``confidence`` (M,) drawn there."""
    if confidence is None:
        return None
    flat = _flat_cells(image_index, channel, cell_xy, shape)
    peaks, peak_of = flat.unique(return_inverse=True)
    return confidence.new_zeros(len(peaks)).scatter_reduce_(0, peak_of, confidence, "amax")


def _flat_cells(
    image_index: Tensor, channel: Tensor, cell_xy: Tensor, shape: tuple[int, int, int, int]
) -> Tensor:
    _, num_channels, height, width = shape
    flat = (image_index * num_channels + channel) * height + cell_xy[:, 1]
    return flat * width + cell_xy[:, 0]


def pad_label_maps(
    maps: Sequence[Tensor | None],
    padded_hw: tuple[int, int],
    fill_value: float,
    device: torch.device,
    channels: tuple[int, ...] = (),
    dtype: torch.dtype = torch.long,
) -> Tensor:
    """Stack label maps of different sizes, top left aligned as ``ImageList`` aligns images.

    Args:
        maps: per image (*channels, H_i, W_i); ``None`` where the image has no such label.
        padded_hw: (H, W) of the padded batch.
        fill_value: value of padding and of missing maps.
        device: where the result lives.
        channels: leading dimensions of each map.
        dtype: of the result.

    Returns:
        (N, *channels, H, W).

    Raises:
        ValueError: a map is larger than the padded batch, or has other channels.
    """
    shape = (len(maps), *channels, *padded_hw)
    batch = torch.full(shape, fill_value, dtype=dtype, device=device)
    for index, label_map in enumerate(maps):
        if label_map is None:
            continue
        *found, height, width = label_map.shape
        if tuple(found) != channels or height > padded_hw[0] or width > padded_hw[1]:
            raise ValueError(
                f"label map of image {index} of the batch: found shape {tuple(label_map.shape)}, "
                f"expected channels {channels} and at most the padded image's "
                f"{padded_hw[0]}x{padded_hw[1]} (height x width)"
            )
        batch[index, ..., :height, :width] = label_map.to(device, non_blocking=True)
    return batch


def cells_in_boxes(
    boxes: Tensor,
    image_index: Tensor,
    num_images: int,
    grid_hw: tuple[int, int],
    device: torch.device | None = None,
) -> Tensor:
    """Cells whose centre lies in any of the boxes.

    Args:
        boxes: (M, 4) xyxy, stride units.
        image_index: (M,) int64.
        num_images: N.
        grid_hw: (h, w).
        device: where the result lives; ``None`` = where the boxes do.

    Returns:
        (N, 1, h, w) bool.
    """
    height, width = grid_hw
    device = device or boxes.device
    # A cell's centre lies at + 0.5. The first cell inside and the first one behind, on each axis.
    x1, y1, x2, y2 = (boxes - 0.5).ceil().long().unbind(1)
    x1, x2 = x1.clamp(0, width), x2.clamp(0, width)
    y1, y2 = y1.clamp(0, height), y2.clamp(0, height)
    # Sums over rows and columns of what begins and ends at the corners count the boxes over a cell;
    # whole numbers, because CUDA adds up fractions in no fixed order.
    corners = torch.zeros((num_images, height + 1, width + 1), dtype=torch.int32, device=device)
    image_index, *sides = to_device((image_index, x1, y1, x2, y2), device)
    x1, y1, x2, y2 = sides
    for y, x, value in ((y1, x1, 1), (y1, x2, -1), (y2, x1, -1), (y2, x2, 1)):
        step = corners.new_full((), value)
        corners.index_put_((image_index, y, x), step, accumulate=True)
    counts = corners.cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)
    return counts[:, None, :height, :width] > 0
