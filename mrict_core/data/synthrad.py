"""Discovery of patients in SynthRAD layout, with a reason for every patient that cannot be used."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mrict_core.data.volumes import SUFFIXES, check_same_grid, read_geometry
from mrict_core.errors import MrictError
from mrict_core.paths import shown

ROLES = ("mr", "ct", "mask")
TASK = "Task1"
PATIENT_ID = re.compile(r"[12](B|P|HN|TH|AB)([A-Z])\d+", re.IGNORECASE)
REGION_OF = {"B": "brain", "P": "pelvis", "HN": "HN", "TH": "TH", "AB": "AB"}


@dataclass(frozen=True)
class PatientFiles:
    """The three files of a patient and what its id says."""

    patient: str
    centre: str
    region: str
    mr: Path
    ct: Path
    mask: Path
    shape: tuple[int, int, int]  # of all three, in file order
    affine: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Skip:
    """A patient that cannot be used; `reason` is one line: the file, what came, what was expected, the remedy."""

    patient: str
    path: str
    reason: str


@dataclass(frozen=True)
class Discovery:
    """All patients found under `root`, usable ones sorted by id, and those left out."""

    root: Path
    patients: tuple[PatientFiles, ...]
    skipped: tuple[Skip, ...]


def centre_of(patient_id: str) -> str:
    """Return the centre's letter in a SynthRAD id (1BA001 -> A), "?" for any other id."""
    match = PATIENT_ID.match(patient_id)
    return match[2].upper() if match else "?"


def region_of(patient_id: str) -> str | None:
    """Return the region that a SynthRAD id names (1PA001 -> pelvis), None for any other id."""
    match = PATIENT_ID.match(patient_id)
    return REGION_OF[match[1].upper()] if match else None


def _role_files(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each role in a folder, whatever the case of their names."""
    names = {role + suffix: role for role in ROLES for suffix in SUFFIXES}
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        role = names.get(file.name.lower())
        if role and file.is_file():
            found.setdefault(role, []).append(file)
    return found


def _candidates(root: Path, region: str) -> Iterator[Path]:
    """Yield the patient folders of all three layouts, the SynthRAD one first."""
    for parent in (root / TASK / region, root / region, root):
        if not parent.is_dir():
            continue
        for folder in sorted(parent.iterdir()):
            if folder.name.startswith("."):
                continue
            if PATIENT_ID.fullmatch(folder.name) or (folder.is_dir() and _role_files(folder)):
                yield folder


def _inspect(folder: Path, region: str) -> PatientFiles:
    """Return the patient of a folder, or raise the reason against it. Reads headers only."""
    if not folder.is_dir():
        raise MrictError(f"{shown(folder)}: a file, or a link that leads nowhere; expected a patient's folder; mend it")
    try:
        found = _role_files(folder)
    except OSError as error:
        raise MrictError(f"{shown(folder)}: cannot be listed ({error.strerror}); make it readable") from None
    for role in ROLES:
        files = found.get(role, [])
        if not files:
            raise MrictError(f"{shown(folder)}: {role}.nii.gz is missing; expected mr, ct and mask; add it")
        if len(files) > 1:
            names = " and ".join(f.name for f in files)
            raise MrictError(f"{shown(folder)}: holds {names}; expected one {role} file; remove the other")
    paths = {role: found[role][0] for role in ROLES}
    grids = {role: (*read_geometry(path), path) for role, path in paths.items()}
    check_same_grid(grids)
    shape, affine, _ = grids["mr"]
    return PatientFiles(
        patient=folder.name,
        centre=centre_of(folder.name),
        region=region,
        **paths,
        shape=shape,
        affine=tuple(tuple(float(v) for v in row) for row in affine),
    )


def _nothing_found(root: Path, region: str, others: set[str]) -> MrictError:
    if others:
        found = ", ".join(sorted(others))
        return MrictError(f"{shown(root)}: its patients are of region {found}, not {region}; choose that region")
    hint = "; this is one patient: give the folder above it" if _role_files(root) else ""
    return MrictError(
        f"{shown(root)}: no patient found; looked for {TASK}/{region}/<patient>/, {region}/<patient>/ and <patient>/ "
        f"with mr, ct and mask ({', '.join(SUFFIXES)}){hint}"
    )


def discover(root: Path | str, region: str = "brain", strict: bool = False) -> Discovery:
    """Return the patients of `region` under `root` (`Task1/<region>/<id>/`, `<region>/<id>/` or `<id>/`).

    Reads headers, no voxels. A patient with missing files, damaged headers, differing grids or an id already used
    becomes a `Skip`; with `strict` the first one raises. No patient at all raises `MrictError`.
    """
    root = Path(root)
    if not root.is_dir():
        raise MrictError(f"{shown(root)}: no such folder; give a folder of patients with mr, ct and mask files")
    patients: list[PatientFiles] = []
    skipped: list[Skip] = []
    seen: dict[str, Path] = {}
    others: set[str] = set()
    for folder in _candidates(root, region):
        named = region_of(folder.name)
        if folder.parent == root and named and named != region:
            others.add(named)
            continue
        try:
            first = seen.setdefault(folder.name.lower(), folder)
            if first != folder:
                raise MrictError(f"{shown(folder)}: {shown(first)} has the same id; expected one; remove or rename it")
            patients.append(_inspect(folder, region))
        except MrictError as error:
            if strict:
                raise
            skipped.append(Skip(folder.name, str(folder), str(error)))
    if not patients and not skipped:
        raise _nothing_found(root, region, others)
    patients.sort(key=lambda p: p.patient)
    return Discovery(root, tuple(patients), tuple(skipped))
