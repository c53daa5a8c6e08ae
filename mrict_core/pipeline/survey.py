"""What a folder holds: the MRs to synthesise, and for everything else the reason why it is none of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mrict_core.data.dicom import is_dicom, list_series
from mrict_core.data.volumes import SUFFIXES, stem_of
from mrict_core.errors import MrictError
from mrict_core.evaluation.files import NAMES, ROLES
from mrict_core.inference.output import made_here
from mrict_core.paths import shown

# Types that may hold an MR and are not read; a file of any other unknown type is no image.
UNREAD = re.compile(
    r"\.(img|hdr|mgz|mgh|mnc|par|rec|ima|dcm|nhdr|gipl|vt[ki]|tiff?|np[yz]|mat|h5|zip|tar|gz|bz2|xz|zst|7z)$"
)
OTHER_MODALITIES = {"CT", "PT", "NM", "US", "CR", "DX", "SEG", "REG", "SR", "PR", "KO"}  # and whatever begins with RT
ENDING = re.compile(rf"[_-]({'|'.join(re.escape(name) for role in ROLES for name in NAMES[role])})$", re.IGNORECASE)
MR_ENDING = re.compile(rf"[_-]({'|'.join(map(re.escape, NAMES['mr']))})$", re.IGNORECASE)
OTHER_NAMES = {name for role in ROLES for name in NAMES[role]}
EXPECTED = f"a file named {', '.join(NAMES['mr'][:-1])} or {NAMES['mr'][-1]} in a case's folder"
REMEDY = "rename it, or name it in a csv"


@dataclass
class Survey:
    """Everything below a folder is in one of these, by itself or with the folder that it is in."""

    sources: dict[str, Path] = field(default_factory=dict)  # case => its MR: a file or a folder of DICOM
    problems: dict[str, str] = field(default_factory=dict)  # case => why it cannot be used
    left_out: dict[Path, str] = field(default_factory=dict)  # what may be an MR, and why it is not used
    aside: dict[Path, str] = field(default_factory=dict)  # what is no MR, and how that is known

    def add(self, name: str, path: Path) -> None:
        if name in self.sources or name in self.problems:
            other = self.sources.pop(name, None)
            first = f"{shown(path)} and {shown(other)}" if other else shown(path)
            self.problems[name] = f"{first}: two inputs for one case; remove or rename one"
        else:
            self.sources[name] = path


def survey(root: Path, results: tuple[Path, ...] = ()) -> Survey:
    """Return what a folder of cases holds; `results` are the folders that the run writes to, which are none of it.

    A case is an image `<case>.nii.gz` (also `<case>_mr.mha` …), a folder `<case>/` that holds a file named mr, or a
    folder `<case>/` of DICOM at any depth; in the folder itself or in its Task1/<region>/. A folder that holds a file
    named mr itself is that of one patient.
    """
    found = Survey()
    _cases(root, found, {path.resolve() for path in results})
    return found


def _cases(folder: Path, found: Survey, results: set[Path]) -> None:
    entries = _entries(folder, found)
    if any(_is_mr(path) for path in entries):
        _patient(folder, entries, found)
        return
    loose = [path for path in entries if path.is_file() and is_dicom(path)]
    if loose:
        found.add(folder.resolve().name, folder)
    for path in entries:
        if path.resolve() in results:
            found.aside[path] = "the folder of the results"
        elif path.is_dir() and (path.name == "Task1" or folder.name == "Task1"):
            _cases(path, found, results)
        elif path.is_dir():
            _folder(path, found)
        elif path not in loose:
            _file(path, found)


def _entries(folder: Path, found: Survey) -> list[Path]:
    """Return what is in a folder; what is hidden, or cannot be looked into, is set aside or left out here."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        found.left_out[folder] = f"cannot be looked into ({error.strerror}); make it readable"
        return []
    found.aside |= {path: "hidden" for path in entries if path.name.startswith(".")}
    return [path for path in entries if not path.name.startswith(".")]


def _is_mr(path: Path) -> bool:
    return stem_of(path).lower() in NAMES["mr"] and not path.is_dir()


def _below(folder: Path, found: Survey) -> Iterator[Path]:
    """Yield the files below a folder, at any depth."""
    for path in _entries(folder, found):
        if path.is_dir() and path.is_symlink():
            found.left_out[path] = "a link to a folder, which is not followed at this depth; give that folder itself"
        elif path.is_dir():
            yield from _below(path, found)
        else:
            yield path


def _file(path: Path, found: Survey) -> None:
    """Sort a file that is in the folder of the cases itself."""
    stem = stem_of(path)
    if not stem:
        _no_image(path, found)
    elif ending := ENDING.search(stem):
        found.aside[path] = f"named as a {ending[1]}"
    elif made_here(path):
        found.aside[path] = "made by this suite"
    else:
        found.add(MR_ENDING.sub("", stem), path)


def _no_image(path: Path, found: Survey) -> None:
    if UNREAD.search(path.name.lower()):
        found.left_out[path] = f"not a type that is read; expected {', '.join(SUFFIXES)} or DICOM; convert it"
    else:
        found.aside[path] = "no image"


def _patient(folder: Path, entries: list[Path], found: Survey) -> None:
    """Take the MR of a patient's folder, and sort what is beside it."""
    for path in entries:
        if _is_mr(path):
            found.add(folder.resolve().name, path)
    for path in entries:
        inside = list(_below(path, found)) if path.is_dir() else [path]
        if not inside:
            found.aside[path] = "an empty folder"
        for file in inside:
            if not _is_mr(file) or path.is_dir():
                _beside(file, f"beside the file named mr of {folder.name}, which is taken", found)


def _beside(path: Path, why: str, found: Survey) -> None:
    """Sort a file that is no case of its own; `why` is said of an image of no known role."""
    stem = stem_of(path).lower()
    if stem in OTHER_NAMES or ENDING.search(stem):
        found.aside[path] = f"named as a {stem if stem in OTHER_NAMES else ENDING.search(stem)[1]}"
    elif stem and made_here(path):
        found.aside[path] = "made by this suite"
    elif stem or is_dicom(path):
        found.left_out[path] = why
    else:
        _no_image(path, found)


def _folder(folder: Path, found: Survey) -> None:
    """Sort a folder in the folder of the cases."""
    entries = _entries(folder, found)
    if any(_is_mr(path) for path in entries):
        _patient(folder, entries, found)
        return
    files = [file for path in entries for file in (_below(path, found) if path.is_dir() else [path])]
    dicom = [file for file in files if not stem_of(file) and is_dicom(file)]
    if dicom:
        other = _other_modalities(folder)
        if other:
            found.aside[folder] = f"DICOM without an MR ({other})"
        else:
            found.add(folder.name, folder)
    roles = sorted(stem_of(path).lower() for path in entries if stem_of(path).lower() in OTHER_NAMES)
    if roles and not dicom:
        found.left_out[folder] = f"holds {' and '.join(roles)} but no MR; expected {EXPECTED}; add it"
    for file in (file for file in files if file not in dicom):
        if dicom:
            why = f"an image beside the DICOM of {folder.name}, which is taken"
        elif file.parent == folder:
            why = f"not a name of an MR; expected {EXPECTED}; {REMEDY}"
        else:
            why = f"deeper than a case's folder; expected {EXPECTED}; give {shown(file.parent.parent)}, or name it in a csv"
        _beside(file, why, found)
    if not files:
        found.aside.setdefault(folder, "an empty folder")


def _other_modalities(folder: Path) -> str:
    """Return the modalities of a folder of DICOM where none of them can be an MR, "" where one may."""
    try:
        kinds = {series.modality for series in list_series(folder)}
    except MrictError:  # it is said when the case is read
        return ""
    if all(kind in OTHER_MODALITIES or kind.startswith("RT") for kind in kinds):
        return ", ".join(sorted(kinds)) or "no image"
    return ""
