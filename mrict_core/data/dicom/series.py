"""Find the DICOM series in a folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pydicom

from mrict_core.data.dicom.frames import TAGS
from mrict_core.data.dicom.kinds import class_of, is_unsure, modality_of, why_no_image
from mrict_core.data.dicom.values import check_deflated, opened, text_of, whole_of
from mrict_core.data.images.streams import damaged
from mrict_core.errors import MrictError, UnavailableError
from mrict_core.files import available, unavailable
from mrict_core.paths import printable, shown

MAGIC = slice(128, 132)
GROUPS = (b"\x08\x00", b"\x02\x00", b"\x00\x08")  # first bytes of a file without preamble
NOT_DICOM = "not DICOM"
LINKED_FOLDER = "link to a folder"
SUFFIXES = (".dcm", ".dicom", ".ima")
Aside = list[tuple[Path, str]]  # skipped files and folders, and why
Failed = Callable[[Path, MrictError], None]


@dataclass(frozen=True)
class Series:
    """The images of one series. `name` is short, stable and anonymous; `uid` may contain a date."""

    uid: str = field(repr=False)
    modality: str
    images: int
    localizer: bool
    headers: tuple[tuple[Path, pydicom.Dataset], ...] = field(repr=False)

    @property
    def name(self) -> str:
        return hashlib.blake2b(f"{self.uid} {self.modality}".encode(), digest_size=4).hexdigest()

    def text(self, keep_identifiers: bool = False) -> str:
        """Describe the series; UID and description only with `keep_identifiers`."""
        kind = " localizer" if self.localizer else ""
        words = f"{self.name} ({self.modality}{kind}, {self.images} image{'s' * (self.images != 1)}"
        if keep_identifiers:
            words += f", {self.uid}, {text_of(self.headers[0][1], 'SeriesDescription') or 'no description'}"
        return printable(words + ")")


@dataclass(frozen=True)
class SeriesFound:
    """A series below a folder, read by `read_series(folder, name)`; `why_not` is "" for an MR usable for synthesis.

    `alone`: it is the only usable series in `folder`, so the name can be omitted.
    """

    folder: Path
    name: str
    modality: str
    images: int
    files: tuple[Path, ...] = field(repr=False)
    why_not: str
    alone: bool


def is_dicom(path: Path | str) -> bool:
    """Return whether `path` is a DICOM file, or a folder that directly contains one or a DICOMDIR.

    Raises `UnavailableError` for an unreadable file or folder; unreadable files inside a folder are ignored.
    """
    path = Path(path)
    if path.is_file():
        return _may_be_dicom(path)
    if not path.is_dir():
        return False
    with available(path):
        files = sorted(file for file in path.iterdir() if file.is_file())
    for file in files:
        with contextlib.suppress(UnavailableError):
            if _may_be_dicom(file):
                return True
    return False


def list_series(path: Path | str) -> list[Series]:
    """Return the image series of a folder (searched recursively) or file."""
    return scan(Path(path))[0]


def series_below(folder: Path | str) -> tuple[list[SeriesFound], Aside]:
    """Return the series below a folder, and every other file and folder with the reason why it was skipped.

    Each direct subfolder is searched separately, so copies of a series in two of them are two series. An unreadable
    DICOM file is in the second list; reading a series from the same folder will fail.
    """
    folder, found, aside = Path(folder), [], []
    places: dict[Path, Aside] = {}

    def failed(path: Path, error: MrictError) -> None:
        aside.append((path, str(error)))

    for path, why in _walk(folder, failed):
        inside = path.relative_to(folder).parts
        places.setdefault(folder / inside[0] if len(inside) > 1 else folder, []).append((path, why))
    for entries in places.values():
        series, rest = _sort_out(entries, failed)
        found += _found(series)
        aside += rest
    return found, sorted(aside)


def _found(series: list[Series]) -> list[SeriesFound]:
    folders = [Path(os.path.commonpath([file.parent for file, _ in s.headers])) for s in series]
    whys = [_why_not(s) for s in series]
    found = []
    for s, folder, why in zip(series, folders, whys, strict=True):
        usable = [f for f, reason in zip(folders, whys, strict=True) if not reason and f.is_relative_to(folder)]
        files = tuple(file for file, _ in s.headers)
        found.append(SeriesFound(folder, s.name, s.modality, s.images, files, why, len(usable) == 1 and not why))
    return found


def _why_not(series: Series) -> str:
    if is_unsure(series.modality):
        return f"not identified as MR ({series.modality}): read only with --series {series.name}"
    if series.modality != "MR":
        return f"a {series.modality} series"
    return "a localizer" if series.localizer else ""


def scan(path: Path) -> tuple[list[Series], Aside]:
    """Return the image series, and everything else with the reason.

    Raises `MrictError` for an unreadable DICOM file, as it may be one of the slices.
    """

    def failed(_: Path, error: MrictError) -> None:
        raise error

    if path.is_file():
        return _sort_out([(path, "")], failed)
    if not path.is_dir():
        raise UnavailableError(f"{shown(path)}: no such file or folder; expected a DICOM series; check the name")
    return _sort_out(_walk(path, failed), failed)


def _walk(folder: Path, failed: Failed) -> Iterator[tuple[Path, str]]:
    """Yield every file below a folder with "", and what is skipped with the reason."""

    def unlisted(error: OSError) -> None:
        failed(Path(error.filename), unavailable(Path(error.filename), error))

    for place, folders, files in os.walk(folder, onerror=unlisted):
        for name in sorted(folders):
            path = Path(place, name)
            if name.startswith(".") or path.is_symlink():
                folders.remove(name)
                yield path, "hidden folder" if name.startswith(".") else LINKED_FOLDER
        folders.sort()
        for name in sorted(files):
            path = Path(place, name)
            yield path, "hidden file" if name.startswith(".") else "" if path.is_file() else "not a plain file"


def _sort_out(entries: Iterator[tuple[Path, str]] | Aside, failed: Failed) -> tuple[list[Series], Aside]:
    found: dict[tuple[str, str], list[tuple[Path, pydicom.Dataset]]] = {}
    aside: Aside = []
    for file, why in entries:
        try:
            header, why = (None, why) if why else _read_header(file)
            if why == NOT_DICOM and file.suffix.lower() in SUFFIXES:  # it may be one of the slices
                raise damaged(file, "named like a DICOM file, but not DICOM")
        except MrictError as error:
            failed(file, error)
            continue
        if header is None:
            aside.append((file, why))
        else:
            found.setdefault((text_of(header, "SeriesInstanceUID"), modality_of(header)), []).append((file, header))
    series = [_series(uid, modality, headers) for (uid, modality), headers in found.items()]
    series.sort(key=lambda s: (whole_of(s.headers[0][1], "SeriesNumber") or 0, s.name))
    return series, aside


def _series(uid: str, modality: str, headers: list[tuple[Path, pydicom.Dataset]]) -> Series:
    images = sum(max(1, whole_of(header, "NumberOfFrames") or 1) for _, header in headers)
    localizer = all("LOCALIZER" in str(header.get("ImageType", "")).upper() for _, header in headers)
    return Series(uid, modality, images, localizer, tuple(headers))


def _may_be_dicom(file: Path) -> bool:
    start = _start(file)
    return start[MAGIC] == b"DICM" or (start[:2] in GROUPS and _read_header(file)[1] != NOT_DICOM)


def _start(file: Path) -> bytes:
    with available(file), open(file, "rb") as content:
        return content.read(132)


def _read_header(file: Path) -> tuple[pydicom.Dataset | None, str]:
    """Return the header tags of a file's images, or None and what the file is instead."""
    start = _start(file)
    marked = start[MAGIC] == b"DICM"
    if not marked and start[:2] not in GROUPS:
        return None, NOT_DICOM
    try:
        with opened(file):
            check_deflated(file)
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS), force=not marked)
            kind = class_of(header)
            if not (kind or marked):
                return None, NOT_DICOM
            if why := why_no_image(header):
                return None, why
            for keyword in TAGS:
                header.get(keyword)  # values are decoded on first access
    except UnavailableError:
        raise
    except MrictError:
        if not marked:
            return None, NOT_DICOM
        raise
    if "Rows" not in header or "Columns" not in header:
        raise damaged(file, "an image without Rows and Columns")
    return header, ""


def choose(
    path: Path, wanted: str, modality: str, keep_identifiers: bool = False
) -> tuple[Series, list[str], list[str]]:
    """Return the series `wanted` (name or UID), else the only one of `modality`; remarks; notes."""
    series, aside = scan(path)
    counts = ", ".join(f"{why} ({n})" for why, n in sorted(Counter(why for _, why in aside).items()))
    said = "; ".join(s.text(keep_identifiers) for s in series)
    if not series:
        raise MrictError(
            f"{shown(path)}: no DICOM image: {counts or 'empty'}; expected a series of {modality or 'images'}"
        )
    remarks = []
    if wanted:
        chosen = [s for s in series if wanted in (s.uid, s.name)]
        if not chosen:
            raise MrictError(f"{shown(path)}: no series of that name; found: {said}; give the name of one")
        if modality and is_unsure(chosen[0].modality):
            remarks.append(f"read as {modality} because --series names it: {chosen[0].modality}")
        elif modality not in ("", chosen[0].modality):
            raise MrictError(f"{shown(path)}: no {modality} series of that name; found: {said}; choose another")
    else:
        fitting = [s for s in series if not modality or s.modality == modality]
        chosen = [s for s in fitting if not s.localizer] or fitting
        if not chosen:
            unsure = [s.name for s in series if is_unsure(s.modality)]
            hint = f", or --series {unsure[0]} if that is one" if unsure else ""
            raise MrictError(
                f"{shown(path)}: no {modality} series; found: {said}; give the folder of the {modality}{hint}"
            )
    if len(chosen) > 1:
        said = "; ".join(s.text(keep_identifiers) for s in chosen)
        raise MrictError(f"{shown(path)}: {len(chosen)} series; expected one; choose one with --series NAME: {said}")
    if chosen[0].localizer:
        remarks.append("the series is a localizer")
    notes = [f"skipped: {s.text(keep_identifiers)}" for s in series if s is not chosen[0]]
    return chosen[0], remarks, notes + [f"skipped: {counts}"] * bool(aside)
