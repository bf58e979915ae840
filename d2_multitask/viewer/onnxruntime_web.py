"""onnxruntime-web, ONNX Runtime for browsers: two files of its npm package."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

logger = logging.getLogger(__name__)

NAME, VERSION = "onnxruntime-web", "1.30.0"
# The checksum of the archive in npm's registry: npm view onnxruntime-web@1.30.0 dist.integrity
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
# Name on the page -> name in the package's dist/. A module must end in .js there: not every web
# server knows .mjs.
FILES = {
    "onnxruntime.js": "ort.wasm.bundle.min.mjs",
    "ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}


def find(folder: Path | None = None) -> dict[str, Path]:
    """The files of ONNX Runtime that the page loads.

    Args:
        folder: the unpacked package, or a folder whose ``node_modules`` has it; ``None`` = that of
            the working folder, if it has this version; else the user's cache, which is filled with
            npm once.

    Returns:
        Name on the page -> file.

    Raises:
        FileNotFoundError: ``folder`` holds no such package; npm is missing.
        ValueError: ``folder`` holds another version; the archive has another checksum.
        OSError: npm cannot fetch it.
    """
    for package in _places(folder or Path()):
        files = {name: package / "dist" / file for name, file in FILES.items()}
        if all(file.is_file() for file in files.values()):
            version = json.loads((package / "package.json").read_bytes()).get("version")
            if version == VERSION:
                return files
            if folder is not None:
                raise ValueError(
                    f"--onnxruntime-web {folder}: found version {version}, expected {VERSION}: "
                    f"npm install {NAME}@{VERSION}"
                )
    if folder is not None:
        raise FileNotFoundError(
            f"--onnxruntime-web {folder}: found no {FILES['onnxruntime.js']} in its dist, expected "
            f"the npm package: npm install {NAME}@{VERSION}, then --onnxruntime-web node_modules/"
            f"{NAME}"
        )
    cache = cache_folder()
    if not cache.is_dir():
        _fill(cache)
    return {name: cache / name for name in FILES}


def cache_folder() -> Path:
    """Where the files of this version are kept."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "d2_multitask" / f"{NAME}-{VERSION}"


def _places(folder: Path) -> list[Path]:
    places = [folder, folder / "node_modules" / NAME]
    return [place for place in places if (place / "package.json").is_file()]


def _fill(cache: Path) -> None:
    """Fetch the package with npm and keep the files, all or none."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.parent) as folder:
        archive = _fetch(Path(folder))
        found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if found != SHA512:
            raise ValueError(
                f"{archive.name}: found the SHA-512 {found}, expected {SHA512}: what npm fetched "
                f"is not {NAME} {VERSION}"
            )
        unpacked = Path(folder) / "unpacked"
        unpacked.mkdir()
        with tarfile.open(archive) as content:
            for name, file in FILES.items():
                member = content.extractfile(f"package/dist/{file}")
                (unpacked / name).write_bytes(member.read())
        unpacked.replace(cache)


def _fetch(folder: Path) -> Path:
    """Download the package into a folder; returns the archive's path."""
    npm = shutil.which("npm")
    advice = (
        f"unpack the package {NAME} {VERSION} of the npm registry somewhere and add "
        "--onnxruntime-web FOLDER"
    )
    if npm is None:
        raise FileNotFoundError(f"npm is not installed, so {NAME} cannot be fetched: {advice}")
    logger.info("Fetching %s %s (33 MB) into %s ...", NAME, VERSION, cache_folder())
    command = [npm, "pack", "--ignore-scripts", "--loglevel", "error", f"{NAME}@{VERSION}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    archive = folder / f"{NAME}-{VERSION}.tgz"
    if done.returncode or not archive.is_file():
        lines = [line.strip() for line in done.stderr.splitlines() if " " in line.strip()]
        raise OSError(f"npm could not fetch {NAME} ({(lines or ['no file'])[0]}): {advice}")
    return archive
