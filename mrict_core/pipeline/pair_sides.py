"""One side of a pair, MR or CT: which one a name says, its voxels, its content's hash, identifiers in its headers."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk

from mrict_core.data.checks.hu_values import check_hu, is_ct, spread_over
from mrict_core.data.dicom import is_dicom, read_series
from mrict_core.data.dicom.values import opened, text_of
from mrict_core.data.images.grids import LPS_TO_RAS, differ, straightened
from mrict_core.data.images.volumes import Volume, as_type, hash_image, load_volume, made_here
from mrict_core.errors import MrictError
from mrict_core.files import hash_file, hash_of
from mrict_core.hu import AIR_FLOOR_HU
from mrict_core.paths import shown

KINDS = {"mr": "MR", "ct": "CT", "mask": "mask"}
MR_WORD = re.compile(r"mri?(t[12][a-z]*)?\d*|t[12][a-z]*|flair|mprage")
CT_WORD = re.compile(r"(p|plan|planning)?ct(ac|ref|a)?\d*")
MASK_STEMS = ("mask", "body", "body_mask", "bodymask")
MIN_VOXELS = 4  # along every axis: two slices have no place of their own between their neighbours
DATES = ("PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
IDENTIFIERS = ("PatientName", "PatientID", "OtherPatientIDs", "AccessionNumber", *DATES)
NOBODY = {"anon", "anonymous", "anonymized", "anonymised", "unknown", "none", "patient", "phantom", "test"}
SHORTEST_IDENTIFIER = 3  # characters; shorter ones would match too much
SHORTEST_FOREIGN = 2  # of other than Latin letters: a whole name
LONG_IDENTIFIER = 5  # from this length on also inside a word
HIDDEN_NAME = "[identifier]"
WORD = re.compile(r"[^\W_]+")
BETWEEN_WORDS = r"[\s^_.,'=+~-]*"  # of an identifier, in a name or path
TRANSCRIBED = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue"})  # as DICOM in plain ASCII has them


def kind_named(words: str) -> str:
    """Return "mr" or "ct" if a file's or folder's name says so with a word of its own; "" if none or both."""
    tokens = [token for token in re.split(r"[^a-z0-9]+", words.lower()) if token]
    kinds = {
        kind for kind, word in (("mr", MR_WORD), ("ct", CT_WORD)) if any(word.fullmatch(token) for token in tokens)
    }
    return kinds.pop() if len(kinds) == 1 else ""


def read_side(path: Path | str, kind: str, series: str = "", *, strict: bool = False) -> sitk.Image:
    """Return one side of a pair on its own grid: `mr` float32, `ct` int16 HU not below -1024, `mask` uint8 0 and 1.

    `series` (name or UID) chooses one of several of that modality in a DICOM folder. `strict` refuses headers that
    lack or contradict something. Raises `MrictError` for an unreadable file, a 4-D image, gaps, a tilted gantry, a
    localizer, fewer than four voxels along an axis, values that are not of this kind, and output of this suite.
    """
    path = Path(path)
    volume = _volume(path, kind, series)
    if min(volume.shape) < MIN_VOXELS:
        size = " x ".join(map(str, volume.shape))
        raise MrictError(f"{shown(path)}: {size} voxels; expected at least {MIN_VOXELS} along each axis; give a volume")
    if differ(volume.affine, straightened(volume.affine), volume.shape):
        raise MrictError(
            f"{shown(path)}: its axes are not at right angles (a tilted gantry?); expected a straight grid; resample "
            "it to one first"
        )
    if "the series is a localizer" in volume.remarks:
        raise MrictError(f"{shown(path)}: a localizer; expected a {KINDS[kind]} volume; give that series")
    if strict and volume.remarks:
        raise MrictError(f"{shown(path)}: {volume.remarks[0]} (refused by --strict)")
    image = as_image(_checked(volume, kind, path), volume.affine)
    image.SetMetaData("notes", "\n".join((*volume.remarks, *volume.notes)))
    return image


def _volume(path: Path, kind: str, series: str) -> Volume:
    if path.is_dir() or is_dicom(path):
        try:
            return read_series(path, series, modality="" if kind == "mask" else KINDS[kind])
        except MrictError as error:  # `pair` has a column for what other commands take as an option
            text = re.sub(r"with --series NAME", f"in a csv, in its column {kind}_series", str(error))
            raise type(error)(re.sub(r"--series (\S+)", rf"{kind}_series \1 in a csv", text)) from None
    if series:
        raise MrictError(f"{shown(path)}: not DICOM; a series is of a folder of DICOM files; leave {kind}_series empty")
    if path.exists() and made_here(path):
        raise MrictError(f"{shown(path)}: a synthetic CT or uncertainty map of this suite; expected a scan; give that")
    return load_volume(path)


def _checked(volume: Volume, kind: str, path: Path) -> np.ndarray:
    """Return the voxels in the type of their kind; raise if they are of another kind."""
    array = volume.array
    if float(array.min()) == float(array.max()):
        raise MrictError(
            f"{shown(path)}: {KINDS[kind]} has the constant value {array.min():g}; expected an image; export it again"
        )
    if kind == "ct":
        check_hu(array, path)
        return as_type(np.maximum(array, AIR_FLOOR_HU), np.int16)
    if kind == "mr":
        if is_ct(spread_over(array)):
            raise MrictError(f"{shown(path)}: holds the values of a CT; expected an MR; exchange or replace the file")
        return array
    if (count := len(np.unique(array))) > 2:
        raise MrictError(f"{shown(path)}: holds {count} different values; expected a mask of 0 and 1; give the mask")
    return (array > 0).astype(np.uint8)


def as_image(array: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """Return an array (nx, ny, nz) with an affine (voxel to RAS mm) as an image in ITK's LPS mm."""
    straight = LPS_TO_RAS @ straightened(affine)
    spacing = np.linalg.norm(straight[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(straight[:3, 3].tolist())
    image.SetDirection((straight[:3, :3] / spacing).ravel().tolist())
    return image


def affine_of(image: sitk.Image) -> np.ndarray:
    """Return the affine (4, 4), voxel to RAS mm, of an image."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return LPS_TO_RAS @ affine


def array_of(image: sitk.Image) -> np.ndarray:
    """Return a copy of the voxels (nx, ny, nz) of an image."""
    return sitk.GetArrayFromImage(image).T


def hash_side(path: Path) -> str:
    """Return a hash of the content of an image file, or of all DICOM files of a folder.

    Other files are no part of the scan; the pairs themselves may be among them.
    """
    if path.is_dir():
        files = filter(is_dicom, _files_below(path))
        return hash_of([(str(file.relative_to(path)), hash_file(file)) for file in files])
    return hash_image(path)


def _files_below(folder: Path) -> list[Path]:
    return sorted(
        Path(place, name) for place, _, files in os.walk(folder) for name in files if not name.startswith(".")
    )


def identifiers_of(paths: Iterable[Path]) -> frozenset[str]:
    """Return names, numbers and dates of the patient in the DICOM headers of files, and of one file of each folder.

    Empty for images of other types, and for headers that say that identity was removed.
    """
    found: set[str] = set()
    for path in paths:
        firsts = {file.parent: file for file in reversed(_files_below(path))}.values() if path.is_dir() else [path]
        for file in firsts:
            found |= _identifiers(file)
    return frozenset(found)


def _identifiers(file: Path) -> set[str]:
    try:
        if not is_dicom(file):
            return set()
        with opened(file):
            tags = [*IDENTIFIERS, "PatientIdentityRemoved"]
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags, force=True)
            if text_of(header, "PatientIdentityRemoved").upper() == "YES":
                return set()
            texts = [text_of(header, keyword) for keyword in IDENTIFIERS]
    except MrictError:  # its reader reports the fault
        return set()
    texts += [f"{text[:4]}-{text[4:6]}-{text[6:]}" for text in texts if re.fullmatch(r"\d{8}", text)]  # of a date
    # a PatientName has up to three groups, in Latin and other letters: Wang^Xiaodong=王^小東
    parts = {part for text in texts for part in (text, *text.split("="), *re.split(r"[\^\s=\\]+", text))}
    return {part for part in parts if _tells(part)}


def _tells(part: str) -> bool:
    """Return whether a part of an identifier tells who somebody is."""
    shortest = SHORTEST_IDENTIFIER if part.isascii() else SHORTEST_FOREIGN
    return len(part) >= shortest and part.lower() not in NOBODY and WORD.search(part) is not None


def _spellings(text: str) -> set[tuple[str, ...]]:
    """Return the words of a text without accents and case: Jäger is jager, and jaeger."""
    lower = _composed(text).casefold()
    apart = (unicodedata.normalize("NFKD", one) for one in (lower, lower.translate(TRANSCRIBED)))
    return {tuple(WORD.findall("".join(c for c in one if not unicodedata.combining(c)))) for one in apart}


def names_someone(text: str, identifiers: Iterable[str]) -> bool:
    """Return whether a text has one of the identifiers in it: as a word, all its words, or a long one anywhere."""
    known = {words for one in identifiers for words in _spellings(one) if words}
    return any(_holds(words, own) for words in _spellings(text) for own in known)


def _holds(words: tuple[str, ...], own: tuple[str, ...]) -> bool:
    whole = "".join(own)
    everywhere = len(whole) >= LONG_IDENTIFIER and whole in "".join(words)
    return everywhere or whole in words or (len(own) > 1 and set(own) <= set(words))


def _composed(text: str) -> str:
    """Return a text with a letter and its accent as one character: names of files may have them apart."""
    return unicodedata.normalize("NFC", text)


def redacted(text: str, identifiers: Iterable[str]) -> str:
    """Return a text (NFC) with every identifier replaced, whatever is between its words."""
    text = _composed(text)
    for one in sorted(identifiers, key=len, reverse=True):
        words = WORD.findall(_composed(one))
        pattern = BETWEEN_WORDS.join(words)
        if sum(map(len, words)) < LONG_IDENTIFIER:
            pattern = rf"(?<![^\W_]){pattern}(?![^\W_])"
        text = re.sub(pattern, HIDDEN_NAME, text, flags=re.IGNORECASE)
    return text
