"""Weight files: read without running code from them, matched to the model, reported in full.

- `reading.py`: file -> names and tensors; files that would have to run code are refused;
- `matching.py`: the file's names -> the model's names;
- `centernet.py`: names of another project; those of MAEs are in `modeling/mae/weights.py`;
- `report.py`: what matched, what kept its initial values, what was unused;
- `description.py`: config and names inside of a weight file;
- `checkpointer.py`: all this in Detectron2's `DetectionCheckpointer`.
"""

from __future__ import annotations

from d2_multitask.checkpoint.checkpointer import MultitaskCheckpointer, load_weights
from d2_multitask.checkpoint.description import Description, read_description
from d2_multitask.checkpoint.reading import read_checkpoint
from d2_multitask.checkpoint.report import LoadReport, ShapeMismatch

__all__ = [
    "Description",
    "LoadReport",
    "MultitaskCheckpointer",
    "ShapeMismatch",
    "load_weights",
    "read_checkpoint",
    "read_description",
]
