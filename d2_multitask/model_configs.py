"""Finds the config files that come with the package, in a clone as well as in an installed wheel.

In the repository they are the folder `configs/` next to the package. A wheel contains the package
only, so it has a copy of them inside (setup.py makes it).
"""

from __future__ import annotations

import difflib
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def get_config_file(name: str) -> str:
    """Path of a config file that comes with d2_multitask.

    Args:
        name: Path below `configs/`, for example `"quick/mcn_seg_det_pose.yaml"`, or
            `"lazy/mcn_r18_seg_det_pose.py"` for `LazyConfig.load`.

    Returns:
        The absolute path of the file.

    Raises:
        ValueError: There is no such file; the message lists names that look alike.
        FileNotFoundError: The installation carries no config files at all.
    """
    folder = _config_folder()
    files = (path for path in folder.rglob("*") if path.suffix in (".yaml", ".py"))
    known = {path.relative_to(folder).as_posix(): path for path in files}
    if name in known:
        return str(known[name])
    close = difflib.get_close_matches(name, known, n=5, cutoff=0.4) or sorted(known)
    raise ValueError(
        f"There is no config file {name!r} in {folder}. Expected a path below that folder, such "
        f"as: {', '.join(close)}"
    )


def _config_folder() -> Path:
    for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"d2_multitask carries no config files: neither {_PACKAGE / 'configs'} nor "
        f"{_PACKAGE.parent / 'configs'} exists. Install it again: python -m pip install "
        "--force-reinstall --no-deps d2_multitask, or `python tools/install.py` in a clone."
    )
