"""Find the MR and the CT of every patient in a folder, or in a BIDS tree."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mrict_core.data.dicom.series import LINKED_FOLDER, NOT_DICOM, Series, scan
from mrict_core.data.discovery import TASK
from mrict_core.data.images.volumes import made_here, stem_of
from mrict_core.errors import MrictError
from mrict_core.paths import shown, some
from mrict_core.pipeline.pair_sides import KINDS, MASK_STEMS, kind_named

RECORD = "pair.json"  # in the folder of every pair that is made here
BIDS_FOLDERS = ("anat", "ct")
TO_CSV = "name the ones to use in a csv (patient, mr, ct)"
EXPECTED = "a folder for each patient with an MR and a CT (DICOM, or files named mr… or t1…, and ct…)"
Side = tuple[Path, str]  # a file or a DICOM folder, and the series in it ("": no DICOM)


@dataclass(frozen=True)
class PairInput:
    """The two scans of a patient: each a file or a DICOM folder, with the name of its series if it has several."""

    patient: str
    mr: Path
    ct: Path
    mask: Path | None = None
    centre: str | None = None
    transform: Path | None = None
    mr_series: str = ""
    ct_series: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files and folders that were given."""
        return tuple(path for path in (self.mr, self.ct, self.mask, self.transform) if path is not None)


@dataclass
class Found:
    """All patients of an input: a pair each, or a line that says why not; what else was seen and is not used."""

    pairs: list[PairInput] = field(default_factory=list)
    failed: dict[str, tuple[str, tuple[Path, ...]]] = field(default_factory=dict)  # patient => why, its folder or files
    left_out: list[str] = field(default_factory=list)


def pairs_below(root: Path, results: Path | None = None) -> Found:
    """Return the pairs in a folder of patients, in the folder of one patient, in a BIDS tree or a subject of one.

    `results`: the folder of the pairs; nothing is said of it if it is inside. Links to patients' folders are followed.
    """
    found = Found()
    if _holds_pairs(root):
        raise MrictError(f"{shown(root)}: holds pairs that were made here; expected scans; give their folder")
    folders = [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    made = [p for p in folders if _holds_pairs(p)]
    folders = [p for p in folders if p not in made]
    made = [p for p in made if results is None or p.resolve() != results.resolve()]
    found.left_out += [f"{shown(p)}: pairs that were made here" for p in made]
    if root.resolve().name.startswith("sub-") and _is_bids(root):
        _bids(root.resolve(), found)
    elif any(_is_bids(folder) for folder in folders if folder.name.startswith("sub-")):
        for folder in folders:
            if folder.name.startswith("sub-"):
                _bids(folder, found)
            elif folder.name not in ("derivatives", "code", "sourcedata"):
                found.left_out.append(f"{shown(folder)}: not a subject of BIDS (sub-…)")
    elif _is_one_patient(root, folders):
        _patient(root.resolve().name, root, found)
    else:
        for folder in folders:
            _patient(folder.name, folder, found)
        _loose(root, found)
    if not found.pairs and not found.failed:
        seen = f" ({some(found.left_out, 3, '; ')})" if found.left_out else ""
        raise MrictError(
            f"{shown(root)}: no pair found{seen}; expected {EXPECTED}, or a csv; give the folder of the patients"
        )
    return found


def _holds_pairs(folder: Path) -> bool:
    """Return whether a folder is one of results."""
    return any(folder.glob(f"{TASK}/*/*/{RECORD}"))


def _is_one_patient(root: Path, folders: list[Path]) -> bool:
    """Return whether a folder is one patient's: it has a folder or file that is the MR and one that is the CT."""
    kinds = [kind_named(folder.name) for folder in folders]
    files = [kind for kind in KINDS for file in root.iterdir() if file.is_file() and stem_of(file).lower() == kind]
    return {"mr", "ct"} <= {*kinds, *files}


def _patient(name: str, folder: Path, found: Found) -> None:
    """Add the pair of one patient's folder, or why there is none."""
    try:
        series, rest = scan(folder)
        found.left_out += [f"{shown(path)}: a link to a folder" for path, why in rest if why == LINKED_FOLDER]
        images = [path for path, why in rest if why == NOT_DICOM and stem_of(path)]
        sides = _sides(name, folder, series, [path for path in images if not (path.parent / RECORD).is_file()])
        if not any(sides.values()) and not series:
            found.left_out.append(f"{shown(folder)}: no image with a name or header of an MR or a CT")
            return
        mr, ct = (_only(sides[kind], kind, folder, series) for kind in ("mr", "ct"))
        mask = _only(sides["mask"], "mask", folder) if sides["mask"] else (None, "")
        found.pairs.append(PairInput(name, mr[0], ct[0], mask[0], mr_series=mr[1], ct_series=ct[1]))
        unused = [path for kind in sides.values() for path, own in kind if (path, own) not in (mr, ct, mask)]
        found.left_out += [f"{shown(path)}: not used, {name} has its MR and CT" for path in unused]
    except MrictError as error:
        found.failed[name] = str(error), (folder,)


def _sides(name: str, folder: Path, series: list[Series], images: list[Path]) -> dict[str, list[Side]]:
    """Return what may be the MR, the CT and the mask, and under "" images of unknown kind.

    A file named just `mr`, `ct` or `mask` is taken before others of its kind.
    """
    sides: dict[str, list[Side]] = {"mr": [], "ct": [], "mask": [], "": []}
    for one in series:
        kind = {"MR": "mr", "CT": "ct"}.get(one.modality, "")
        if kind and not one.localizer:
            place = Path(os.path.commonpath([file.parent for file, _ in one.headers]))
            sides[kind].append((place, one.name))
    for path in images:
        if not made_here(path):
            sides[_kind_of(path, folder, name)].append((path, ""))
    return sides


def _kind_of(path: Path, folder: Path, patient: str) -> str:
    """Return the kind of an image by its own name, else by the nearest folder of the patient that names one."""
    own = stem_of(path)
    stem = (own.lower().removeprefix(patient.lower()) or own).strip("_-. ").lower()
    if stem in MASK_STEMS:
        return "mask"
    if len(stem) and (kind := kind_named(stem)):
        return kind
    inside = path.parent.relative_to(folder).parts
    return next((kind for part in reversed(inside) if (kind := kind_named(part))), "") if not _says_both(stem) else ""


def _says_both(stem: str) -> bool:
    """Return whether a name has words of both kinds, such as ct_on_mr."""
    words = {kind_named(word) for word in stem.replace("-", "_").split("_")}
    return {"mr", "ct"} <= words


def _exact(sides: list[Side], kind: str) -> list[Side]:
    return [side for side in sides if not side[1] and stem_of(side[0]).lower() == kind]


def _only(sides: list[Side], kind: str, folder: Path, series: Sequence[Series] = ()) -> Side:
    """Return the only side of a kind; raise if there is none, or several."""
    word = KINDS[kind]
    if not sides:
        held = some([one.text() for one in series], 4)
        has = f"{len(series)} DICOM series and no {word} among them: {held}" if series else f"no {word}"
        raise MrictError(
            f"{shown(folder)}: {has}; expected one by its DICOM modality or its name ({kind}…); rename it or use a csv"
        )
    chosen = _exact(sides, kind) or sides
    if len(chosen) > 1:
        both = some([f"{shown(path)}{f' (series {series})' if series else ''}" for path, series in chosen], 4, " and ")
        raise MrictError(f"{shown(folder)}: {len(chosen)} that may be the {word}: {both}; expected one; {TO_CSV}")
    return chosen[0]


def _loose(root: Path, found: Found) -> None:
    """Add the pairs of files directly in the folder: p1_mr.nii.gz and p1_ct.nii.gz are patient p1."""
    groups: dict[str, dict[str, list[Side]]] = defaultdict(lambda: {"mr": [], "ct": [], "mask": []})
    for file in sorted(path for path in root.iterdir() if path.is_file() and stem_of(path)):
        patient, _, last = stem_of(file).replace("-", "_").rpartition("_")
        kind = "mask" if last.lower() == "mask" else kind_named(last)
        if patient and kind:
            groups[stem_of(file)[: len(patient)]][kind].append((file, ""))
        else:
            found.left_out.append(f"{shown(file)}: its name ends in neither _mr nor _ct")
    for patient, sides in groups.items():
        files = tuple(path for kind in sides.values() for path, _ in kind)
        try:
            if patient in found.failed or any(pair.patient == patient for pair in found.pairs):
                raise MrictError(f"{shown(files[0])}: {patient} is a folder too; expected one of them; {TO_CSV}")
            mr, ct = (_only(sides[kind], kind, root)[0] for kind in ("mr", "ct"))
            mask = _only(sides["mask"], "mask", root)[0] if sides["mask"] else None
            found.pairs.append(PairInput(patient, mr, ct, mask))
        except MrictError as error:
            found.failed[patient] = str(error), files


# --------------------------------------------------------------------------------------------------------- BIDS


def _is_bids(folder: Path) -> bool:
    """Return whether a folder is a subject of BIDS: anat/ or ct/ in it or in its sessions."""
    return any((place / name).is_dir() for place in (folder, *folder.glob("ses-*")) for name in BIDS_FOLDERS)


def _bids(subject: Path, found: Found) -> None:
    """Add the pairs of a subject, one for each session with both scans, which are named after it if there are more."""
    sessions = sorted(path for path in subject.glob("ses-*") if path.is_dir()) or [subject]
    places = (("mr", "anat"), ("ct", "ct"))
    held = {one: {kind: _bids_images(one / place) for kind, place in places} for one in sessions}
    both = [one for one in sessions if all(held[one].values())]
    if not both:
        apart = [f"{KINDS[kind]} in {one.name}" for one in sessions for kind in ("mr", "ct") if held[one][kind]]
        reason = f"{', '.join(apart) or 'neither MR nor CT'}; expected anat/ and ct/ of one session; {TO_CSV}"
        found.failed[subject.name] = f"{shown(subject)}: {reason}", (subject,)
    for one in both:
        name = subject.name if len(sessions) == 1 else f"{subject.name}_{one.name}"
        try:
            mr, ct = (_only(_preferred(held[one][kind], found), kind, one)[0] for kind in ("mr", "ct"))
            found.pairs.append(PairInput(name, mr, ct))
        except MrictError as error:
            found.failed[name] = str(error), (one,)
    found.left_out += [f"{shown(one)}: MR or CT alone" for one in sessions if both and one not in both]


def _bids_images(folder: Path) -> list[Side]:
    """Return the images of anat/ or ct/; derived ones (masks, segmentations) are none."""
    if not folder.is_dir():
        return []
    files = sorted(path for path in folder.iterdir() if path.is_file() and stem_of(path))
    ends = ("mask", "dseg", "probseg")
    return [(file, "") for file in files if not stem_of(file).lower().endswith(ends)]


def _preferred(images: list[Side], found: Found) -> list[Side]:
    """Return the T1-weighted images if there are any, and say what else was seen."""
    first = [image for image in images if stem_of(image[0]).endswith("_T1w")]
    if first:
        found.left_out += [f"{shown(path)}: not used, there is a T1w" for path, _ in images if (path, "") not in first]
    return first or images
