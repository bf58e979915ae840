"""PASCAL in Detail: eight kinds of labels of 10,100 images, from its own annotation file."""

from d2_multitask.data.datasets.pascal_in_detail.loader import (
    PascalInDetail,
    load_phase,
    register_detail_layout,
    register_pascal_in_detail,
    register_synthetic_in_detail,
)

__all__ = [
    "PascalInDetail",
    "load_phase",
    "register_detail_layout",
    "register_pascal_in_detail",
    "register_synthetic_in_detail",
]
