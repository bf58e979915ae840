"""What a built wheel and source archive hold, what git keeps, and what `import` gives."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import d2_multitask
from d2_multitask import dependencies

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = {p.relative_to(ROOT).as_posix(): p for p in (ROOT / "configs").rglob("*.*")}
BUILD_FILES = [
    "LICENSE",
    "MANIFEST.in",
    "Makefile",
    "README.md",
    "d2mt.py",
    "pyproject.toml",
    "setup.py",
]


@pytest.fixture(scope="module")
def source_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built, because a build leaves files in its tree."""
    tree = tmp_path_factory.mktemp("source")
    for name in BUILD_FILES:
        shutil.copy(ROOT / name, tree)
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("configs", "d2_multitask"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    return tree


@pytest.fixture(scope="module")
def wheel(source_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel that `pip wheel . --no-deps` builds after an earlier build of an older tree."""
    stale = source_tree / "build" / "lib" / "d2_multitask" / "configs" / "removed.yaml"
    stale.parent.mkdir(parents=True)
    stale.touch()
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(target)]
    subprocess.run([*command, *options, str(source_tree)], check=True)
    (path,) = target.glob("*.whl")
    return zipfile.ZipFile(path)


def read_metadata(wheel: zipfile.ZipFile) -> dict[str, list[str]]:
    (path,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    message = Parser().parsestr(wheel.read(path).decode())
    return {key: message.get_all(key) for key in message.keys()}


def test_wheel_holds_the_config_files_and_no_stale_ones(wheel):
    packed = {n for n in wheel.namelist() if n.startswith("d2_multitask/configs/")}
    assert packed == {f"d2_multitask/{name}" for name in CONFIGS}
    for name, path in CONFIGS.items():
        assert wheel.read(f"d2_multitask/{name}") == path.read_bytes()


def test_wheel_holds_every_module_and_nothing_else(wheel):
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "d2_multitask").rglob("*.py")}
    for folder in ("weights", "viewer/static"):
        files = (ROOT / "d2_multitask" / folder).iterdir()
        modules |= {path.relative_to(ROOT).as_posix() for path in files}
    modules.add("d2mt.py")
    packed = {n for n in wheel.namelist() if ".dist-info/" not in n and "/configs/" not in n}
    assert packed == modules


def test_wheel_has_the_console_script(wheel):
    (path,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "d2mt = d2mt:main" in wheel.read(path).decode()


def test_config_is_found_in_an_unpacked_wheel(wheel, tmp_path):
    wheel.extractall(tmp_path)
    path = tmp_path / "d2_multitask" / "model_configs.py"
    spec = importlib.util.spec_from_file_location("unpacked_model_configs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = Path(module.get_config_file("quick/mcn_seg_det_pose.yaml"))
    assert found == tmp_path / "d2_multitask" / "configs" / "quick" / "mcn_seg_det_pose.yaml"


def test_metadata_leaves_the_choice_of_torch_to_the_machine(wheel):
    metadata = read_metadata(wheel)
    assert metadata["Version"] == [d2_multitask.__version__]
    required = [r for r in metadata["Requires-Dist"] if "extra ==" not in r]
    for name in ("torch", "torchvision", "detectron2", "sal-detectron2", "opencv"):
        assert not [r for r in required if r.startswith(name)]
    assert {"dev", "fast-eval", "safetensors"} <= set(metadata["Provides-Extra"])
    assert any(n.endswith("LICENSE") and ".dist-info/" in n for n in wheel.namelist())


def test_the_runtime_needs_three_packages(wheel):
    required = read_metadata(wheel)["Requires-Dist"]
    plain = {r.split(">")[0] for r in required if "extra ==" not in r}
    assert plain == {"numpy", "Pillow"}
    extra = [r for r in required if re.search(r"extra == .runtime.", r)]
    assert [r.split(">")[0] for r in extra] == ["onnxruntime"]


def test_the_extra_train_is_what_is_checked_at_import(wheel):
    required = read_metadata(wheel)["Requires-Dist"]
    train = {re.split(r"\W", r)[0] for r in required if re.search(r"extra == .train.", r)}
    assert train == set(dependencies.TRAIN_PACKAGES.values())


def test_source_archive_can_be_built_again(source_tree, tmp_path):
    command = [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", str(tmp_path)]
    subprocess.run(command, cwd=source_tree, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    names = {name.partition("/")[2] for name in tarfile.open(archive).getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "setup.py", *CONFIGS} <= names


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        pytest.param(".venv/bin/python", True, id="environment"),
        pytest.param("output/demo/results.json", True, id="output"),
        pytest.param("datasets/synthetic_people/train/images/0.png", True, id="drawn-data"),
        pytest.param("datasets/coco/annotations/a.json", True, id="coco"),
        pytest.param("datasets/synthetic_people/readme.py", True, id="script-inside-data"),
        pytest.param("datasets/prepare_synthetic_people.py", False, id="script"),
        pytest.param("datasets/convert/yolo.py", False, id="converter"),
        pytest.param("datasets/README.md", False, id="drawing-of-the-folders"),
        pytest.param("d2_multitask/data/mapper.py", False, id="package-data"),
        pytest.param("tests/data/test_mapper.py", False, id="tests-of-data"),
        pytest.param("d2_multitask/heads/build.py", False, id="module-called-build"),
        pytest.param("docs/pictures/synthetic.png", False, id="picture-for-docs"),
    ],
)
def test_git_ignores_data_but_not_code(tmp_path, path, ignored):
    shutil.copy(ROOT / ".gitignore", tmp_path)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    command = ["git", "check-ignore", "--quiet", path]
    assert (subprocess.run(command, cwd=tmp_path, check=False).returncode == 0) == ignored


def test_import_gives_the_public_names():
    for name in d2_multitask.__all__:
        assert getattr(d2_multitask, name) is not None


def test_import_registers_everything():
    from detectron2.data import DatasetCatalog
    from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY

    assert {"seg", "det", "pose"} <= {name for name, _ in d2_multitask.TASK_HEAD_REGISTRY}
    assert "MultitaskCenterNet" in META_ARCH_REGISTRY
    assert "build_resnet_fpn_stride4_backbone" in BACKBONE_REGISTRY
    assert "build_feature_fpn_stride4_backbone" in BACKBONE_REGISTRY
    for name in ("synthetic_people_train", "synthetic_people_val", "coco_person_2017_val"):
        assert name in DatasetCatalog
