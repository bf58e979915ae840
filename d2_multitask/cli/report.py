"""Measures a network as `d2mt eval` does, and writes a page that shows its errors.

    d2mt report --model output/demo/model_final.pth
    d2mt report --model model_int8.onnx --config-file configs/quick/mcn_seg_det_pose.yaml

The report is OUTPUT_DIR/report.html (one file, all pictures inside) and report.md, by default in
output/eval. Options are those of `d2mt eval`, which writes the same with TEST.REPORT True.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from d2_multitask.cli import eval as evaluation


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; ``None`` = the command line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return evaluation.main(words, ["TEST.REPORT", "True"], __doc__)
