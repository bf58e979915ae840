from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from d2_multitask.data.datasets.pascal_in_detail import LoadedPhase, load_phase
from detail_miniature import miniature, write


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., LoadedPhase]:
    """Load the miniature, or another content."""

    def load_content(content: dict[str, Any] | None = None, phase: str = "train") -> LoadedPhase:
        return load_phase(write(content or miniature(), tmp_path), "images", phase)

    return load_content
