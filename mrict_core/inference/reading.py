"""Read what a user gives as an MR."""

from __future__ import annotations

from pathlib import Path

from mrict_core.data.volumes import SUFFIXES, Volume, load_volume
from mrict_core.errors import MrictError
from mrict_core.paths import shown


def read_input(path: Path | str) -> Volume:
    """Return the MR volume of an image file; `MrictError` names the file and what is wrong with it."""
    path = Path(path)
    if path.is_dir():
        raise MrictError(f"{shown(path)}: a folder; expected one image file ({', '.join(SUFFIXES)})")
    return load_volume(path)


def holds_many(path: Path | str) -> bool:
    """Return whether an input means many cases: a folder of them, or a csv."""
    path = Path(path)
    return path.is_dir() or path.suffix.lower() == ".csv"
