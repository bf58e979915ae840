"""Config keys of PASCAL in Detail's metrics."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_pascal_in_detail_config(cfg: CfgNode) -> None:
    """Add ``TEST.PASCAL_IN_DETAIL``.

    Args:
        cfg: the config to extend, in place.
    """
    cfg.TEST.PASCAL_IN_DETAIL = node = CfgNode()
    # Also give the numbers of the official evaluation code, with its defects, as "bbox-legacy",
    # "segm-legacy", "keypoints-legacy" and "image_labels-legacy".
    node.LEGACY = False
    # Thresholds of the boundary map. BSDS has 99; DOC has 33, in a third of the time.
    node.BOUNDARY_THRESHOLDS = 33
    # Largest distance of matched boundary pixels as a share of the image's diagonal: BSDS' value.
    node.BOUNDARY_MAX_DISTANCE = 0.0075
    # Processes that match boundaries beside the network; -1 = as many as there are processors,
    # 0 = none.
    node.NUM_WORKERS = -1
