"""Read what a user gives as an MR."""

from __future__ import annotations

from pathlib import Path

from mrict_core.data.dicom import is_dicom, read_series
from mrict_core.data.volumes import SUFFIXES, Volume, load_volume
from mrict_core.errors import MrictError
from mrict_core.paths import shown


def read_input(path: Path | str, series: str = "", keep_identifiers: bool = False) -> Volume:
    """Return the MR volume of an image file, or of a DICOM series; `MrictError` names the file and what is wrong.

    `series` (its name or UID) chooses where a folder holds several; what identifies the patient is only read with
    `keep_identifiers`.
    """
    path = Path(path)
    if is_dicom(path):
        return read_series(path, series, keep_identifiers)
    if series:
        raise MrictError(f"{shown(path)}: no DICOM; expected a folder of DICOM files with --series; leave --series out")
    if path.is_dir():
        raise MrictError(f"{shown(path)}: a folder; expected one image file ({', '.join(SUFFIXES)}) or a DICOM series")
    return load_volume(path)


def holds_many(path: Path | str) -> bool:
    """Return whether an input means many cases: a folder of them, or a csv."""
    path = Path(path)
    return (path.is_dir() and not is_dicom(path)) or path.suffix.lower() == ".csv"
