"""A trained network as one file that runs without this package, PyTorch and Detectron2.

``network`` is what is recorded, ``model_json`` what the file says about itself, ``files`` writes
it, ``compare`` proves that it answers as the network does, ``int8`` quantises it.
"""

from d2_multitask.export.compare import compare_file
from d2_multitask.export.files import export_file
from d2_multitask.export.int8 import quantize_file

__all__ = ["compare_file", "export_file", "quantize_file"]
