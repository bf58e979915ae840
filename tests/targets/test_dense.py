"""Padding of label maps, ignored cells."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import ImageList
from torch import Tensor

from d2_multitask.targets.encode import BatchLabels, cells_in_boxes, pad_label_maps

CPU = torch.device("cpu")


def test_padding_and_missing_maps_get_the_fill_value() -> None:
    batch = pad_label_maps([torch.ones(2, 3, dtype=torch.long), None], (3, 4), 255, CPU)
    assert batch.tolist() == [
        [[1, 1, 1, 255], [1, 1, 1, 255], [255] * 4],
        [[255] * 4] * 3,
    ]


def test_map_larger_than_the_image_is_named() -> None:
    with pytest.raises(ValueError, match=r"image 0.*\(5, 3\).*at most.*4x4"):
        pad_label_maps([torch.zeros(5, 3, dtype=torch.long)], (4, 4), 0, CPU)


def test_maps_with_channels() -> None:
    maps = [torch.ones(2, 3, 4), None]
    values = pad_label_maps(maps, (5, 6), 0, CPU, (2,), torch.float32)
    assert values.shape == (2, 2, 5, 6) and values.sum() == 24
    assert values[0, :, :3, :4].all()
    with pytest.raises(ValueError, match=r"image 0.*\(2, 3, 4\).*2x6"):
        pad_label_maps(maps, (2, 6), 0, CPU, (2,))
    with pytest.raises(ValueError, match=r"channels \(3,\)"):
        pad_label_maps(maps, (5, 6), 0, CPU, (3,))


def ignored_cells(masks: list[Tensor | None], padded_hw: tuple[int, int]) -> Tensor:
    images = ImageList(torch.zeros(len(masks), 3, *padded_hw), [padded_hw] * len(masks))
    return BatchLabels([{"ignore_mask": mask} for mask in masks], images).ignored_cells(4)


def test_a_cell_with_one_ignored_pixel_is_ignored() -> None:
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[3, 4] = True
    cells = ignored_cells([mask, None], (8, 8))
    assert cells[0, 0].tolist() == [[False, True], [False, False]]
    assert not cells[1].any()


def test_a_grid_is_rounded_up() -> None:
    mask = torch.zeros(5, 9, dtype=torch.bool)
    mask[4, 8] = True
    cells = ignored_cells([mask], (5, 9))
    assert cells.shape == (1, 1, 2, 3) and cells[0, 0, 1, 2] and cells.sum() == 1


def test_cells_whose_centre_lies_in_a_box() -> None:
    boxes = torch.tensor([[0.4, 0.0, 2.4, 1.0], [0.6, 1.0, 3.0, 2.0]])
    cells = cells_in_boxes(boxes, torch.tensor([0, 1]), 3, (2, 3))
    assert cells[0, 0].tolist() == [[True, True, False], [False] * 3]
    assert cells[1, 0].tolist() == [[False] * 3, [False, True, True]]
    assert not cells[2].any()


def test_no_boxes() -> None:
    none = cells_in_boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), 2, (3, 3))
    assert none.shape == (2, 1, 3, 3) and not none.any()


def test_cells_in_boxes_equal_a_loop_over_cells():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(40, 2, 2, generator=generator) * 16 - 3
    boxes = torch.cat([corners.amin(1), corners.amax(1)], 1)
    images = torch.randint(0, 3, (40,), generator=generator)
    found = cells_in_boxes(boxes, images, 3, (9, 11))
    for n in range(3):
        for y in range(9):
            for x in range(11):
                x1, y1, x2, y2 = boxes[images == n].unbind(1)
                inside = (x + 0.5 >= x1) & (x + 0.5 < x2) & (y + 0.5 >= y1) & (y + 0.5 < y2)
                assert found[n, 0, y, x] == inside.any()
