"""A user's experiments, read from their trainings and published models without the user's file."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

from mrict_core.errors import MrictError
from mrict_core.experiments.schema import Experiment, from_plain
from mrict_core.paths import checkpoints_root

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,99}")  # valid as a folder, no list separator
FILES = ("*/{}/seed*/run.json", "{}/*/model.json")  # in the folder of checkpoints


def find(name: str) -> Experiment | None:
    """Return the experiment that was last trained or published under this name, None if none was."""
    if not NAME.fullmatch(name):
        return None
    paths = [path for pattern in FILES for path in checkpoints_root().glob(pattern.format(name))]
    for path in sorted(paths, key=_changed, reverse=True):
        with contextlib.suppress(MrictError, OSError, ValueError, AttributeError):  # a damaged file is skipped
            content = json.loads(path.read_text(encoding="utf-8"))
            values = content.get("fields") or content.get("facts", {}).get("fields")
            if values:
                return from_plain(Experiment, values, str(path))
    return None


def names() -> list[str]:
    """Return the names of all trained or published experiments."""
    found = {path.parent.parent.name for pattern in FILES for path in checkpoints_root().glob(pattern.format("*"))}
    return sorted(name for name in found if NAME.fullmatch(name))


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # removed in the meantime
        return 0.0
