"""Packaging of d2_multitask.

PyTorch, torchvision, Detectron2 and OpenCV are in no list. Which build of them is right depends on
the machine, and pip, asked for them, might replace a working one. `tools/install.py` installs them
where they are missing, and the extra `train`; `import d2_multitask` says what to type if something
still is. `install_requires` holds only what prediction with exported networks needs in any case, so
that `d2_multitask[runtime]` is small.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent

EXTRAS = {
    # all but prediction with exported networks, on top of PyTorch, torchvision, Detectron2, OpenCV
    "train": [
        "matplotlib",
        "networkx>=2.8",  # communities of patches; PyTorch needs it as well
        "pycocotools>=2.0.4",
        "PyYAML",
        "scipy",
        "tabulate",
        "safetensors>=0.4",
        "timm>=1.0",
        "tqdm",
    ],
    # writing them; OpenVINO's int8 needs nncf as well
    "export": ["onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.20"],
    # prediction with exported networks; on a Python without anything else, too
    "runtime": ["onnxruntime>=1.20"],
    "openvino": ["openvino>=2024.4"],  # the same in OpenVINO
    # tracks in videos, together with "runtime"; and their scores (HOTA, MOTA, IDF1)
    "video": ["opencv-python-headless", "scipy"],
    "track-eval": ["trackeval>=1.3"],
    "safetensors": ["safetensors>=0.4"],
    # COCO's metrics more than ten times faster than with pycocotools; files of predictions, too
    "fast-eval": ["hotcoco>=1.3", "orjson>=3.9"],
    "graph": ["networkit>=11"],  # communities of large graphs (patch_graph), tens of times faster
    "surgery": ["torchjd[quadprog-projector]>=0.18"],  # SOLVER.LOSS_BALANCING "upgrad"
    # LOGGERS
    "mlflow": ["mlflow>=2.14"],
    "wandb": ["wandb>=0.19"],
    "transformers": ["transformers>=4.40"],  # compares our MAE with theirs (tools/benchmark.py mae)
}


class BuildWithConfigs(build_py):
    """Copies `configs/` into the built package, so that a wheel finds its config files.

    They stay at the top of the repository, where people look for them. A symbolic link inside the
    package would do the same but shows every file twice and breaks on Windows.
    """

    def run(self):
        super().run()
        if self.editable_mode:  # an editable install reads the repository's own folder
            return
        target = Path(self.build_lib) / "d2_multitask" / "configs"
        shutil.rmtree(target, ignore_errors=True)  # of an earlier build, maybe with old files
        for source in self._config_files():
            copy = target / source.relative_to(ROOT / "configs")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)

    def get_outputs(self, include_bytecode=True):
        outputs = super().get_outputs(include_bytecode)
        if self.editable_mode:
            return outputs
        package = Path(self.build_lib) / "d2_multitask"
        return outputs + [str(package / path.relative_to(ROOT)) for path in self._config_files()]

    @staticmethod
    def _config_files():
        return sorted(p for p in (ROOT / "configs").rglob("*") if p.suffix in (".yaml", ".py"))


def read_version() -> str:
    """The version is written once, in the package; importing it here would need PyTorch."""
    text = (ROOT / "d2_multitask" / "version.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    if match is None:
        raise ValueError('d2_multitask/version.py has no line like: __version__ = "1.2.3"')
    return match.group(1)


setup(
    name="d2_multitask",
    version=read_version(),
    description="Multitask networks and anchor-free detection of people, on Detectron2",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    py_modules=["d2mt"],
    packages=find_packages(include=["d2_multitask", "d2_multitask.*"]),
    package_data={"d2_multitask": ["weights/*", "viewer/static/*"]},
    python_requires=">=3.10",
    install_requires=["numpy", "Pillow>=9.1"],
    extras_require={
        **EXTRAS,
        "dev": [
            *("hypothesis", "pytest", "pytest-xdist", "ruff"),
            *EXTRAS["train"],
            *EXTRAS["export"],
            *EXTRAS["openvino"],
            *EXTRAS["fast-eval"],
        ],
    },
    entry_points={"console_scripts": ["d2mt = d2mt:main"]},
    cmdclass={"build_py": BuildWithConfigs},
)
