"""What networks cost: time by part, memory, arithmetic, training steps, loading, evaluation.

`timing.py` and `parts.py` measure time, `networks.py` builds what is compared, `cost.py` and
`ratios.py` are the two reports, `training.py` and `evaluation.py` measure what happens around a
network, `pascal_in_detail.py` its metrics, `mae.py` masked autoencoders, `relation.py` what is
made of their errors. Everything that is compared runs in turn in one process: read ratios, not
seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "datasets"))  # synthetic/ draws images

from benchmark.loop_targets import loop_targets
from benchmark.people import random_people
from benchmark.timing import Timing, paired_ratio, time_interleaved

__all__ = ["Timing", "loop_targets", "paired_ratio", "random_people", "time_interleaved"]
