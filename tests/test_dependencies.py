"""The check at import, against fake libraries in a Python that sees no others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from d2_multitask import dependencies

ROOT = Path(__file__).resolve().parent.parent

TORCH = "class ops:\n    class torchvision:\n        nms = 1\n"
TORCH_WITHOUT_OPERATORS = "class ops:\n    class torchvision:\n        pass\n"
NMS_ERROR = "raise RuntimeError('operator torchvision::nms does not exist')"
SYMBOL_ERROR = "raise OSError('libtorch_cpu.so: undefined symbol: _ZN2at')"

REPOSITORY = "python tools/install.py"
PAIR = "python -m pip install torch==2.14.1 torchvision==0.29.1"


def check(folder: Path, libraries: dict[str, str]) -> str:
    """Run the check where only `libraries` (name -> source) exist; return the last error text."""
    for name, source in libraries.items():
        package = folder / name.replace(".", "/")
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text(source)
        if "." not in name:
            info = folder / f"{name}-1.2.3.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2.3\n")
    script = ROOT / "d2_multitask" / "dependencies.py"
    code = f"import runpy; runpy.run_path({str(script)!r})['check_dependencies']()"
    result = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stderr.split("ImportError: d2_multitask cannot start. ")[-1]


COMPLETE = {
    "torch": TORCH,
    "torchvision": "",
    "cv2": "",
    "detectron2": "",
    "detectron2.data": "",
    "detectron2.modeling": "",
    **dict.fromkeys(dependencies.TRAIN_PACKAGES, ""),
}


def test_complete_set_is_accepted(tmp_path):
    assert check(tmp_path, COMPLETE) == ""


CASES = {
    "nothing-installed": (
        dict.fromkeys(COMPLETE),
        ["PyTorch is not installed.", "torch missing", REPOSITORY, PAIR],
    ),
    "torch-does-not-load": (
        {"torch": SYMBOL_ERROR},
        ["PyTorch is installed but does not load", "undefined symbol", "torch 1.2.3", REPOSITORY],
    ),
    "torchvision-missing": (
        {"torchvision": None},
        ["torchvision is not installed.", "torch 1.2.3", "torchvision missing", PAIR],
    ),
    "torchvision-of-another-torch": (
        {"torchvision": NMS_ERROR},
        ["torchvision is installed but does not load", "nms", "torchvision 1.2.3", PAIR],
    ),
    "torchvision-without-operators": (
        {"torch": TORCH_WITHOUT_OPERATORS},
        ["torchvision's compiled operators do not load with this PyTorch", PAIR],
    ),
    "detectron2-missing": (
        {name: None for name in COMPLETE if name.startswith("detectron2")},
        ["Detectron2 is not installed.", "detectron2 missing", REPOSITORY],
    ),
    "detectron2-of-another-torch": (
        {"detectron2.modeling": "raise ImportError('detectron2/_C.so: undefined symbol')"},
        ["Detectron2 is installed but does not load", "must be built again", REPOSITORY],
    ),
    "setuptools-without-pkg_resources": (
        {"detectron2.data": "import pkg_resources"},
        ["Detectron2 needs another setuptools (missing)", "pip install 'setuptools<81'"],
    ),
    "iopath-too-new": (
        {"detectron2": "from iopath.common import OldHandler", "iopath": "", "iopath.common": ""},
        ["Detectron2 needs another iopath (1.2.3)", "pip install 'iopath>=0.1.7,<0.1.10'"],
    ),
    "opencv-missing": (
        {"cv2": None},
        ["OpenCV is not installed.", REPOSITORY, "pip install opencv-python-headless"],
    ),
    "opencv-without-system-libraries": (
        {"cv2": "raise ImportError('libGL.so.1: cannot open shared object file')"},
        ["OpenCV is installed but does not load", "libGL", "pip install opencv-python-headless"],
    ),
    "the-extra-missing": (
        {"timm": None, "yaml": None},
        ["timm, PyYAML are not installed.", REPOSITORY, "pip install 'd2_multitask[train]'"],
    ),
    "another-package-missing": (
        {"detectron2.data": "import termcolor"},
        ["No module named 'termcolor'", "python -m pip install termcolor"],
    ),
}


@pytest.mark.parametrize(("changes", "said"), CASES.values(), ids=CASES)
def test_message_says_what_is_wrong_and_what_to_type(tmp_path, changes, said):
    libraries = {**COMPLETE, **changes}
    message = check(tmp_path, {k: v for k, v in libraries.items() if v is not None})
    for text in said:
        assert text in message
