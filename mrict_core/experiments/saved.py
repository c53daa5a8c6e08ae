"""A user's experiments, read from their trainings and published models without the user's file."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mrict_core.errors import MrictError
from mrict_core.experiments.schema import Experiment, from_plain
from mrict_core.paths import checkpoints_root

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,99}")  # valid as a folder, no list separator
FILES = ("*/{}/seed*/run.json", "{}/*/model.json")  # in the folder of checkpoints


def find(name: str) -> Experiment | None:
    """Return the experiment that was last trained or published under this name, None if none was."""
    for path, content in _newest(name):
        with contextlib.suppress(MrictError, ValueError, AttributeError):  # a damaged file is skipped
            values = content.get("fields") or content.get("facts", {}).get("fields")
            if values:
                return from_plain(Experiment, values, str(path))
    return None


def versions(name: str) -> dict[str, Any]:
    """Return the versions that an experiment of that name was trained with last; empty where it was not."""
    for _, content in _newest(name):
        found = content.get("versions") or content.get("facts", {}).get("versions")
        if isinstance(found, dict):
            return found
    return {}


def _newest(name: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the files of an experiment's trainings and models with their content, newest first."""
    if not NAME.fullmatch(name):
        return
    paths = [path for pattern in FILES for path in checkpoints_root().glob(pattern.format(name))]
    for path in sorted(paths, key=_changed, reverse=True):
        with contextlib.suppress(OSError, ValueError):
            content = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(content, dict):
                yield path, content


def names() -> list[str]:
    """Return the names of all trained or published experiments."""
    found = {path.parent.parent.name for pattern in FILES for path in checkpoints_root().glob(pattern.format("*"))}
    return sorted(name for name in found if NAME.fullmatch(name))


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # removed in the meantime
        return 0.0
