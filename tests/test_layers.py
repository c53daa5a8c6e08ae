"""The direction of imports between the rooms of mrict_core, in the order of docs/architecture.md."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from architecture_tree import rooms

import mrict_core

PACKAGE = Path(mrict_core.__file__).parent
ROOMS = (*rooms(), "__main__")
STRANGERS = {"data", "networks", "metrics"}  # do not know each other
ORDER = {room: number for number, room in enumerate(ROOMS)}


def imports(path: Path) -> set[str]:
    """Return every module of mrict_core that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            found.add(node.module)
            if node.module == "mrict_core":
                found |= {f"mrict_core.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "mrict_core"}


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ORDER else None


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    relative = path.relative_to(PACKAGE)
    own = relative.parts[0].removesuffix(".py")
    if own == "__init__":
        assert not imports(path)
        return
    assert own in ORDER, f"{relative}: a room without a place in the order"
    for module in imports(path):
        other = room_of(module)
        if other is None or other == own:
            continue
        assert ORDER[other] < ORDER[own], f"{relative} imports {module}: an arrow upwards"
        assert not ({own, other} <= STRANGERS), f"{relative} imports {module}: these rooms do not know each other"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_reporting_draws(path):
    drawing = path.relative_to(PACKAGE).parts[0] == "reporting"
    names = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert drawing or not names & {"matplotlib", "plotly", "jinja2"}


def test_command_line_starts_without_torch():
    import subprocess
    import sys

    code = "import sys, mrict_core.cli; sys.exit(any(m in sys.modules for m in ('torch', 'matplotlib', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent).returncode == 0
