"""Installs what d2_multitask needs into the Python that runs this script.

    python tools/install.py                      # Detectron2 from the package index
    python tools/install.py --detectron2 source  # built from upstream's source (git, C++ compiler)

A PyTorch with a torchvision that fits, a Detectron2 and an OpenCV that import are left alone.
Repeating the script is quick, and harmless at any point: what an interrupted pip left half
installed is installed again.

Why Detectron2 needs a script: it is not on the package index under its own name. The wheel
sal-detectron2 holds upstream's Python code, but installed as it is it gets in the way:

- it is marked for Python 3.10, because of one compiled file made for an old PyTorch. The Python
  code runs on 3.10-3.12 without that file (Detectron2 then lacks its deformable convolutions and
  its rotated boxes, which nothing here uses);
- it demands numpy<2 and black, which the code does not need, and forgets fvcore and iopath;
- it drops a package called `tools` into site-packages.

So this script downloads the wheel, checks its SHA-256, and repacks the folder `detectron2` without
the compiled file as a wheel `detectron2` whose metadata is correct. pip installs that one, so
`pip list`, `pip check` and `pip uninstall detectron2` work as for any package.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

TORCH = ["torch==2.14.1", "torchvision==0.29.1"]
# PyTorch 2.14 needs 77.0.3 or newer; Detectron2's model zoo needs pkg_resources, removed in 81.
BUILD_TOOLS = ["setuptools>=77.0.3,<81", "wheel"]

WHEEL_REQUIREMENT = "sal-detectron2==0.7.2"
WHEEL_SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
DETECTRON2_VERSION = "0.7.2+sal"  # what the code calls itself, plus where it comes from
DETECTRON2_METADATA = f"""\
Metadata-Version: 2.1
Name: detectron2
Version: {DETECTRON2_VERSION}
Summary: Detectron2's Python code, repacked from {WHEEL_REQUIREMENT} by d2_multitask
Home-page: https://github.com/facebookresearch/detectron2
License: Apache-2.0
Requires-Python: >=3.8
Requires-Dist: Pillow>=7.1
Requires-Dist: cloudpickle
Requires-Dist: fvcore<0.1.6,>=0.1.5
Requires-Dist: hydra-core>=1.1
Requires-Dist: iopath<0.1.10,>=0.1.7
Requires-Dist: matplotlib
Requires-Dist: numpy
Requires-Dist: omegaconf<2.4,>=2.1
Requires-Dist: packaging
Requires-Dist: pycocotools>=2.0.2
Requires-Dist: scipy>1.5.1
Requires-Dist: setuptools<81
Requires-Dist: tabulate
Requires-Dist: tensorboard
Requires-Dist: termcolor>=1.1
Requires-Dist: tqdm>4.29.0
Requires-Dist: yacs>=0.1.8
"""
METRICS_REFERENCE = "pysodmetrics==1.6.2"
SOURCE = "git+https://github.com/facebookresearch/detectron2.git"
SOURCE_COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"  # main, 6 June 2026

# Each line is run by a new Python: it fails if the library does not work, else prints its version.
# torchvision can import without its operators, hence nms. A PyTorch unknown to pip (hence version)
# would be installed again with the first package that needs it. model_zoo needs pkg_resources.
TORCH_PROBE = (
    "import torch, torchvision; from importlib.metadata import version; "
    "torch.ops.torchvision.nms; version('torch'); version('torchvision'); "
    "print('PyTorch', torch.__version__, 'with torchvision', torchvision.__version__)"
)
DETECTRON2_PROBE = (
    "import detectron2, detectron2.engine, detectron2.model_zoo; "
    "print('Detectron2', detectron2.__version__, 'in', detectron2.__path__[0])"
)
OPENCV_PROBE = "import cv2; print('OpenCV', cv2.__version__)"
PROJECT_PROBE = (
    "import d2_multitask; print('d2_multitask', d2_multitask.__version__, d2_multitask.__path__[0])"
)


class StepError(Exception):
    """A step failed; the text says what was tried and what to do."""


def main() -> int:
    args = parse_args()
    # When told to end, end as on Ctrl-C: the program that runs just now must not continue alone.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if sys.version_info < (3, 10):  # noqa: UP036 (the other parts of the project cannot say it)
        print(f"Found Python {sys.version.split()[0]}, expected 3.10, 3.11 or 3.12.")
        return 1
    print(f"Installing into {sys.prefix} (Python {sys.version.split()[0]})")
    steps: list[tuple[str, Callable[[], None]]] = [
        ("build tools", install_build_tools),
        ("PyTorch and torchvision", lambda: install_torch(args.torch_index_url)),
        ("Detectron2", lambda: install_detectron2(args.detectron2)),
        ("OpenCV", install_opencv),
        ("d2_multitask, its dependencies and the development tools", install_project),
    ]
    for number, (title, step) in enumerate(steps, start=1):
        print(f"\n[{number}/{len(steps)}] {title}", flush=True)
        try:
            step()
        except StepError as error:
            print(f"\nFAILED in step {number} of {len(steps)} ({title}).\n{error}", flush=True)
            return 1
        except KeyboardInterrupt:
            print(f"\nInterrupted in step {number} of {len(steps)} ({title}).")
            print("Run the same command again to go on; finished steps are kept.")
            return 130
    print("\nInstalled.")
    return 0


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--detectron2",
        choices=["wheel", "source"],
        default="wheel",
        help="where Detectron2 comes from if none is installed: the package index, or a build of "
        "upstream's source, which also has the compiled operators (default: %(default)s); to "
        "exchange an installed one: python -m pip uninstall detectron2, then this",
    )
    parser.add_argument(
        "--torch-index-url",
        metavar="URL",
        help="package index to take PyTorch from if none is installed, for example PyTorch's own "
        "index of CPU builds, which are far smaller (default: pip's index)",
    )
    return parser.parse_args()


# ---------------------------------------------------------------------------------------------
# Steps
# ---------------------------------------------------------------------------------------------


def install_build_tools() -> None:
    remove_half_installed()
    pip("install", "--quiet", *BUILD_TOOLS, hint="Check the network, then repeat.")


def install_torch(index_url: str | None) -> None:
    if works(TORCH_PROBE):
        return
    print("About 6 GB on the disk with the CUDA libraries of the Linux build; a few minutes.")
    pip(
        "install",
        *TORCH,
        *(["--index-url", index_url] if index_url else []),
        hint="Check network and free disk space, then repeat. If there is no such build for this "
        "machine, install a torch and a torchvision of your choice as pytorch.org says, then "
        "repeat: a pair that works is left alone.",
    )
    require(TORCH_PROBE, "torch and torchvision do not work together.")


def install_detectron2(origin: str) -> None:
    if works(DETECTRON2_PROBE):
        return
    if origin == "source":
        print("This compiles C++ code for some minutes.")
        pip(
            "install",
            "--no-build-isolation",  # the build imports the PyTorch that is installed here
            f"{SOURCE}@{SOURCE_COMMIT}",
            hint="The build needs git, a C++ compiler (g++ or clang) and the headers of Python. "
            "Without them: python tools/install.py --detectron2 wheel",
        )
    else:
        with tempfile.TemporaryDirectory() as folder:
            repack_wheel(download_wheel(Path(folder)), Path(folder))
            pip(
                "install",
                *("--find-links", folder),
                f"detectron2=={DETECTRON2_VERSION}",
                hint="Check the network, then repeat.",
            )
    require(DETECTRON2_PROBE, "Detectron2 was installed but does not import.")


def install_opencv() -> None:
    if works(OPENCV_PROBE):
        return
    pip("install", "opencv-python-headless", hint="Check the network, then repeat.")
    require(OPENCV_PROBE, "OpenCV was installed but does not import.")


def install_project() -> None:
    pip(
        "install",
        "--quiet",
        "--no-build-isolation",  # the build tools are there already: nothing to download
        *("--editable", f"{ROOT}[dev]"),
        hint="Check the network, then repeat.",
    )
    require(PROJECT_PROBE, "d2_multitask was installed but does not import.")
    # A reference for a test. It would require an older NumPy and OpenCV, and scikit-learn, of
    # which the module that the test reads needs nothing.
    pip(
        "install", "--quiet", "--no-deps", METRICS_REFERENCE, hint="Check the network, then repeat."
    )


def remove_half_installed() -> None:
    """Forget packages whose installation by pip was cut off, so that pip installs them again.

    pip writes a package's RECORD last. If it is killed before, it takes the torso for the installed
    package ever after. Only done in a virtual environment: other package managers may leave out
    RECORD on purpose.
    """
    if sys.prefix == sys.base_prefix:
        return
    for site in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for info in sorted(Path(site).glob("*.dist-info")):
            if not (info / "RECORD").exists():
                print(f"{info.name} was installed only in part; it will be installed again.")
                shutil.rmtree(info)


# ---------------------------------------------------------------------------------------------
# The Detectron2 wheel
# ---------------------------------------------------------------------------------------------


def download_wheel(folder: Path) -> Path:
    """Download sal-detectron2 into `folder` whatever this Python's version, and check it."""
    pip(
        *("download", "--quiet", "--no-deps", "--dest", str(folder), "--only-binary=:all:"),
        *("--python-version", "3.10", "--implementation", "cp", "--abi", "none"),
        *("--platform", "any", WHEEL_REQUIREMENT),
        hint="Check the network, then repeat; or build from upstream's source: "
        "python tools/install.py --detectron2 source",
    )
    (wheel,) = folder.glob("*.whl")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise StepError(
            f"{wheel.name} is not the file that was checked for this project.\n"
            f"  found SHA-256    {digest}\n  expected SHA-256 {WHEEL_SHA256}\n"
            "Nothing of it was installed. Try another package index or network, or build from "
            "upstream's source: python tools/install.py --detectron2 source"
        )
    return wheel


def repack_wheel(source: Path, folder: Path) -> Path:
    """Write a wheel `detectron2` with the Python code and data of `source` into `folder`."""
    name = f"detectron2-{DETECTRON2_VERSION}"
    target = folder / f"{name}-py3-none-any.whl"
    info = f"{name}.dist-info"
    record: list[str] = []
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:

        def add(path: str, data: bytes) -> None:
            new.writestr(path, data, zipfile.ZIP_DEFLATED)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            record.append(f"{path},sha256={digest},{len(data)}\n")

        for path in old.namelist():
            if path.startswith("detectron2/") and not path.endswith((".so", "/")):
                add(path, old.read(path))
            elif path.endswith(".dist-info/LICENSE"):
                add(f"{info}/LICENSE", old.read(path))
        add(f"{info}/WHEEL", b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        add(f"{info}/METADATA", DETECTRON2_METADATA.encode())
        new.writestr(f"{info}/RECORD", "".join(record) + f"{info}/RECORD,,\n")
    return target


# ---------------------------------------------------------------------------------------------
# Running things
# ---------------------------------------------------------------------------------------------


def pip(*arguments: str, hint: str) -> None:
    """Run pip with its output visible; explain a failure."""
    command = [sys.executable, "-m", "pip", *arguments]
    print(f"$ {shlex.join(['python', *command[1:]])}", flush=True)
    env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    code = subprocess.run(command, cwd=ROOT, env=env, check=False).returncode
    if code:
        raise StepError(f"  command: {shlex.join(command)}\n  exit code: {code}\n{hint}")


def works(code: str) -> bool:
    """Whether the library that `code` imports works; says what was found."""
    result = probe(code)
    if result.returncode == 0:
        print(f"Found {result.stdout.strip().splitlines()[-1]}: left alone.", flush=True)
        return True
    reason = last_line(result.stderr)
    if not reason.startswith("ModuleNotFoundError"):  # plainly missing needs no remark
        print(f"What is installed does not work ({reason}); installing anew.", flush=True)
    return False


def require(code: str, problem: str) -> None:
    """Check that what was just installed works, and print its version."""
    result = probe(code)
    if result.returncode:
        raise StepError(f"{problem}\n{result.stderr.strip()}")
    print(result.stdout.strip().splitlines()[-1], flush=True)


def probe(code: str) -> subprocess.CompletedProcess[str]:
    # Not in ROOT: there, Python would find the repository's folders before what is installed.
    command = [sys.executable, "-W", "ignore", "-c", code]
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no message"


if __name__ == "__main__":
    sys.exit(main())
