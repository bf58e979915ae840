"""tools/install.py without a network: what it would install, its repacked wheel, its failures."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from d2_multitask import dependencies

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def install() -> ModuleType:
    """A fresh copy of the script as a module, so that a test may replace its functions."""
    spec = importlib.util.spec_from_file_location("install_tool", ROOT / "tools" / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pip_calls(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Replaces pip; the list receives the arguments of each call."""
    calls: list[list[str]] = []
    monkeypatch.setattr(install, "pip", lambda *arguments, hint: calls.append(list(arguments)))
    monkeypatch.setattr(install, "require", lambda code, problem: None)
    return calls


@pytest.fixture
def upstream_wheel(tmp_path: Path) -> Path:
    """A tiny wheel with the traits of sal-detectron2 that the script must deal with."""
    path = tmp_path / "sal_detectron2-0.7.2-cp310-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("detectron2/__init__.py", "__version__ = '0.7.2'\n")
        wheel.writestr("detectron2/model_zoo/configs/Base.yaml", "A: 1\n")
        wheel.writestr("detectron2/_C.cpython-310-x86_64-linux-gnu.so", b"\x7fELF")
        wheel.writestr("tools/__init__.py", "")
        wheel.writestr("sal_detectron2-0.7.2.dist-info/LICENSE", "Apache License")
        wheel.writestr("sal_detectron2-0.7.2.dist-info/METADATA", "Requires-Dist: numpy<2\n")
        wheel.writestr("sal_detectron2-0.7.2.dist-info/RECORD", "")
    return path


# --- what is installed, and what is left alone ----------------------------------------------------


def found(install: ModuleType, monkeypatch: pytest.MonkeyPatch, *working: str) -> None:
    """Pretend that exactly these probes succeed."""
    codes = [getattr(install, name) for name in working]
    monkeypatch.setattr(install, "works", lambda code: code in codes)


def test_all_found_installs_only_build_tools_and_project(install, pip_calls, monkeypatch, capsys):
    found(install, monkeypatch, "TORCH_PROBE", "DETECTRON2_PROBE", "OPENCV_PROBE")
    monkeypatch.setattr(install, "remove_half_installed", lambda: None)
    monkeypatch.setattr(sys, "argv", ["install.py"])
    assert install.main() == 0
    packages = [install.BUILD_TOOLS[-1], f"{ROOT}[dev]", install.METRICS_REFERENCE]
    assert [call[-1] for call in pip_calls] == packages
    assert "Installed." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("index_url", "expected"),
    [
        pytest.param(None, [], id="default-index"),
        pytest.param("file:///cpu", ["--index-url", "file:///cpu"], id="index-of-cpu-builds"),
    ],
)
def test_missing_torch_is_installed_as_a_pinned_pair(
    install, pip_calls, monkeypatch, index_url, expected
):
    found(install, monkeypatch)
    install.install_torch(index_url)
    assert pip_calls == [["install", "torch==2.14.1", "torchvision==0.29.1", *expected]]


def test_message_at_import_names_the_same_torch(install):
    assert dependencies.TORCH_COMMAND.split()[-2:] == install.TORCH


def test_source_build_sees_the_installed_torch_and_is_pinned(install, pip_calls, monkeypatch):
    found(install, monkeypatch)
    install.install_detectron2("source")
    ((command, isolation, url),) = pip_calls
    assert (command, isolation) == ("install", "--no-build-isolation")
    assert url.endswith(f"/facebookresearch/detectron2.git@{install.SOURCE_COMMIT}")
    assert len(install.SOURCE_COMMIT) == 40


def test_works_reports_what_it_found(install, capsys):
    assert install.works("print('Thing 1.2')")
    assert "Found Thing 1.2: left alone." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "said"),
    [
        pytest.param("import no_such_module_at_all", "", id="missing-is-silent"),
        pytest.param("raise RuntimeError('nms is gone')", "RuntimeError: nms is gone", id="broken"),
        pytest.param("import os; os._exit(3)", "no message", id="crash-without-a-word"),
    ],
)
def test_what_does_not_work_is_installed_anew(install, capsys, code, said):
    assert not install.works(code)
    out = capsys.readouterr().out
    assert said in out
    assert bool(said) == bool(out)


# --- the Detectron2 wheel -------------------------------------------------------------------------


def test_repacked_wheel_holds_only_python_code_and_data(install, upstream_wheel, tmp_path):
    target = install.repack_wheel(upstream_wheel, tmp_path)
    assert target.name == "detectron2-0.7.2+sal-py3-none-any.whl"
    info = "detectron2-0.7.2+sal.dist-info"
    assert sorted(zipfile.ZipFile(target).namelist()) == sorted(
        ["detectron2/__init__.py", "detectron2/model_zoo/configs/Base.yaml"]
        + [f"{info}/{name}" for name in ("LICENSE", "METADATA", "RECORD", "WHEEL")]
    )


def test_record_of_repacked_wheel_is_true(install, upstream_wheel, tmp_path):
    wheel = zipfile.ZipFile(install.repack_wheel(upstream_wheel, tmp_path))
    record_path = "detectron2-0.7.2+sal.dist-info/RECORD"
    rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(wheel.read(record_path).decode()))}
    assert rows.pop(record_path) == ["", ""]
    assert set(rows) == set(wheel.namelist()) - {record_path}
    for path, (digest, size) in rows.items():
        data = wheel.read(path)
        expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        assert (digest, size) == (f"sha256={expected}", str(len(data)))


def test_pip_accepts_the_repacked_wheel(install, upstream_wheel, tmp_path):
    wheel = install.repack_wheel(upstream_wheel, tmp_path)
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    quiet = ["--quiet", "--no-deps", "--no-index", "--no-compile", "--target", str(site)]
    subprocess.run([*pip, "install", *quiet, str(wheel)], check=True)
    code = (
        "import detectron2, importlib.metadata as m; d = m.distribution('detectron2'); "
        "print(detectron2.__version__, d.version, *d.requires, sep='|')"
    )
    command = [sys.executable, "-S", "-c", code]
    output = subprocess.run(
        command, env={"PYTHONPATH": str(site)}, capture_output=True, text=True, check=True
    ).stdout
    version, distribution, *requires = output.strip().split("|")
    assert (version, distribution) == ("0.7.2", "0.7.2+sal")
    assert "numpy" in requires
    assert "setuptools<81" in requires
    assert not [name for name in requires if name.startswith("black")]


def test_wheel_of_another_content_is_refused(install, monkeypatch, tmp_path):
    def fake_download(*arguments: str, hint: str) -> None:
        (tmp_path / "sal_detectron2-0.7.2-cp310-none-any.whl").write_bytes(b"something else")

    monkeypatch.setattr(install, "pip", fake_download)
    with pytest.raises(install.StepError) as error:
        install.download_wheel(tmp_path)
    assert hashlib.sha256(b"something else").hexdigest() in str(error.value)
    assert install.WHEEL_SHA256 in str(error.value)


# --- interruptions and failures -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base_prefix", "torso_left"),
    [
        pytest.param("/usr", False, id="virtual-environment"),
        pytest.param("/env", True, id="python-of-the-system"),
    ],
)
def test_half_installed_packages_are_forgotten(
    install, monkeypatch, tmp_path, base_prefix, torso_left
):
    complete, torso = tmp_path / "numpy-2.0.dist-info", tmp_path / "torch-2.14.1.dist-info"
    for folder in (complete, torso):
        folder.mkdir()
        (folder / "METADATA").write_text("Name: x\n")
    (complete / "RECORD").write_text("")
    monkeypatch.setattr(install.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(install.sys, "prefix", "/env")
    monkeypatch.setattr(install.sys, "base_prefix", base_prefix)
    install.remove_half_installed()
    assert complete.exists()
    assert torso.exists() == torso_left


@pytest.mark.parametrize(
    ("outcome", "code", "said"),
    [
        pytest.param(KeyboardInterrupt(), 130, "Run the same command again", id="interrupted"),
        pytest.param("StepError", 1, "FAILED in step 2 of 5 (PyTorch", id="failed"),
    ],
)
def test_stopped_step_is_named_without_traceback(install, monkeypatch, capsys, outcome, code, said):
    def stop(index_url: str | None) -> None:
        raise install.StepError("what to try") if outcome == "StepError" else outcome

    monkeypatch.setattr(install, "install_build_tools", lambda: None)
    monkeypatch.setattr(install, "install_torch", stop)
    monkeypatch.setattr(sys, "argv", ["install.py"])
    assert install.main() == code
    captured = capsys.readouterr()
    assert said in captured.out
    assert "Traceback" not in captured.out + captured.err


def test_failing_pip_shows_command_and_hint(install):
    with pytest.raises(install.StepError) as error:
        install.pip("no-such-pip-command", hint="try something else")
    assert "pip no-such-pip-command" in str(error.value)
    assert "try something else" in str(error.value)


# --- the Makefile around it -----------------------------------------------------------------------

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@needs_make
def test_help_is_the_default_and_lists_every_target():
    output = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    listed = {line.split()[0] for line in output.splitlines()}
    assert {"install", "demo", "test", "test-slow", "test-nightly", "lint", "format"} <= listed


@needs_make
def test_photographs_are_looked_for_before_the_installation():
    command = ["make", "--dry-run", "people", "IMAGES=none"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "IMAGES: found no none, expected a folder" in done.stderr


@needs_make
def test_stamp_is_written_only_by_a_complete_installation(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "tools").mkdir()
    (tmp_path / "setup.py").touch()
    installer = tmp_path / "tools" / "install.py"
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    stamp = tmp_path / ".venv" / ".installed"

    def make_install(script: str) -> subprocess.CompletedProcess[str]:
        installer.write_text(script)
        os.utime(installer, (0, 0))  # older than any stamp: only the stamp's absence counts
        os.utime(tmp_path / "setup.py", (0, 0))
        return subprocess.run(
            ["make", "--no-print-directory", "install"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    assert make_install("import sys; sys.exit(130)").returncode != 0
    assert not stamp.exists()
    assert make_install("print('installing')").stdout == "installing\n"
    assert stamp.exists()
    assert "installing" not in make_install("print('installing')").stdout
