"""The tree of docs/architecture.md: modules as paths, rooms in their order."""

from __future__ import annotations

import re
from pathlib import Path

from mrict_core.paths import ROOT

TREE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("```")[1]
PACKAGE = Path("mrict_core")


def modules() -> list[Path]:
    """Return the modules of the package in the tree; indentation below a folder means inside it."""
    found, open_folders = [], []
    for line in TREE.split(f"\n{PACKAGE}/\n")[1].splitlines():
        indent = len(line) - len(line.lstrip())
        if not indent:
            break
        open_folders = [(column, folder) for column, folder in open_folders if column < indent]
        inside = open_folders[-1][1] if open_folders else PACKAGE
        if folder := re.match(r" +([a-z_0-9]+)/ ", line):
            inside = inside / folder[1]
            open_folders.append((indent, inside))
        found += [inside / name for name in re.findall(r"[a-z_0-9]+\.py", line)]
    return found


def rooms() -> list[str]:
    """Return the files and folders of the package in the tree's order: each may import from those above it."""
    return list(dict.fromkeys(path.parts[1].removesuffix(".py") for path in modules()))
