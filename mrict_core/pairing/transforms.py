"""Transforms of points of the MR to points of the CT, LPS mm: read, written, as a matrix."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from mrict_core.errors import MrictError
from mrict_core.files import atomic_path, available, unwritable
from mrict_core.paths import shown

ITK_FILES = (".tfm", ".txt", ".h5", ".hdf5", ".xfm")
MATRIX_FILES = (".npy", ".txt")
SUFFIXES = tuple(dict.fromkeys((*ITK_FILES, *MATRIX_FILES)))
ITK_TEXT = "#Insight Transform File"  # first words of ITK's text files
HOW = "expected an ITK transform (.tfm, .txt, .h5) or a 4×4 matrix (.npy, .txt) of MR points to CT points in LPS mm"
SMALLEST_VOLUME = 0.1  # of the change of volume by a matrix: beyond, no two scans of one person
LINEAR = (
    *(sitk.sitkIdentity, sitk.sitkTranslation, sitk.sitkEuler, sitk.sitkVersor, sitk.sitkVersorRigid),
    *(sitk.sitkSimilarity, sitk.sitkScale, sitk.sitkScaleVersor, sitk.sitkScaleSkewVersor, sitk.sitkAffine),
)


def read_transform(path: Path | str) -> sitk.Transform:
    """Return a user's transform: an ITK file (.tfm, .txt, .h5), or a 4×4 matrix (.npy, .txt), points in LPS mm.

    Raises MrictError for another type, a damaged file, a transform that is not 3-D, and a matrix that mirrors or
    flattens; `UnavailableError` for a file that is missing or cannot be read.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    with available(path), open(path, "rb") as file:
        start = file.read(len(ITK_TEXT)).decode("latin-1")
    if suffix not in SUFFIXES:
        raise MrictError(f"{shown(path)}: not a transform's file type; {HOW}; save it as one of these")
    if suffix == ".npy" or (suffix == ".txt" and start != ITK_TEXT):
        return _checked(affine_of(_matrix(path)), path)
    try:
        found = sitk.ReadTransform(str(path))
    except RuntimeError:
        raise MrictError(f"{shown(path)}: cannot be read as a transform; {HOW}; save it again") from None
    return _checked(found, path)


def write_transform(transform: sitk.Transform, path: Path | str) -> None:
    """Write a transform, atomically: ITK's formats by suffix (.tfm, .txt, .h5), or its 4×4 matrix (.npy)."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise MrictError(f"{shown(path)}: not a transform's file type; allowed: {', '.join(SUFFIXES)}; rename it")
    matrix = matrix_of(transform) if suffix == ".npy" else None
    if suffix == ".npy" and matrix is None:
        raise MrictError(f"{shown(path)}: a deformation is no matrix; expected .tfm or .h5; choose one of them")
    with atomic_path(path) as temporary:
        if matrix is not None:
            np.save(temporary, matrix)
        else:
            _write_itk(transform, temporary, path)


def _write_itk(transform: sitk.Transform, temporary: Path, path: Path) -> None:
    """Write ITK's format, beside the locked temporary file: HDF5 wants a lock of its own."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / f"transform{path.suffix}"
        try:
            sitk.WriteTransform(transform, str(made))
        except RuntimeError:
            raise unwritable(path, f"no space in {shown(folder)}, or a transform that {path.suffix} lacks") from None
        shutil.copyfile(made, temporary)


def matrix_of(transform: sitk.Transform) -> np.ndarray | None:
    """Return the 4×4 matrix (LPS mm) of a linear transform, also of a chain of linear ones; None for a deformation."""
    if transform.GetTransformEnum() == sitk.sitkComposite:
        chain = sitk.CompositeTransform(transform)
        parts = [matrix_of(chain.GetNthTransform(n)) for n in range(chain.GetNumberOfTransforms())]
        if any(part is None for part in parts):
            return None
        return np.linalg.multi_dot([np.eye(4), *parts, np.eye(4)])
    if transform.GetTransformEnum() not in LINEAR:
        return None
    matrix = np.eye(4)
    matrix[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
    for axis in range(3):
        matrix[:3, axis] = transform.TransformPoint(np.eye(3)[axis].tolist()) - matrix[:3, 3]
    return matrix


def affine_of(matrix: np.ndarray) -> sitk.AffineTransform:
    """Return the transform of a 4×4 matrix (LPS mm)."""
    found = sitk.AffineTransform(3)
    found.SetMatrix(np.asarray(matrix, float)[:3, :3].ravel().tolist())
    found.SetTranslation(np.asarray(matrix, float)[:3, 3].tolist())
    return found


def _matrix(path: Path) -> np.ndarray:
    """Return the 4×4 matrix in a file; MrictError for anything else."""
    try:
        found = np.load(path, allow_pickle=False) if path.suffix.lower() == ".npy" else np.loadtxt(path, ndmin=2)
        found = np.asarray(found, float)
    except (ValueError, EOFError):
        raise MrictError(f"{shown(path)}: not a matrix of numbers; {HOW}; save it again") from None
    if found.shape != (4, 4) or not np.isfinite(found).all() or not np.allclose(found[3], (0, 0, 0, 1), atol=1e-6):
        raise MrictError(
            f"{shown(path)}: {'×'.join(map(str, found.shape))} numbers; expected 4×4 finite ones with the last row "
            "0 0 0 1; save it again"
        )
    return found


def _checked(transform: sitk.Transform, path: Path) -> sitk.Transform:
    """Return a 3-D transform that neither mirrors nor flattens; MrictError otherwise."""
    if transform.GetDimension() != 3:
        raise MrictError(f"{shown(path)}: a transform in {transform.GetDimension()}-D; expected one in 3-D")
    matrix = matrix_of(transform)
    volume = 1.0 if matrix is None else float(np.linalg.det(matrix[:3, :3]))
    if not SMALLEST_VOLUME < volume < 1 / SMALLEST_VOLUME:
        what = "mirrors" if volume < 0 else f"changes a volume by a factor of {volume:.3g}"
        raise MrictError(f"{shown(path)}: {what}; expected a transform between two scans of one person; check its file")
    return transform
