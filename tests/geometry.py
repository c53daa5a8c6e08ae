"""Grids for tests: as ITK reads a file, and random oblique ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

SHAPE = (5, 6, 7)
CODES = st.integers(0, 4)


def itk_affine(image: Any) -> np.ndarray:
    """Return the RAS affine of a SimpleITK image or reader (their axes are LPS)."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def placed_by_itk(path: Path) -> np.ndarray:
    """Return SimpleITK's affine of a file."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return itk_affine(reader)


@st.composite
def affines(draw: Any) -> np.ndarray:
    """An affine of any orientation, handedness, voxel size and place."""
    angles = draw(st.tuples(*[st.floats(-180, 180)] * 3))
    sizes = draw(st.tuples(*[st.floats(0.3, 8)] * 3))
    signs = draw(st.tuples(*[st.sampled_from((-1, 1))] * 3))
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * np.multiply(sizes, signs)
    affine[:3, 3] = draw(st.tuples(*[st.floats(-300, 300)] * 3))
    return affine


def nifti_with_forms(
    path: Path,
    qform: np.ndarray | None,
    q_code: int,
    sform: np.ndarray | None,
    s_code: int,
    pixdim: tuple[float, ...] | None = None,
    unit: str = "mm",
    array: np.ndarray | None = None,
) -> Path:
    """Write a NIfTI file with these forms, including those of code 0."""
    header = nib.Nifti1Header()
    if qform is not None:
        header.set_qform(qform, q_code)
    if sform is not None:
        header.set_sform(sform, s_code)
    header["qform_code"], header["sform_code"] = q_code, s_code
    if pixdim is not None:
        header["pixdim"][1:4] = pixdim
    header.set_xyzt_units(unit)
    array = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE) if array is None else array
    nib.Nifti1Image(array, None, header).to_filename(path)
    return path
