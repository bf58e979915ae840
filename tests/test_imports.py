"""Lower levels never import higher ones (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from support import REPOSITORY

PACKAGE = REPOSITORY / "d2_multitask"
LEVELS = {
    "targets": 0,
    "losses": 0,
    "patch_graph": 0,
    "dependencies": 0,
    "model_configs": 0,
    "heads": 1,
    "data": 1,
    "modeling": 2,
    "evaluation": 2,
    "checkpoint": 2,
    "config": 3,
    "engine": 4,
    "export": 4,
    "visualization": 4,
    "segmenting": 4,
    "__init__": 5,
    "_moved": 5,
}
FILES = sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    """The parts of the package that a file imports, at the top or inside functions."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module]
            if node.module == "d2_multitask":
                names = [f"d2_multitask.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("d2_multitask."):
                parts.add(name.split(".")[1])
    return parts


def test_every_part_has_a_level() -> None:
    assert {part_of(path) for path in FILES} <= set(LEVELS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    level = LEVELS[part_of(path)]
    for part in imported_parts(path):
        # A name of the top package (its version, say) counts as the top package.
        target = LEVELS.get(part, LEVELS["__init__"])
        assert target <= level, f"{path} (level {level}) imports d2_multitask.{part} ({target})"


@pytest.mark.parametrize("folder", ["targets", "heads"])
def test_targets_and_heads_read_no_config_file(folder: str) -> None:
    for path in (PACKAGE / folder).rglob("*.py"):
        assert "get_cfg" not in path.read_text(), path


def test_the_meta_architecture_knows_no_task_by_name() -> None:
    source = (PACKAGE / "modeling" / "mcn.py").read_text()
    tree = ast.parse(source)
    strings = {
        n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)
    }
    assert not strings & {"seg", "det", "pose", "center", "sem_seg"}
