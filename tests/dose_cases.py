"""Small bodies for the tests of dose, as images (LPS) and as files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from mrict_core.data.images.grids import LPS_TO_RAS
from mrict_core.dose.engine import INSTALL

needs_pyradplan = pytest.mark.skipif(
    importlib.util.find_spec("pyRadPlan") is None, reason=f"pyRadPlan is not installed: {INSTALL}"
)


def image(array: np.ndarray, spacing_mm: float = 3.0) -> sitk.Image:
    """Return an array (z, y, x) as an image centred at 0."""
    found = sitk.GetImageFromArray(array)
    found.SetSpacing((spacing_mm,) * 3)
    found.SetOrigin([-(n - 1) / 2 * spacing_mm for n in array.shape[::-1]])
    return found


def distance_mm(size: int, spacing_mm: float, centre=(0, 0, 0)) -> np.ndarray:
    """Return the distances of a cube's voxels from a point (x, y, z) mm."""
    axis = (np.arange(size) - (size - 1) / 2) * spacing_mm
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    return np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2)


def cube(size: int = 44, rim: int = 2, spacing_mm: float = 3.0) -> tuple[sitk.Image, sitk.Image, sitk.Image]:
    """Return (CT of a water cube in air, its body, a target of 30 mm in the middle)."""
    body = np.zeros((size,) * 3, np.uint8)
    body[rim:-rim, rim:-rim, rim:-rim] = 1
    hu = np.where(body > 0, 0.0, -1000.0).astype(np.float32)
    target = (distance_mm(size, spacing_mm) <= 15).astype(np.uint8)
    return image(hu, spacing_mm), image(body, spacing_mm), image(target, spacing_mm)


def with_slab(ct: sitk.Image, body: sitk.Image, hu: float) -> sitk.Image:
    """Return a CT with another HU in its body."""
    array = np.where(sitk.GetArrayFromImage(body) > 0, hu, -1000.0).astype(np.float32)
    found = sitk.GetImageFromArray(array)
    found.CopyInformation(ct)
    return found


def write_case(folder: Path, size: int = 40, spacing_mm: float = 3.0, **changed) -> dict[str, Path]:
    """Write ct, sct, mask of a round head with a skull, as NIfTI; `changed`: {role: array (x, y, z)}."""
    folder.mkdir(parents=True, exist_ok=True)
    away = distance_mm(size, spacing_mm)
    rng = np.random.default_rng(0)
    ct = np.where(away < 54, np.where(away > 48, 700.0, 30.0), -1000.0) + rng.normal(0, 3, away.shape)
    roles = {"ct": ct, "sct": np.where(away < 54, ct + 20, ct), "mask": away < 54, **changed}
    affine = LPS_TO_RAS @ np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    paths = {}
    for role, array in roles.items():
        kind = np.uint8 if np.asarray(array).dtype == bool else np.int16
        paths[role] = folder / f"{role}.nii.gz"
        nib.save(nib.Nifti1Image(np.asarray(array).astype(kind), affine), paths[role])
    return paths
