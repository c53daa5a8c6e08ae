"""Phantom patients by id, and cohorts on disk in the layout of SynthRAD2023."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from mrict_core.data.images.volumes import save_nifti
from mrict_core.data.phantom.anatomy import Person
from mrict_core.data.phantom.cbct import image_cbct
from mrict_core.data.phantom.fields import Grid
from mrict_core.data.phantom.head import paint_head
from mrict_core.data.phantom.pelvis import paint_pelvis
from mrict_core.data.phantom.scanner import CENTRES, acquisition_grid, image_ct, image_mr, majority
from mrict_core.data.phantom.tissues import OUTSIDE, Tissue
from mrict_core.errors import MrictError, unknown_name
from mrict_core.files import code_hash, hash_of, read_json, write_json
from mrict_core.machine import end_with_parent
from mrict_core.modalities import CBCT, MR, Modality
from mrict_core.paths import shown

REGIONS = {"brain": "B", "pelvis": "P"}
MASK_MARGIN_MM = 6.0  # SynthRAD masks have a small margin around the body; here at least one pixel
RECORD = "phantom.json"
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class PhantomSpec:
    """Sampling of patients: nominal voxel size (mm; centres differ by up to 8 %) and sub-voxels per axis."""

    region: str
    in_plane_mm: float
    slice_mm: float
    supersample: int = 1

    def __post_init__(self) -> None:
        if self.region not in REGIONS:
            raise unknown_name("region", self.region, REGIONS)
        if not (0.5 <= self.in_plane_mm <= 20 and 0.5 <= self.slice_mm <= 40):
            raise MrictError(
                f"phantom voxels {self.in_plane_mm} x {self.slice_mm} mm: allowed: 0.5-20 mm in plane, 0.5-40 mm apart"
            )
        if self.supersample not in (1, 2, 3, 4):
            raise MrictError(f"phantom supersample {self.supersample}: allowed are 1, 2, 3, 4 sub-voxels per axis")


@dataclass(frozen=True)
class PhantomPatient:
    """One digital patient; all arrays share one shape (file order) and `affine` (4, 4; voxel indices to RAS+ mm)."""

    patient_id: str
    mr: np.ndarray  # float32, whole numbers >= 0, arbitrary units; with an id of Task 2 the CBCT in HU
    ct: np.ndarray  # int16 HU
    mask: np.ndarray  # uint8 0/1: the body with a margin, as the data set ships it
    labels: np.ndarray  # uint8, values of `Tissue`
    affine: np.ndarray


def phantom_ids(region: str, per_centre: int, modality: Modality = MR) -> list[str]:
    """Return the ids of a cohort, centre by centre: `1BA001`, `1BA002`, …, `1BB001`, … (`1PA001` for the pelvis).

    Those of CBCT begin with 2, as in SynthRAD2023.
    """
    if region not in REGIONS:
        raise unknown_name("region", region, REGIONS)
    if not 1 <= per_centre <= 999:
        raise MrictError(f"{per_centre} phantom patients per centre: allowed are 1 to 999")
    start = f"{modality.number}{REGIONS[region]}"
    return [f"{start}{centre}{number:03d}" for centre in CENTRES for number in range(1, per_centre + 1)]


def make_patient(patient_id: str, seed: int, spec: PhantomSpec) -> PhantomPatient:
    """Return one patient, bit-equal for equal (id, seed, spec) in any process."""
    known = len(patient_id) == 6 and patient_id[0] in "12" and patient_id[3:].isdigit()
    if not known or patient_id[1] != REGIONS[spec.region] or patient_id[2] not in CENTRES:
        example = f"1{REGIONS[spec.region]}A001"
        raise MrictError(f"phantom patient '{patient_id}': expected an id such as {example} for region {spec.region}")
    centre = CENTRES[patient_id[2]]
    person = Person(patient_id, seed, spec.region)
    grid = acquisition_grid(spec.region, centre, spec.in_plane_mm, spec.slice_mm)
    canvas = person.canvas(grid.refined(spec.supersample))
    (paint_head if spec.region == "brain" else paint_pelvis)(person, canvas)
    fine = canvas.labels
    del canvas
    labels = majority(fine, spec.supersample)
    ct = image_ct(fine, grid, spec.supersample, centre, spec.region, person.rng("ct"))
    mask = body_outline(labels, grid)
    if _modality_of(patient_id) == MR:
        image = image_mr(fine, grid, spec.supersample, centre, person.rng("mr"))
    else:
        image = image_cbct(ct, mask, grid, person.rng("cbct"))
    return PhantomPatient(patient_id, image, ct, mask, labels, grid.affine)


def _modality_of(patient_id: str) -> Modality:
    return CBCT if patient_id.startswith(CBCT.number) else MR


def _files(modality: Modality) -> list[str]:
    return [f"{name}.nii.gz" for name in (modality.name, "ct", "mask")]


def body_outline(labels: np.ndarray, grid: Grid) -> np.ndarray:
    """Return the mask (uint8 0/1): the body with filled cavities and a margin, without the couch."""
    body = ndimage.binary_fill_holes(~np.isin(labels, [int(t) for t in OUTSIDE]))
    in_plane_mm = float(np.median(grid.spacing_mm))  # two of the three are equal
    margin_mm = max(MASK_MARGIN_MM, 1.01 * in_plane_mm)
    near = ndimage.distance_transform_edt(~body, sampling=grid.spacing_mm) <= margin_mm
    couch = (labels == Tissue.COUCH_SHELL) | (labels == Tissue.COUCH_FOAM)
    return (near & ~couch).astype(np.uint8)


def write_patient(folder: Path, patient_id: str, seed: int, spec: PhantomSpec) -> str:
    """Write one patient's `mr` (or `cbct`), `ct` and `mask` (.nii.gz) to `folder`, each atomically; return the id."""
    patient = make_patient(patient_id, seed, spec)
    image, ct, mask = _files(_modality_of(patient_id))
    save_nifti(folder / image, patient.mr, patient.affine, dtype=np.int16)
    save_nifti(folder / ct, patient.ct, patient.affine, dtype=np.int16)
    save_nifti(folder / mask, patient.mask, patient.affine, dtype=np.uint8)
    return patient_id


def write_cohort(
    root: Path | str,
    region: str,
    per_centre: int,
    seed: int,
    spec: PhantomSpec,
    progress: Progress | None = None,
    workers: int | None = 2,
    modality: Modality = MR,
) -> list[Path]:
    """Write a cohort to `root`/Task1/`region`/<id>/ (of CBCT Task2) and return the patients' folders.

    `root`/phantom.json records spec, seed and code hash. Patients complete under the same record are skipped, so an
    interrupted call is resumed; if the record changes, the region is rebuilt. Folders not made by this module are never
    overwritten (MrictError). `progress(done, total, patient_id)` is called after each patient written. `workers`
    processes are spawned (1: none; None: one per CPU).
    """
    if spec.region != region:
        raise MrictError(f"phantom spec is for region '{spec.region}' but the cohort is for '{region}'; use one region")
    root, ids, files = Path(root), phantom_ids(region, per_centre, modality), _files(modality)
    folders = {pid: root / modality.task / region / pid for pid in ids}
    record = _Record(
        root, modality.task, region, {"spec": asdict(spec), "seed": seed, "code": code_hash("data/phantom")}
    )
    record.claim(folders)
    missing = [pid for pid in ids if pid not in record.done or not all((folders[pid] / f).is_file() for f in files)]
    for count, pid in enumerate(_written(missing, folders, seed, spec, workers), 1):
        record.add(pid)
        if progress:
            progress(count, len(missing), pid)
    return list(folders.values())


def _written(
    ids: Sequence[str], folders: dict[str, Path], seed: int, spec: PhantomSpec, workers: int | None
) -> Iterator[str]:
    """Write the patients and yield each id when its files are complete."""
    count = min(workers or os.cpu_count() or 1, len(ids))
    if count <= 1:
        for pid in ids:
            yield write_patient(folders[pid], pid, seed, spec)
        return
    with ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        jobs = [pool.submit(write_patient, folders[pid], pid, seed, spec) for pid in ids]
        try:
            for job in as_completed(jobs):
                yield job.result()
        finally:
            pool.shutdown(cancel_futures=True)


class _Record:
    """`phantom.json`: per region the settings of the cohort, the folders it owns and those that are complete."""

    def __init__(self, root: Path, task: str, region: str, made_with: dict[str, Any]):
        self.path, self.folder, self.made_with = root / RECORD, root / task / region, made_with
        self.name = region if task == MR.task else f"{task}/{region}"
        self.content: dict[str, Any] = read_json(self.path) if self.path.exists() else {}
        entry = self.content.get(self.name, {})
        self.owned: list[str] = list(entry.get("patients", []))
        self.same = entry.get("hash") == hash_of(made_with)
        self.done: set[str] = set(entry.get("done", [])) if self.same else set()

    def claim(self, folders: dict[str, Path]) -> None:
        """Own the cohort's folders; remove phantom patients that are no longer in it."""
        foreign = [f for pid, f in folders.items() if pid not in self.owned and f.exists()]
        if foreign:
            raise MrictError(
                f"{shown(foreign[0])}: exists and is not listed in {RECORD}; write phantom patients to another folder"
            )
        before = (list(self.owned), set(self.done))
        for pid in sorted(set(self.owned) - set(folders)):
            folder = self.folder / pid
            if folder.exists():
                shutil.rmtree(folder)
        self.owned, self.done = list(folders), self.done & set(folders)
        if before != (self.owned, self.done) or not self.same:
            self.save()

    def add(self, patient_id: str) -> None:
        self.done.add(patient_id)
        self.save()

    def save(self) -> None:
        entry = {"hash": hash_of(self.made_with), **self.made_with, "patients": self.owned, "done": sorted(self.done)}
        self.content[self.name] = entry
        write_json(self.path, self.content)
