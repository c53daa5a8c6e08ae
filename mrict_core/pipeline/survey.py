"""The content of a folder: the MRs to synthesise, and for everything else the reason why it is not one."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mrict_core.data.dicom import SeriesFound, series_below
from mrict_core.data.dicom.series import LINKED_FOLDER, NOT_DICOM
from mrict_core.data.images.volumes import SUFFIXES, UNREAD, made_here, stem_of
from mrict_core.evaluation.image_scores import NAMES, ROLES
from mrict_core.modalities import MODALITIES, MR, Modality
from mrict_core.paths import shown

# More types that may hold an MR; files of any other type are not images.
MAY_HOLD = (".ima", ".dcm", ".tif", ".tiff", ".npy", ".npz", ".mat", ".h5", ".zip", ".tar", ".gz", ".bz2", ".xz", ".7z")
OTHERS = {name for role in ROLES for name in NAMES[role]}
OTHER_ENDING = re.compile(rf"(^|[_-])({'|'.join(map(re.escape, OTHERS))})$", re.IGNORECASE)
ENDINGS = {  # of the files of an input
    name: re.compile(rf"[_-]({'|'.join(map(re.escape, NAMES[name]))})$", re.IGNORECASE) for name in MODALITIES
}
Rest = list[tuple[Path, str]]  # files that are not DICOM images, and why


def expected(modality: Modality) -> str:
    """Return what a folder of cases holds; CBCT is not read from DICOM."""
    dicom = "" if modality.window else " or with DICOM"
    return f"a file for each case, or a folder with a file named {modality.name}{dicom}"


@dataclass
class Survey:
    """Everything in a folder is in one of these: by itself, as part of a series or with its own folder."""

    modality: Modality = MR

    sources: dict[str, tuple[Path, str]] = field(default_factory=dict)  # case => its MR, and its series if several
    problems: dict[str, str] = field(default_factory=dict)  # case => why it cannot be used
    left_out: dict[Path, str] = field(default_factory=dict)  # possible MR => why it is not used
    aside: dict[Path, str] = field(default_factory=dict)  # not an MR => why

    def add(self, name: str, path: Path, series: str = "") -> None:
        if name not in self.sources and name not in self.problems:
            self.sources[name] = (path, series)
            return
        other = self.sources.pop(name, None)
        both = f"{shown(path)} and {shown(other[0])}" if other else shown(path)
        self.problems[name] = (
            f"{both}: two files for one {self.modality.name}; expected one input per case; remove or rename one"
        )


def survey(root: Path, results: Iterable[Path] = (), modality: Modality = MR) -> Survey:
    """Return the content of a folder of cases; `results` are the folders that the run writes to.

    A case is an image `<case>.nii.gz` (also `<case>_mr.mha` …), a folder `<case>/` with a file named mr, or an MR
    series in DICOM at any depth of a folder `<case>/`; in the folder itself or in its Task1/<region>/. A folder that
    contains a file named mr is one patient's.
    """
    found = Survey(modality)
    _cases(root, found, {path.resolve() for path in results})
    return found


def images_beside(folder: Path) -> list[Path]:
    """Return the images of other types in the folder of a DICOM series."""
    found = Survey()
    for path, why in series_below(folder)[1]:
        sort_beside(path, why, "", found)
    return sorted(path for path in found.left_out if stem_of(path))


def plain_name(name: str) -> str:
    """Return a name without control characters, for a file."""
    return "".join(c if c.isprintable() else "_" for c in name)


def _cases(folder: Path, found: Survey, results: set[Path]) -> None:
    series, rest = series_below(folder)
    series_of, rest_of = defaultdict(list), defaultdict(list)
    for one in series:
        series_of[_child(one.files[0], folder)].append(one)
    for path, why in rest:
        rest_of[_child(path, folder)].append((path, why))
    if any(_is_mr(path, found) for path in rest_of):
        _case(folder, series, rest, found)
        return
    for path in sorted({*rest_of, *series_of, *folder.iterdir()}):
        if path.resolve() in results:
            found.aside[path] = "the results of this command"
        elif path.name.startswith("."):
            found.aside[path] = "hidden"
        elif path.is_dir() and found.modality.task in (path.name, folder.name):
            _cases(path, found, results)
        elif path.is_dir():
            _case(path, *(series_below(path) if path.is_symlink() else (series_of[path], rest_of[path])), found)
        elif path in rest_of:
            _file(path, rest_of[path][0][1], found)
    loose = [one for path, items in series_of.items() if not path.is_dir() for one in items]
    _series(folder.resolve().name, loose, found)


def _child(path: Path, folder: Path) -> Path:
    """Return the entry of `folder` that is `path` or contains it."""
    inside = path.relative_to(folder).parts
    return folder / inside[0] if inside else folder


def _is_mr(path: Path, found: Survey) -> bool:
    return stem_of(path).lower() in NAMES[found.modality.name] and not path.is_dir()


def _case(folder: Path, series: list[SeriesFound], rest: Rest, found: Survey) -> None:
    """Sort the folder of one case: its file named mr, else its series, and the other files."""
    name = folder.name or folder.resolve().name
    own = [path for path, _ in rest if path.parent == folder and _is_mr(path, found)]
    if own:
        taken = f"not used: {own[0].name} is the MR of {name}"
        for path in own:
            found.add(name, path)
        found.left_out |= {one.files[0]: f"a DICOM series, {taken}" for one in series}
    else:
        taken = f"not used: the DICOM series is the MR of {name}" if any(not one.why_not for one in series) else ""
        _series(name, series, found)
        roles = sorted(OTHERS & {stem_of(path).lower() for path, _ in rest if path.parent == folder})
        if roles and not taken:
            found.left_out[folder] = f"has {' and '.join(roles)} but no file named {found.modality.name}; add it"
    for path, why in rest:
        if path not in own:
            place = path.parent.parent if _is_mr(path, found) else path.parent
            wanted = expected(found.modality)
            sort_beside(path, why, taken or f"not where an MR is expected ({wanted}); give {shown(place)}", found)
    if not series and not rest:
        found.aside[folder] = "an empty folder"


def _series(name: str, series: list[SeriesFound], found: Survey) -> None:
    """Add the MR series of one case; several are a case each."""
    usable = [one for one in series if not one.why_not]
    for one in usable:
        own = f"_{one.folder.name if one.alone else one.name}" if len(usable) > 1 else ""
        found.add(f"{name}{own}", one.folder, "" if one.alone else one.name)
    for one in series:
        if one.why_not:
            place = found.left_out if "--series" in one.why_not else found.aside
            place[one.files[0]] = f"{one.why_not} ({one.images} images)"


def _file(path: Path, why: str, found: Survey) -> None:
    """Sort a file directly in the folder of cases: an image is a case."""
    stem = stem_of(path)
    if stem and not OTHER_ENDING.search(stem) and not made_here(path):
        found.add(ENDINGS[found.modality.name].sub("", stem), path)
    else:
        sort_beside(path, why, "", found)


def sort_beside(path: Path, why: str, taken: str, found: Survey) -> None:
    """Sort a file that is not a case. `why`: it is not DICOM; `taken`: why an image of unknown role is not used."""
    stem = stem_of(path)
    if why.startswith(f"{shown(path)}: "):  # damaged, or not readable at the moment
        found.left_out[path] = why.removeprefix(f"{shown(path)}: ")
    elif why.startswith("hidden"):
        found.aside[path] = "hidden"
    elif why == LINKED_FOLDER:
        found.left_out[path] = "a link to a folder, which is not followed; give the folder itself"
    elif why != NOT_DICOM and not stem:
        found.aside[path] = why
    elif ending := OTHER_ENDING.search(stem):
        found.aside[path] = f"named as a {ending[2].lower()}"
    elif stem and made_here(path):
        found.aside[path] = "made by this suite"
    elif stem:
        found.left_out[path] = taken
    elif path.name.lower().endswith((*UNREAD, *MAY_HOLD)):
        found.left_out[path] = f"not a readable type; expected {', '.join(SUFFIXES)} or DICOM; convert it"
    else:
        found.aside[path] = "not an image"
