"""Parts of images: large images in overlapping tiles, results of an image in a larger frame.

Letters: H x W pixels of the network input, h x w of a tile.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from torch import Tensor, nn

from d2_multitask.targets.tiles import tile_starts

Size = tuple[int, int]


class TiledNetwork(nn.Module):
    """Runs a network on tiles and blends its maps; called as the network itself.

    Images that are no larger than a tile are given to the network as they are.
    """

    def __init__(
        self, network: nn.Module, tile_hw: Sequence[int], overlap: float, batch_size: int = 8
    ) -> None:
        """
        Args:
            network: ``(batched_inputs, tasks) -> one dict per image``, in evaluation mode.
            tile_hw: (h, w) in pixels of the network input.
            overlap: share of a tile that its neighbour covers too, at least.
            batch_size: tiles that run at once.

        Raises:
            ValueError: a number is out of range.
        """
        super().__init__()
        if len(tile_hw) != 2 or min(tile_hw) < 1:
            raise ValueError(
                f"TEST.TILES.SIZE: found {tile_hw}, expected (height, width) in pixels"
            )
        if not 0 <= overlap < 1:
            raise ValueError(f"TEST.TILES.OVERLAP: found {overlap}, expected a number in [0, 1)")
        if batch_size < 1:
            raise ValueError(f"TEST.TILES.BATCH_SIZE: found {batch_size}, expected at least 1")
        self.network = network
        self.tile_hw, self.overlap, self.batch_size = tuple(tile_hw), overlap, batch_size

    @torch.no_grad()
    def forward(
        self, batched_inputs: list[dict[str, Any]], tasks: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Results at the requested ``height`` and ``width``.

        Raises:
            ValueError: an image in a frame, or a result that is not a map, would be tiled.
        """
        return [self._one(x, {} if tasks is None else {"tasks": tasks}) for x in batched_inputs]

    def _one(self, batched_input: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        image_hw = tuple(batched_input["image"].shape[-2:])
        tile_hw = tuple(map(min, image_hw, self.tile_hw))
        if tile_hw == image_hw:
            return self.network([batched_input], **options)[0]
        if "window" in batched_input:
            raise ValueError(
                "TEST.TILES: found an image in a frame, expected INPUT.RESIZE_TEST 'shortest_edge'"
            )
        starts = (
            tile_starts(*sides, self.overlap) for sides in zip(image_hw, tile_hw, strict=True)
        )
        corners = list(itertools.product(*starts))
        blended = self._blend(batched_input, corners, tile_hw, options)
        size = tuple(
            int(batched_input.get(key, side))
            for key, side in zip(("height", "width"), image_hw, strict=True)
        )
        return {name: _resize(values, size) for name, values in blended.items()}

    def _blend(
        self,
        batched_input: dict[str, Any],
        corners: Sequence[Size],
        tile_hw: Size,
        options: dict[str, Any],
    ) -> dict[str, Tensor]:
        image = batched_input["image"]
        (h, w), sums = tile_hw, {}
        weight = tile_weight(tile_hw, self.overlap)
        total = image.new_zeros(image.shape[-2:], dtype=torch.float32)
        for start in range(0, len(corners), self.batch_size):
            some = corners[start : start + self.batch_size]
            tiles = [{"image": image[:, y : y + h, x : x + w]} for y, x in some]
            results = self.network(tiles, **options)
            for (y, x), result in zip(some, results, strict=True):
                for name, values in _maps(result, tile_hw).items():
                    shape = (*values.shape[:-2], *image.shape[-2:])
                    place = sums.setdefault(name, values.new_zeros(shape))
                    place[..., y : y + h, x : x + w] += values * weight.to(values)
                total[y : y + h, x : x + w] += weight
        return {name: values / total.to(values) for name, values in sums.items()}


def tile_weight(tile_hw: Size, overlap: float) -> Tensor:
    """(h, w) in (0, 1]: falls linearly to the tile's edges over the width of the overlap."""
    ramps = []
    for side in tile_hw:
        place = torch.arange(side) + 0.5
        ramps.append((torch.minimum(place, side - place) / max(side * overlap, 1)).clamp(max=1))
    return ramps[0][:, None] * ramps[1]


def _maps(result: dict[str, Any], tile_hw: Size) -> dict[str, Tensor]:
    """The result's maps, in float32."""
    for name, values in result.items():
        is_map = isinstance(values, Tensor) and tuple(values.shape[-2:]) == tile_hw
        if not is_map or not values.is_floating_point():
            raise ValueError(
                f"TEST.TILES: found the result {name!r}, expected results for every pixel; choose "
                "tasks that give those with TEST.TASKS, such as foreground, seg or boundary"
            )
    return {name: values.float() for name, values in result.items()}


def _resize(values: Tensor, size: Size) -> Tensor:
    """(..., H, W) -> (..., *size): floats bilinearly, other types to the nearest value."""
    if tuple(values.shape[-2:]) == tuple(size):
        return values
    flat = values.reshape(1, -1, *values.shape[-2:]).float()
    if values.is_floating_point():
        resized = F.interpolate(flat, size, mode="bilinear", align_corners=False)
    else:
        resized = F.interpolate(flat, size, mode="nearest-exact")
    return resized.reshape(*values.shape[:-2], *size).to(values.dtype)


def crop_result(
    result: dict[str, Any],
    window: Sequence[float],
    input_size: Size,
    output_size: Size,
) -> dict[str, Any]:
    """Cut one image's result out of that of its framed network input.

    Args:
        result: in pixels of the network input: instances, maps (..., h, w) of ``input_size``, and
            other values, which stay as they are.
        window: (x0, y0, x1, y1), where the image lies in the input.
        input_size: (h, w) of the input.
        output_size: (h, w) of the result.
    """
    cropped = {}
    for name, value in result.items():
        if isinstance(value, Instances):
            value = _crop_instances(value, window, output_size)
        elif isinstance(value, Tensor) and value.dim() >= 2 and value.shape[-2:] == input_size:
            x0, y0, x1, y1 = (round(side) for side in window)
            value = value[..., max(y0, 0) : max(y1, 1), max(x0, 0) : max(x1, 1)]
            value = _resize(value, output_size)
        cropped[name] = value
    return cropped


def _crop_instances(
    instances: Instances, window: Sequence[float], output_size: tuple[int, int]
) -> Instances:
    x0, y0, x1, y1 = window
    moved = Instances((y1 - y0, x1 - x0), **instances.get_fields())
    boxes = moved.pred_boxes.clone()
    boxes.tensor -= boxes.tensor.new_tensor([x0, y0, x0, y0])
    moved.pred_boxes = boxes
    if moved.has("pred_keypoints"):
        keypoints = moved.pred_keypoints
        moved.pred_keypoints = keypoints - keypoints.new_tensor([x0, y0, 0])
    return detector_postprocess(moved, *output_size)
