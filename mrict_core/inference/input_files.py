"""Read what a user gives as an MR."""

from __future__ import annotations

from pathlib import Path

from mrict_core.data.dicom import is_dicom, read_series, series_below
from mrict_core.data.images.volumes import Volume, load_volume, made_here
from mrict_core.errors import MrictError
from mrict_core.paths import shown


def read_input(path: Path | str, series: str = "", keep_identifiers: bool = False) -> Volume:
    """Return the MR volume of an image file, or of a DICOM series; `MrictError` names the file and what is wrong.

    `series` (its name or UID) chooses where a folder holds several; what identifies the patient is only read with
    `keep_identifiers`.
    """
    path = Path(path)
    if path.is_dir() or is_dicom(path):
        return read_series(path, series, keep_identifiers)
    if series:
        raise MrictError(f"{shown(path)}: no DICOM; expected a folder of DICOM files with --series; leave --series out")
    if made_here(path):
        raise MrictError(f"{shown(path)}: a synthetic CT of this suite, or a map of one; expected an MR; give the MR")
    return load_volume(path)


def holds_many(path: Path | str) -> bool:
    """Return whether an input means many cases: a csv, or a folder without DICOM images in itself."""
    path = Path(path)
    if path.is_dir():
        return not (is_dicom(path) and any(one.files[0].parent == path for one in series_below(path)[0]))
    return path.suffix.lower() == ".csv"
