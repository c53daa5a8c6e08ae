"""Which DICOM series a folder holds."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom.config import IGNORE
from pydicom.errors import InvalidDicomError

from mrict_core.data.dicom.frames import TAGS, damaged, hushed, text_of, whole_of
from mrict_core.errors import MrictError
from mrict_core.paths import shown

DIRECTORY = "1.2.840.10008.1.3.10"
MAGIC = slice(128, 132)
GROUPS = (b"\x08\x00", b"\x02\x00", b"\x00\x08")  # how a file without the leading 128 bytes begins
MODALITY = re.compile("[A-Z]{2,16}")


@dataclass(frozen=True)
class Series:
    """The images of one series. `name` is short, stable and tells nothing of the patient; `uid` may hold a date."""

    uid: str = field(repr=False)
    modality: str
    images: int
    localizer: bool
    headers: tuple[tuple[Path, pydicom.Dataset], ...] = field(repr=False)

    @property
    def name(self) -> str:
        return hashlib.blake2b(self.uid.encode(), digest_size=4).hexdigest()

    def text(self, keep_identifiers: bool = False) -> str:
        """Return the series in words; UID and description only on demand."""
        kind = " localizer" if self.localizer else ""
        words = f"{self.name} ({self.modality or 'no modality'}{kind}, {self.images} image{'s' * (self.images != 1)}"
        if keep_identifiers:
            words += f", {self.uid}, {text_of(self.headers[0][1], 'SeriesDescription') or 'no description'}"
        return words + ")"


def is_dicom(path: Path | str) -> bool:
    """Return whether `path` is a DICOM file, or a folder that holds one (not deeper) or a DICOMDIR."""
    path = Path(path)
    try:
        if path.is_dir():
            return any(_may_be_dicom(file) for file in sorted(path.iterdir()) if file.is_file())
        return path.is_file() and _may_be_dicom(path)
    except OSError:  # a folder that may not be looked into
        return False


def list_series(path: Path | str) -> list[Series]:
    """Return the series of images in a folder, at any depth, or in a file."""
    return scan(Path(path))[0]


def scan(path: Path) -> tuple[list[Series], Counter]:
    """Return the series of images, and how many files of which kind are none.

    Raises `MrictError` for DICOM files that cannot be read: one of them may be the slice that then is missing.
    """
    found: dict[str, list[tuple[Path, pydicom.Dataset]]] = {}
    other: Counter = Counter()
    for file in _files(path):
        header = _read_header(file)
        if header is None:
            other["not DICOM"] += 1
        elif "Rows" not in header or "Columns" not in header:
            if _is_image(header):
                raise damaged(file, "an image without Rows and Columns")
            other["without an image"] += 1
        else:
            found.setdefault(text_of(header, "SeriesInstanceUID"), []).append((file, header))
    series = [_series(uid, headers) for uid, headers in found.items()]
    series.sort(key=lambda s: (whole_of(s.headers[0][1], "SeriesNumber") or 0, s.name))
    return series, other


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise MrictError(f"{shown(path)}: no such file or folder; expected a DICOM series")
    files = (f for f in path.rglob("*") if not any(part.startswith(".") for part in f.relative_to(path).parts))
    return sorted(f for f in files if f.is_file() and f.name != "DICOMDIR")


def _may_be_dicom(file: Path) -> bool:
    try:
        with open(file, "rb") as opened:
            start = opened.read(132)
    except OSError:
        return False
    if start[MAGIC] == b"DICM":
        return True
    return start[:2] in GROUPS and _read_header(file) is not None


def _is_image(header: pydicom.Dataset) -> bool:
    return "Image Storage" in pydicom.uid.UID(_kind(header), IGNORE).name


def _kind(header: pydicom.Dataset) -> str:
    return text_of(header, "SOPClassUID") or text_of(header.file_meta, "MediaStorageSOPClassUID")


def _read_header(file: Path) -> pydicom.Dataset | None:
    """Return the tags that place a file's images, None where it is no DICOM file or a directory of them."""
    try:
        with open(file, "rb") as opened:
            start = opened.read(132)
    except OSError as error:
        raise MrictError(f"{shown(file)}: cannot be read ({error.strerror}); make it readable") from None
    marked = start[MAGIC] == b"DICM"
    if not marked and start[:2] not in GROUPS:
        return None
    try:
        with hushed():
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS), force=not marked)
            for keyword in TAGS:
                header.get(keyword)  # values are decoded on the first look
            kind = _kind(header)
    except InvalidDicomError:
        return None
    except Exception as error:  # damaged bytes make pydicom raise nearly anything
        if not marked:
            return None
        raise damaged(file, type(error).__name__) from None
    if kind == DIRECTORY or not (kind or marked):
        return None
    return header


def _series(uid: str, headers: list[tuple[Path, pydicom.Dataset]]) -> Series:
    first = headers[0][1]
    images = sum(whole_of(header, "NumberOfFrames") or 1 for _, header in headers)
    localizer = all("LOCALIZER" in str(header.get("ImageType", "")).upper() for _, header in headers)
    modality = text_of(first, "Modality")
    return Series(uid, modality if MODALITY.fullmatch(modality) else "", images, localizer, tuple(headers))


def choose(path: Path, wanted: str, modality: str, keep_identifiers: bool = False) -> tuple[Series, list[str]]:
    """Return the series named `wanted` (its name or UID), else the only one of `modality`, and remarks on the rest."""
    series, other = scan(path)
    said = "; ".join(s.text(keep_identifiers) for s in series)
    if not series:
        rest = ", ".join(f"{n} {kind}" for kind, n in other.items()) or "empty"
        raise MrictError(f"{shown(path)}: no DICOM image ({rest}); expected a series of {modality or 'images'}")
    if wanted:
        chosen = [s for s in series if wanted in (s.uid, s.name)]
        if not chosen:
            raise MrictError(f"{shown(path)}: no series of that name; it holds: {said}")
    else:
        fitting = [s for s in series if not modality or s.modality == modality]
        chosen = [s for s in fitting if not s.localizer] or fitting
    if not chosen or (modality and chosen[0].modality != modality):
        raise MrictError(f"{shown(path)}: no {modality} series; it holds: {said}; give the folder of the {modality}")
    if len(chosen) > 1:
        said = "; ".join(s.text(keep_identifiers) for s in chosen)
        raise MrictError(f"{shown(path)}: {len(chosen)} series; expected one; choose one by its name: {said}")
    remarks = [f"left aside: {s.text(keep_identifiers)}" for s in series if s is not chosen[0]]
    if other:
        remarks.append("left aside: " + ", ".join(f"{n} files {kind}" for kind, n in sorted(other.items())))
    return chosen[0], remarks
