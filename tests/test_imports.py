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
    "exits": 0,
    "launchers": 0,
    "model_configs": 0,
    "runtime": 0,
    "tracking": 0,
    "version": 0,
    "viewer": 0,
    "data": 1,
    "data.labels": 1,
    "video": 1,
    "data.datasets": 2,
    # So that a task can register its evaluator in the file of its head.
    "evaluation.base": 2,
    "heads": 3,
    # They ask the heads what is learned.
    "data.mapper": 4,
    "data.loader": 4,
    "modeling": 5,
    "evaluation": 5,
    "checkpoint": 5,
    "config": 6,
    "doctor": 7,
    "engine": 7,
    "export": 7,
    "reports": 7,
    "visualization": 7,
    "segmenting": 7,
    "cli": 8,
    "loading": 8,
    "__main__": 8,
    "__init__": 8,
    "_moved": 8,
}
FILES = sorted(PACKAGE.rglob("*.py"))


def part_of(module: str) -> str:
    """The part that a module (without the package's name) belongs to: the longest that fits."""
    while module not in LEVELS and "." in module:
        module = module.rpartition(".")[0]
    return module


def module_of(path: Path) -> str:
    name = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
    return name.removesuffix(".__init__")


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
            if (node.module or "").split(".")[0] == "d2_multitask":
                names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("d2_multitask."):
                parts.add(part_of(name.removeprefix("d2_multitask.")))
    return parts


def test_every_part_has_a_level() -> None:
    assert {part_of(module_of(path)) for path in FILES} <= set(LEVELS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    level = LEVELS[part_of(module_of(path))]
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
