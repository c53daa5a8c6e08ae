"""Read a user's MR."""

from __future__ import annotations

from pathlib import Path

from mrict_core.data.dicom import is_dicom, list_series, read_series, series_below
from mrict_core.data.dicom.values import text_of
from mrict_core.data.images.volumes import Volume, load_volume, made_here
from mrict_core.errors import MrictError
from mrict_core.paths import region_named, shown


def read_input(path: Path | str, series: str = "", keep_identifiers: bool = False) -> Volume:
    """Return the MR volume of an image file or DICOM series; `MrictError` names the file and the problem.

    `series` (name or UID) chooses one of several in a folder; identifying tags are read only with `keep_identifiers`.
    """
    path = Path(path)
    if path.is_dir() or is_dicom(path):
        return read_series(path, series, keep_identifiers)
    if series:
        raise MrictError(f"{shown(path)}: not DICOM; --series expects a folder of DICOM files; omit --series")
    if made_here(path):
        raise MrictError(f"{shown(path)}: a synthetic CT or uncertainty map of this suite; expected an MR; give the MR")
    return load_volume(path)


def region_of(path: Path | str, series: str = "") -> str:
    """Return the region that the headers of a DICOM series name (BodyPartExamined).

    "" if the input is not DICOM, the tag is absent or names no region of the suite, or headers disagree.
    """
    path = Path(path)
    if not (path.is_dir() or is_dicom(path)):
        return ""
    asked = series.split("/")[0]
    chosen = [one for one in list_series(path) if one.modality == "MR" and (not asked or asked in (one.name, one.uid))]
    found = {region_named(text_of(header, "BodyPartExamined")) for one in chosen for _, header in one.headers}
    return found.pop() if len(found) == 1 else ""


def holds_many(path: Path | str) -> bool:
    """Return whether an input is many cases: a csv, or a folder that does not directly contain DICOM images."""
    path = Path(path)
    if path.is_dir():
        return not (is_dicom(path) and any(one.files[0].parent == path for one in series_below(path)[0]))
    return path.suffix.lower() == ".csv"
