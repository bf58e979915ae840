"""The package where PyTorch, Detectron2 and all that they bring are missing."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from runtime_support import write_model
from support import REPOSITORY

# `import` of a name that is None in sys.modules fails as if it was not installed.
HIDE = """
import sys
for name in ("torch", "torchvision", "detectron2", "cv2", "scipy", "pycocotools", "timm",
             "matplotlib", "yaml", "tqdm", "networkx", "safetensors", "tabulate", "onnx"):
    sys.modules[name] = None
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a Python without them."""
    return subprocess.run(
        [sys.executable, "-c", HIDE + code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


def test_prediction(tmp_path: Path):
    code = f"""
import numpy as np
from d2_multitask import runtime
result = runtime.Predictor({str(write_model(tmp_path / "a.onnx"))!r})(
    np.zeros((40, 60, 3), np.uint8))
print(result.boxes.shape, result.maps["sem_seg"].shape)
"""
    done = run(code)
    assert done.stdout == "(2, 4) (2, 40, 60)\n", done.stderr


def test_page(tmp_path: Path):
    words = ["--model", str(write_model(tmp_path / "a.onnx")), "--static", str(tmp_path / "page")]
    code = f"""
from d2_multitask.cli import view
view.onnxruntime_web.find = lambda folder: {{}}
sys.exit(view.main({words!r}))
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page" / "model.json").is_file()


@pytest.mark.parametrize(
    "code",
    [
        "import d2_multitask; d2_multitask.load_config",
        "from d2_multitask import MultitaskCenterNet",
        "from d2_multitask.config import load_config",
        "import d2_multitask.engine.predictor",
    ],
)
def test_everything_else_says_what_to_type(code):
    last = run(code).stderr.split("ImportError: ")[-1]
    assert "PyTorch is not installed." in last
    assert "python tools/install.py" in last


def test_questions_about_the_package_are_answered():
    code = "import d2_multitask as d; print(d.__version__, hasattr(d, '__wrapped__'))"
    assert run(code).stdout.split()[1] == "False"


def test_the_runtime_alone_imports_no_library_for_a_network():
    code = "import d2_multitask.runtime; print(sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = run(code).stdout
    assert "'PIL'" in loaded
    assert "onnxruntime" not in loaded
    assert "openvino" not in loaded


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_an_environment_of_three_packages(tmp_path: Path):
    """What `pip install d2_multitask[runtime]` installs, as links, and nothing else."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    (target,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    installed = Path(sysconfig.get_path("platlib"))
    names = ("numpy", "numpy.libs", "PIL", "pillow.libs", "onnxruntime", "flatbuffers", "google")
    for name in (*names, "packaging"):
        if (installed / name).exists():
            (target / name).symlink_to(installed / name)
    (target / "d2_multitask").symlink_to(REPOSITORY / "d2_multitask")
    code = f"""
import numpy as np
from d2_multitask.runtime import Predictor, draw
image = np.zeros((40, 60, 3), np.uint8)
result = Predictor({str(write_model(tmp_path / "a.onnx"))!r})(image)
print(draw(image, result).shape, len(result.to_coco(1)), len(result.sem_seg_to_coco(1)))
"""
    python = tmp_path / "venv/bin/python"
    command = [str(python), "-I", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "(427, 640, 3) 2 0\n", done.stderr


def test_the_example_in_the_docs(tmp_path: Path):
    text = (REPOSITORY / "docs/runtime.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    write_model(tmp_path / "model.onnx")
    shutil.copy(REPOSITORY / "docs/pictures/photographs/astronaut.jpg", tmp_path / "photo.jpg")
    done = run(f"import os; os.chdir({str(tmp_path)!r})\n{code}")
    assert done.stdout.startswith("person 0.9 ["), done.stderr
    assert (tmp_path / "drawn.png").is_file()
