"""Scans of one phantom head on two grids, as files of every kind that `pair` reads."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from dicom_files import write_mr_series

from mrict_core.data.images.volumes import save_nifti
from mrict_core.data.phantom import PhantomPatient, PhantomSpec, make_patient

SPEC = PhantomSpec("brain", in_plane_mm=5.0, slice_mm=7.0, supersample=1)
PELVIS = PhantomSpec("pelvis", in_plane_mm=7.0, slice_mm=8.0, supersample=1)
POSE = (np.radians((4.0, -3.0, 6.0)), (9.0, -7.0, 5.0))  # turns about x, y, z; shift in mm


@cache
def head(patient: str = "1BA001", seed: int = 0) -> PhantomPatient:
    """Return a phantom head with MR and CT on one grid, whose axes run toward right, front and head."""
    return turned(make_patient(patient, seed, SPEC))


def turned(patient: PhantomPatient) -> PhantomPatient:
    """Return a patient with the first two axes of its files reversed: the same places, other axes."""
    arrays = {name: getattr(patient, name)[::-1, ::-1] for name in ("mr", "ct", "mask", "labels")}
    back = np.diag([-1.0, -1.0, 1.0, 1.0])
    back[:2, 3] = np.array(patient.mr.shape[:2]) - 1
    return replace(patient, affine=patient.affine @ back, **arrays)


@cache
def pelvis() -> PhantomPatient:
    return make_patient("1PA001", 0, PELVIS)


def pose(angles=POSE[0], shift=POSE[1]) -> sitk.Euler3DTransform:
    """Return the rigid transform that maps points of the MR to the moved CT."""
    return sitk.Euler3DTransform((0.0, 0.0, 0.0), *map(float, angles), tuple(map(float, shift)))


def moved(affine: np.ndarray, transform: sitk.Transform) -> np.ndarray:
    """Return the affine (voxel to RAS mm) of an image carried along by a rigid transform (of LPS mm)."""
    rotation, flip = np.eye(4), np.diag([-1.0, -1.0, 1.0, 1.0])
    rotation[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    rotation[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
    return flip @ rotation @ flip @ affine


def write_pair(folder: Path, patient: PhantomPatient | None = None, other: PhantomPatient | None = None) -> Path:
    """Write mr.nii.gz, and ct.nii.gz (of another patient if given) in its own pose; return the folder."""
    patient = patient or head()
    other = other or patient
    save_nifti(folder / "mr.nii.gz", patient.mr, patient.affine)
    save_nifti(folder / "ct.nii.gz", other.ct, moved(other.affine, pose()), dtype=np.int16)
    return folder


def write_mr_dicom(folder: Path, patient: PhantomPatient | None = None, **tags) -> Path:
    patient = patient or head()
    write_mr_series(folder, patient.mr.astype(np.uint16), patient.affine, **tags)
    return folder


def write_ct_dicom(folder: Path, patient: PhantomPatient | None = None, affine=None, **tags) -> Path:
    patient = patient or head()
    stored = (patient.ct.astype(np.int32) + 1024).clip(0, 4095).astype(np.uint16)
    affine = moved(patient.affine, pose()) if affine is None else affine
    tags = {"Modality": "CT", "slope": lambda k: (1, -1024)} | tags
    write_mr_series(folder, stored, affine, **tags)
    return folder
