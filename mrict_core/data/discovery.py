"""Find patients in SynthRAD layout; every file or folder that is not used gets a reason."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from mrict_core.data.images.grids import check_same_grid
from mrict_core.data.images.orders import own_plane
from mrict_core.data.images.volumes import SUFFIXES, UNREAD, made_here, read_geometry, stem_of
from mrict_core.errors import MrictError, UnavailableError
from mrict_core.files import available, unavailable
from mrict_core.modalities import CT_FILES, MODALITIES, MR, Modality, modality_named
from mrict_core.paths import PHANTOM, Folders, as_folders, common_folder, data_root, is_folder_of, shown, spelled

ROLES = ("mr", "ct", "mask")  # mr: the input, whatever it is
METAL = "metal"  # a further mask that `--exclude-metal` reads where there is one
TASK = MR.task
PATIENT_ID = re.compile(r"[12](B|P|HN|TH|AB)([A-Z])\d+", re.IGNORECASE)
REGION_OF = {"B": "brain", "P": "pelvis", "HN": "HN", "TH": "TH", "AB": "AB"}
HIDDEN = {"lost+found", "$recycle.bin", "system volume information", "@eadir", "__macosx"}  # and names with a dot first
RECORDS = ("phantom.json", "download.json", "pair.json", "pairs.csv", "pairs.html")  # of this suite
PARTS = (".raw", ".zraw", *RECORDS)  # of images in two files; records
DEPTH = 8  # levels of folders searched below the root
FURTHER = "~"  # before the suffix of a person's further images, such as 1BA001~coronal


@dataclass(frozen=True)
class PatientFiles:
    """The three files of a patient, and the centre and region that its id names."""

    patient: str
    person: str  # the id without the suffix for a further folder
    centre: str
    region: str
    mr: Path
    ct: Path
    mask: Path
    shape: tuple[int, int, int]  # of all three, in file order
    affine: tuple[tuple[float, ...], ...]
    metal: Path | None = None  # the mask of what losses and scores leave out, if searched for

    @property
    def sources(self) -> dict[str, Path]:
        """The files by their roles."""
        metal = {METAL: self.metal} if self.metal else {}
        return {role: getattr(self, role) for role in ROLES} | metal


@dataclass(frozen=True)
class Skip:
    """A patient that cannot be used; `reason` is one line: the file, what was found, what was expected, what to do."""

    patient: str
    path: str
    reason: str


class Kind(StrEnum):
    """Why a file or folder belongs to no patient of the run; only UNRECOGNISED may be a patient that was missed."""

    UNRECOGNISED = "not recognised"
    ELSEWHERE = "of another region or task"
    OWN = "made by this suite"
    BESIDE = "beside a patient's mr, ct and mask"
    OTHER = "without an image"


@dataclass(frozen=True)
class Aside:
    """An unused file or folder; `reason` is one line that names it."""

    kind: Kind
    path: str
    reason: str


@dataclass(frozen=True)
class Discovery:
    """All patients under `roots`: the usable ones sorted by id, those skipped, and everything else."""

    roots: tuple[Path, ...]
    patients: tuple[PatientFiles, ...]
    skipped: tuple[Skip, ...]
    aside: tuple[Aside, ...] = ()

    @property
    def root(self) -> Path:
        """The only root, or the nearest folder that holds them all."""
        return common_folder(self.roots)


def _entries(folder: Path) -> list[Path]:
    with available(folder):
        return sorted(folder.iterdir())


def centre_of(patient_id: str) -> str:
    """Return the centre's letter in a SynthRAD id (1BA001 -> A), "?" for any other id."""
    match = PATIENT_ID.match(patient_id)
    return match[2].upper() if match else "?"


def region_of(patient_id: str) -> str | None:
    """Return the region that a SynthRAD id names (1PA001 -> pelvis), None for any other id."""
    match = PATIENT_ID.match(patient_id)
    return REGION_OF[match[1].upper()] if match else None


@dataclass(frozen=True)
class _Wanted:
    """What is searched for: patients of a region with the files of an input."""

    region: str
    modality: Modality = MR
    ct: str = "rigid"
    metal: bool = False

    @property
    def files(self) -> dict[str, str]:
        """{role: name of its file, without suffix}"""
        return {"mr": self.modality.name, "ct": CT_FILES[self.ct], "mask": "mask"}

    @property
    def named(self) -> str:
        """The three names in words."""
        first, second, third = self.files.values()
        return f"{first}, {second} and {third}"

    def of_other_input(self, folder: Path) -> bool:
        """Return whether a folder has the input of another task and not that of this one."""
        stems = {stem_of(path).lower() for path in _entries(folder)}
        return self.modality.name not in stems and bool(stems & (MODALITIES.keys() - {self.modality.name}))


def _role_files(folder: Path, wanted: _Wanted) -> dict[str, list[Path]]:
    """Return the files of each role in a folder; upper and lower case count alike."""
    sought = wanted.files | ({METAL: METAL} if wanted.metal else {})
    names = {name + suffix: role for role, name in sought.items() for suffix in SUFFIXES}
    found: dict[str, list[Path]] = {}
    for file in _entries(folder):
        role = names.get(file.name.lower())
        if role and file.is_file():
            found.setdefault(role, []).append(file)
    return found


def _parents(root: Path, wanted: _Wanted) -> list[Path]:
    """Return the parents of patient folders in the three layouts, SynthRAD's first; a region in any spelling."""
    found = []
    for above in (root / wanted.modality.task, root):
        entries = [path for path in _entries(above) if path.is_dir()] if above.is_dir() else []
        found += [path for path in entries if is_folder_of(wanted.region, path.name)]
    return [*found, root]


def _hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in HIDDEN


def _check_there(path: Path) -> None:
    """Raise `UnavailableError` if a listed path has vanished: the disk is at fault, not the patient."""
    if not os.path.lexists(path):
        raise UnavailableError(f"{shown(path)}: was listed and is gone; expected the data to stay; run again")


def _candidates(root: Path, wanted: _Wanted) -> Iterator[Path]:
    """Yield the patient folders of all three layouts, SynthRAD's first."""
    for parent in _parents(root, wanted):
        for folder in _entries(parent):
            if _hidden(folder):
                continue
            _check_there(folder)
            if PATIENT_ID.fullmatch(folder.name) or (folder.is_dir() and _role_files(folder, wanted)):
                yield folder


def _inspect(folder: Path, wanted: _Wanted) -> PatientFiles:
    """Return the patient in a folder, or raise the reason why it is unusable. Reads headers only."""
    if not folder.is_dir():
        raise MrictError(f"{shown(folder)}: a file or a broken link; expected a patient's folder; replace it")
    found = _role_files(folder, wanted)
    for role, name in (wanted.files | {METAL: METAL}).items():
        files = found.get(role, [])
        if not files and role != METAL:
            deeper = next((path for path in _entries(folder) if path.is_dir() and _role_files(path, wanted)), None)
            remedy = f"move the files up from {deeper.name}/" if deeper else "add it"
            raise MrictError(f"{shown(folder)}: {name}.nii.gz is missing; expected {wanted.named}; {remedy}")
        if len(files) > 1:
            names = " and ".join(f.name for f in files)
            raise MrictError(f"{shown(folder)}: holds {names}; expected one {name} file; remove the other")
    paths = {role: found[role][0] for role in (*ROLES, METAL) if role in found}
    grids = {role: (*read_geometry(path), path) for role, path in paths.items()}
    check_same_grid(grids)
    shape, affine, path = grids["mr"]
    if sorted(shape)[1] == 1:
        raise MrictError(f"{shown(path)}: {'×'.join(map(str, shape))} voxels are a line; expected slices; export again")
    return PatientFiles(
        patient=folder.name,
        person=folder.name,
        centre=centre_of(folder.name),
        region=wanted.region,
        **paths,
        shape=shape,
        affine=tuple(tuple(float(v) for v in row) for row in affine),
    )


def _is_dicom(file: Path) -> bool:
    """True for a file with a DICOM suffix, or with DICM after 128 bytes."""
    if file.suffix.lower() in (".dcm", ".ima"):
        return True
    if file.suffix and not file.suffix[1:].isdigit():  # names of UIDs end with digits
        return False
    try:
        with open(file, "rb") as content:
            return content.read(132)[128:] == b"DICM"
    except OSError:
        return False


class _Survey:
    """A walk over everything below a root that is not a patient of the run."""

    def __init__(self, root: Path, wanted: _Wanted, patients: dict[Path, set[Path]]) -> None:
        self.root, self.wanted, self.patients = root, wanted, patients
        self.parents = {parent.resolve() for parent in _parents(root, wanted)}
        self.visited: set[Path] = set()
        self.found: dict[str, Aside] = {}  # by path: one entry for each

    def add(self, kind: Kind, path: Path, reason: str) -> None:
        if path not in self.patients:  # those are used or skipped
            self.found.setdefault(str(path), Aside(kind, str(path), f"{shown(path)}: {reason}"))

    def walk(self, folder: Path, top: Path, depth: int = 0) -> None:
        """Survey `folder`; `top` is its ancestor directly below the parent of a layout."""
        place = folder.resolve()
        if place in self.visited:
            return
        self.visited.add(place)
        if place in (data_root() / PHANTOM, data_root() / "stores") and folder != self.root:
            return self.add(Kind.OWN, folder, "phantoms or slices of this suite")
        if depth > DEPTH:
            return self.add(Kind.UNRECOGNISED, folder, f"{depth} folders deep, not searched; give it as --data")
        try:
            with os.scandir(folder) as listing:  # tells folders from files without a call for each
                found = {Path(e.path): e.is_dir(follow_symlinks=False) or e.is_symlink() for e in listing}
            entries = {path: maybe and path.is_dir() for path, maybe in found.items() if not _hidden(path)}
        except PermissionError:
            return self.add(Kind.UNRECOGNISED, folder, "cannot be listed (permission denied); make it readable")
        except OSError as error:
            raise unavailable(folder, error) from None
        if not entries:
            self.add(Kind.OTHER, folder, "an empty folder")
        self.files(folder, top, sorted(path for path, is_folder in entries.items() if not is_folder))
        for path in sorted(path for path, is_folder in entries.items() if is_folder):
            direct = (
                place in self.parents and path.resolve() not in self.parents and path.name != self.wanted.modality.task
            )
            self.walk(path, path if direct else top, depth + 1)

    def files(self, folder: Path, top: Path, files: list[Path]) -> None:
        """Record the files of one folder."""
        owner = next((p for p in (folder, *folder.parents) if p in self.patients), None)
        used = self.patients.get(owner, set())
        images = [p for p in files if (stem_of(p) or p.name.lower().endswith(UNREAD)) and p not in used]
        outputs = [path for path in images if made_here(path)]
        images = [path for path in images if path not in outputs]
        others = [p for p in files if not stem_of(p) and not p.name.lower().endswith((*PARTS, *UNREAD))]
        dicom = next(filter(_is_dicom, others), None)
        for path in others if not dicom else ():
            self.add(Kind.OTHER, path, "not an image")
        for path in outputs:
            self.add(Kind.OWN, path, "a synthetic CT of this suite")
        if owner:
            for path in [*images, *([dicom] if dicom else [])]:
                self.add(Kind.BESIDE, path, f"not used: only {self.wanted.named} of {owner.name} are")
        elif images or dicom:
            self.images(folder, top, images, dicom)

    def images(self, folder: Path, top: Path, images: list[Path], dicom: Path | None) -> None:
        """Record a folder that holds images but is not a patient of the run."""
        inside = folder.relative_to(self.root).parts
        subject = next((k for k, part in enumerate(inside, start=1) if part.lower().startswith("sub-")), 0)
        region, task = self.wanted.region, self.wanted.modality.task
        regions = {spelled(part) or None for part in inside} | {region_of(part) for part in inside}
        if len(inside) > 2 and inside[0] == task and not is_folder_of(region, inside[1]):
            regions.add(inside[1])
        names, either = (self.wanted.named.replace(" and", between) for between in (",", " or"))
        first, top = (images or [dicom])[0].relative_to(self.root), folder if top == self.root else top
        other_task = any(part.startswith("Task") and part != task for part in inside)
        if regions - {None, region} or other_task or self.wanted.of_other_input(folder):
            self.add(Kind.ELSEWHERE, folder, f"not of {task}, {region}")
        elif images and _role_files(folder, self.wanted) and not subject:
            self.add(Kind.UNRECOGNISED, folder, f"a patient deeper than the search; {self.remedy(folder)}")
        elif folder == self.root or folder.resolve() in self.parents:
            for path in images or [dicom]:
                self.add(Kind.UNRECOGNISED, path, "an image outside a patient's folder; move it into one")
        elif subject:
            bids = self.root.joinpath(*inside[:subject])
            self.add(Kind.UNRECOGNISED, bids, f"BIDS ({first.name}) is not read; copy it to <patient>/ as {names}")
        elif not images:
            self.add(
                Kind.UNRECOGNISED, top, f"DICOM ({first}) is not read here; convert it to {self.wanted.named} as NIfTI"
            )
        elif not any(map(stem_of, images)):
            self.add(Kind.UNRECOGNISED, top, f"{first} has an unsupported type; convert it to NIfTI, MHA or NRRD")
        else:
            self.add(Kind.UNRECOGNISED, top, f"none of its images is named {either} (first {first}); rename them")

    def remedy(self, patient: Path) -> str:
        """Return which folder to give as --data so that a deeper patient is found."""
        above = patient.parent
        for name in (self.wanted.region, self.wanted.modality.task):
            above = above.parent if is_folder_of(name, above.name) and above != self.root else above
        return f"give --data {shown(above)}, or move it to {shown(self.root)}"


def _nothing_found(root: Path, wanted: _Wanted, aside: tuple[Aside, ...]) -> MrictError:
    region, task = wanted.region, wanted.modality.task
    elsewhere = [Path(a.path).relative_to(root).parts for a in aside if a.kind is Kind.ELSEWHERE]
    others = {region_of(parts[-1]) for parts in elsewhere if parts} - {None, region}
    others |= {spelled(parts[1]) or parts[1] for parts in elsewhere if len(parts) > 2 and parts[0] == task}
    if others:
        found = ", ".join(sorted(others))
        return MrictError(f"{shown(root)}: its patients are of region {found}, not {region}; choose that region")
    hint = "; this is a single patient: give its parent folder" if _role_files(root, wanted) else ""
    of_other = [a for a in aside if a.kind is Kind.ELSEWHERE and wanted.of_other_input(Path(a.path))]
    if of_other:
        other = next(name for name in MODALITIES if name != wanted.modality.name)
        hint = f"; {len(of_other)} of its folders have {other} files: choose --input {other}"
    left = [a.reason for a in aside if a.kind is Kind.UNRECOGNISED]
    if left and not hint:
        hint = f"; {len(left)} not recognised: {' | '.join(left)}"
    return MrictError(
        f"{shown(root)}: no patient found; looked for {task}/{region}/<patient>/, {region}/<patient>/ and <patient>/ "
        f"with {wanted.named} ({', '.join(SUFFIXES)}){hint}"
    )


def discover(
    data_dir: Folders,
    region: str = "brain",
    strict: bool = False,
    *,
    modality: str = MR.name,
    ct: str = "rigid",
    exclude_metal: bool = False,
) -> Discovery:
    """Return the patients of `region` under one folder or several, each with at least one.

    A folder holds `Task1/<region>/<id>/`, `<region>/<id>/` or `<id>/`. Equal ids in several folders are one person: the
    first keeps its id, the others get a suffix, their plane or, if that is taken, their number (`1BA001~coronal`,
    `1BA001~2`). `modality`: the input's, whose file is the patient's `mr`; that of a CBCT is named cbct, its task is
    Task2. `ct`: deformed takes ct_def. `exclude_metal` reads a patient's metal mask too, where there is one.

    Reads headers only. A patient with missing files, damaged headers, different grids or a duplicate id in its folder
    becomes a `Skip`; with `strict` the first one raises. Everything else below a folder except hidden files is in
    `aside`. Raises `MrictError` if a folder holds no patient, `UnavailableError` if one cannot be listed or a file
    vanishes.
    """
    wanted = _Wanted(region, modality_named(modality), ct, exclude_metal)
    parts = [_of_root(root, wanted, strict) for root in as_folders(data_dir)]
    if len(parts) == 1:
        return parts[0]
    patients, skipped = _named_apart([p for part in parts for p in part.patients], strict)
    return Discovery(
        tuple(root for part in parts for root in part.roots),
        tuple(sorted(patients, key=lambda p: p.patient)),
        (*(skip for part in parts for skip in part.skipped), *skipped),
        tuple(sorted((a for part in parts for a in part.aside), key=_rank)),
    )


def _named_apart(found: list[PatientFiles], strict: bool) -> tuple[list[PatientFiles], list[Skip]]:
    """Return the patients of several folders with a suffix where an id repeats, and those whose id holds one."""
    patients: list[PatientFiles] = []
    skipped: list[Skip] = []
    first: dict[str, str] = {}
    planes: dict[str, list[str]] = {}  # of the images of one person
    for files in found:
        if FURTHER in files.patient:
            folder = files.mr.parent
            reason = (
                f"{shown(folder)}: a {FURTHER} in its name; expected none with several --data, as it marks a person's "
                "further images; rename it"
            )
            if strict:
                raise MrictError(reason)
            skipped.append(Skip(files.patient, str(folder), reason))
            continue
        person, plane = first.setdefault(files.patient.lower(), files.patient), own_plane(files.shape, files.affine)
        before = planes.setdefault(person, [])
        if before:
            suffix = plane if plane not in before else str(len(before) + 1)
            files = replace(files, patient=f"{person}{FURTHER}{suffix}", person=person)
        before.append(plane)
        patients.append(files)
    return patients, skipped


def _rank(aside: Aside) -> tuple[int, str]:
    return list(Kind).index(aside.kind), aside.path


def _of_root(root: Path, wanted: _Wanted, strict: bool) -> Discovery:
    if not root.is_dir():
        raise MrictError(f"{shown(root)}: no such folder; give a folder of patients with {wanted.named} files")
    patients: list[PatientFiles] = []
    skipped: list[Skip] = []
    seen: dict[str, Path] = {}
    known: dict[Path, set[Path]] = {}  # patient folder -> its used files
    for folder in _candidates(root, wanted):
        named = region_of(folder.name)
        if folder.parent == root and named and named != wanted.region:
            continue
        of_task = root / wanted.modality.task in folder.parents  # there a patient lacks its input
        if not of_task and folder.is_dir() and wanted.of_other_input(folder):
            continue
        known[folder] = set()
        try:
            first = seen.setdefault(folder.name.lower(), folder)
            if first != folder:
                raise MrictError(f"{shown(folder)}: {shown(first)} has the same id; expected one; remove or rename it")
            patients.append(found := _inspect(folder, wanted))
            known[folder] = set(found.sources.values())
        except UnavailableError:
            raise
        except MrictError as error:
            if strict:
                raise
            skipped.append(Skip(folder.name, str(folder), str(error)))
            known[folder] = set(_entries(folder)) if folder.is_dir() else set()
    for folder in known:
        _check_there(folder)
    survey = _Survey(root, wanted, known)
    survey.walk(root, root)
    aside = tuple(sorted(survey.found.values(), key=_rank))
    if not patients and not skipped:
        raise _nothing_found(root, wanted, aside)
    patients.sort(key=lambda p: p.patient)
    return Discovery((root,), tuple(patients), tuple(skipped), aside)
