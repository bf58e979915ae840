"""Object labels as an R-CNN learns from them: masks that are not copied, areas that do not count.

Letters: n objects, m sampled boxes, (H, W) network input. Boxes are xyxy, pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import ROIAlign
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor


class ImageLabels(Instances):
    """The labelled objects of one image and where its unlabelled ones are.

    Attributes:
        ignore_mask: (H, W) bool, crowds and remains of objects, neither object nor background;
            ``None`` if there are none.
    """

    def __init__(
        self, image_size: tuple[int, int], ignore_mask: Tensor | None = None, **fields: Any
    ) -> None:
        """
        Args:
            image_size: (H, W).
            ignore_mask: see the class.
            **fields: of ``Instances``.
        """
        super().__init__(image_size, **fields)
        self._ignore_mask = ignore_mask

    @property
    def ignore_mask(self) -> Tensor | None:
        """See the class."""
        return self._ignore_mask

    @classmethod
    def of(cls, entry: dict[str, Any], device: torch.device) -> ImageLabels:
        """From one entry of ``batched_inputs``; without ``instances`` there are no objects.

        Args:
            entry: with ``image`` (3, H, W) and perhaps ``instances`` and ``ignore_mask``.
            device: where the labels go.
        """
        height, width = entry["image"].shape[-2:]
        if "instances" not in entry:
            boxes = Boxes(torch.zeros((0, 4), device=device))
            classes = torch.zeros(0, dtype=torch.long, device=device)
            return cls((height, width), gt_boxes=boxes, gt_classes=classes)
        fields = entry["instances"].to(device).get_fields()
        if isinstance(fields.get("gt_masks"), BitMasks):
            fields = {**fields, "gt_masks": SharedBitMasks(fields["gt_masks"].tensor)}
        ignore_mask = entry.get("ignore_mask")
        if ignore_mask is not None:
            ignore_mask = ignore_mask.to(device)
        return cls((height, width), ignore_mask, **fields)


class SharedBitMasks(BitMasks):
    """Bit masks of which any number of rows can be taken without copying a pixel.

    Detectron2 gives each of its (typically 512) sampled boxes a copy of its object's whole mask,
    most of which it drops again.
    """

    def __init__(self, tensor: Tensor, index: Tensor | None = None) -> None:
        """
        Args:
            tensor: (n, H, W) masks.
            index: (m,) int64, the mask of each row; ``None`` = each its own.
        """
        super().__init__(tensor)
        self.index = torch.arange(len(tensor), device=tensor.device) if index is None else index

    def to(self, *args: Any, **kwargs: Any) -> SharedBitMasks:
        """See ``torch.Tensor.to``; the index goes along."""
        tensor = self.tensor.to(*args, **kwargs)
        return SharedBitMasks(tensor, self.index.to(tensor.device))

    def __getitem__(self, item: int | slice | Tensor) -> SharedBitMasks:
        """Rows; an ``int`` gives one row."""
        if isinstance(item, int):
            item = slice(item, item + 1 or None)
        return SharedBitMasks(self.tensor, self.index[item])

    def __len__(self) -> int:
        return len(self.index)

    def nonempty(self) -> Tensor:
        """(m,) bool: which rows' masks have a pixel."""
        return self.tensor.flatten(1).any(1)[self.index]

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """As in ``BitMasks``.

        Args:
            boxes: (m, 4), one for each row.
            mask_size: side of the result.

        Returns:
            (m, mask_size, mask_size) bool.
        """
        rois = torch.cat([self.index[:, None].to(boxes), boxes], 1)
        align = ROIAlign((mask_size, mask_size), 1.0, 0, aligned=True)
        return align(self.tensor[:, None].float(), rois)[:, 0] >= 0.5


def covered_share(boxes: Tensor, mask: Tensor) -> Tensor:
    """How much of each box lies on a mask.

    Args:
        boxes: (m, 4), of any position; corners are rounded to pixels.
        mask: (H, W) bool.

    Returns:
        (m,) float32 in [0, 1].
    """
    height, width = mask.shape
    # integral[y, x] = pixels of the mask above and left of (x, y); float64 counts them exactly.
    integral = torch.zeros((height + 1, width + 1), dtype=torch.float64, device=mask.device)
    integral[1:, 1:] = mask.double().cumsum(0).cumsum(1)
    x1, x2 = (boxes[:, i].round().long().clamp(0, width) for i in (0, 2))
    y1, y2 = (boxes[:, i].round().long().clamp(0, height) for i in (1, 3))
    on_mask = integral[y2, x2] - integral[y1, x2] - integral[y2, x1] + integral[y1, x1]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return (on_mask / area.clamp(min=1)).float().clamp(0, 1)
