"""Volumes: image files in and out, and their grids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip

from mrict_core.data.orders import SliceOrder, spacing_of
from mrict_core.errors import MrictError
from mrict_core.paths import shown
from mrict_core.runtime import atomic_path

__all__ = [
    "ITK",
    "NIFTI",
    "SUFFIXES",
    "SliceOrder",
    "Volume",
    "check_same_grid",
    "corner_gap_mm",
    "load_volume",
    "read_geometry",
    "save_nifti",
    "spacing_of",
    "stem_of",
]
NIFTI = (".nii.gz", ".nii")
ITK = (".mha", ".mhd", ".nrrd")
SUFFIXES = NIFTI + ITK
GRID_TOLERANCE_MM = 1e-3
SPACING_MM = (0.05, 50.0)  # beyond it the header is wrong: metres or micrometres taken for mm
MIN_VOLUME = 1e-2  # of the cell of the three axes' unit vectors: 1 when they are at right angles
nib.imageglobals.logger.setLevel("CRITICAL")  # its remarks on odd headers name no file; what matters is checked here
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Volume:
    """An image as its file holds it: `array` (nx, ny, nz) float32, `affine` voxel -> RAS mm."""

    array: np.ndarray
    affine: np.ndarray
    path: Path
    header: Any = None  # nibabel header; None for files of ITK
    remarks: tuple[str, ...] = ()  # what the reader had to decide, one line each, for the user

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.array.shape

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return spacing_of(self.affine)


def stem_of(file: Path) -> str:
    """Return the name without its image suffix; "" for other files."""
    suffix = next((s for s in SUFFIXES if file.name.lower().endswith(s)), None)
    return file.name[: -len(suffix)] if suffix else ""


def _is_nifti(path: Path) -> bool:
    if not path.is_file():
        raise MrictError(f"{shown(path)}: no such file; expected an image ({', '.join(SUFFIXES)})")
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise MrictError(f"{shown(path)}: not an image type this suite reads; allowed: {', '.join(SUFFIXES)}")
    return name.endswith(NIFTI)


def _unreadable(path: Path, error: Exception) -> MrictError:
    cause = " ".join(str(error).replace(str(path), path.name).split())[:160] or type(error).__name__
    return MrictError(f"{shown(path)}: cannot be read ({cause}); it is damaged or cut short: copy or download it again")


def _check_geometry(shape: tuple[int, ...], affine: np.ndarray, path: Path) -> tuple[int, int, int]:
    """Return the 3-D shape (trailing axes of length 1 dropped) or raise."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise MrictError(f"{shown(path)}: {len(shape)}-D image of shape {shape}; expected 3-D; export a single volume")
    if min(shape) < 1:
        raise MrictError(f"{shown(path)}: image of shape {shape} holds no voxel; export it again")
    spacing = spacing_of(affine) if np.isfinite(affine).all() else (0.0, 0.0, 0.0)
    if min(spacing) == 0 or abs(np.linalg.det(np.asarray(affine)[:3, :3] / spacing)) < MIN_VOLUME:
        raise MrictError(f"{shown(path)}: affine not invertible; expected three independent axes; mend the header")
    if min(spacing) < SPACING_MM[0] or max(spacing) > SPACING_MM[1]:
        size, (low, high) = " x ".join(f"{s:.3g}" for s in spacing), SPACING_MM
        raise MrictError(
            f"{shown(path)}: voxels of {size} mm; expected {low:g} to {high:g} mm; mend the header's units"
        )
    return tuple(int(n) for n in shape)


def _open_nifti(path: Path) -> Any:
    """Return the nibabel image with all its bytes read: gzip's check sum is only tested at the end of the file."""
    if not path.name.lower().endswith(".gz"):
        return nib.load(path)
    content = igzip.decompress(path.read_bytes())
    kind = nib.Nifti2Image if nib.Nifti2Header.may_contain_header(content[:540]) else nib.Nifti1Image
    return kind.from_bytes(content)


def _itk_affine(image: Any) -> np.ndarray:
    """Return the RAS affine of a SimpleITK image or reader (their axes are LPS)."""
    affine = np.eye(4)
    dimension = image.GetDimension()
    direction = np.array(image.GetDirection()).reshape(dimension, dimension)[:3, :3]
    affine[:3, :3] = direction * np.array(image.GetSpacing())[:3]
    affine[:3, 3] = np.array(image.GetOrigin())[:3]
    return LPS_TO_RAS @ affine


def read_geometry(path: Path | str) -> tuple[tuple[int, int, int], np.ndarray]:
    """Return (shape, affine) from the header alone; raises `MrictError` as `load_volume` does."""
    path = Path(path)
    try:
        if _is_nifti(path):
            image = nib.load(path)
            shape, affine = image.shape, image.affine
            single = image.get_data_dtype().kind in "biuf"
        else:
            import SimpleITK as sitk

            reader = sitk.ImageFileReader()
            reader.SetFileName(str(path))
            reader.ReadImageInformation()
            if reader.GetDimension() < 3:
                raise ValueError(f"{reader.GetDimension()}-D image, expected 3-D")
            shape, affine = reader.GetSize(), _itk_affine(reader)
            single = reader.GetNumberOfComponents() == 1
    except MrictError:
        raise
    except Exception as error:  # damaged bytes make the readers raise nearly anything
        raise _unreadable(path, error) from None
    if not single:
        raise MrictError(
            f"{shown(path)}: holds colours or complex numbers; expected one number per voxel; export grey values"
        )
    return _check_geometry(tuple(shape), affine, path), affine


def load_volume(path: Path | str) -> Volume:
    """Read a NIfTI, MHA or NRRD file whole.

    Raises `MrictError` that names the file for: unreadable or truncated files, other than 3-D images, images without
    voxels, NaN or infinite voxels, an affine that cannot be inverted.
    """
    path = Path(path)
    shape, affine = read_geometry(path)
    header = None
    try:
        if _is_nifti(path):
            image = _open_nifti(path)
            header = image.header.copy()
            array = np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged"))
        else:
            import SimpleITK as sitk

            array = sitk.GetArrayFromImage(sitk.ReadImage(str(path), sitk.sitkFloat32)).T
    except MrictError:
        raise
    except Exception as error:  # damaged bytes make the readers raise nearly anything
        raise _unreadable(path, error) from None
    array = array.reshape(shape)
    if not (np.isfinite(array.min()) and np.isfinite(array.max())):  # NaN is the least and the greatest of its array
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        raise MrictError(f"{shown(path)}: {bad} voxels are NaN or infinite; expected numbers; export it again")
    return Volume(array, np.asarray(affine, np.float64), path, header)


def save_nifti(
    path: Path | str, array: np.ndarray, affine: np.ndarray, header: Any = None, dtype: Any = np.float32
) -> Path:
    """Write `array` (nx, ny, nz) as NIfTI, atomically; whole-number types are rounded and clipped to their range.

    `header` (of the volume whose grid this is) keeps units and codes; scaling and type are set anew.
    """
    dtype = np.dtype(dtype)
    if np.issubdtype(dtype, np.integer) and not np.issubdtype(array.dtype, np.integer):
        info = np.iinfo(dtype)
        array = np.rint(array).clip(info.min, info.max)
    image = nib.Nifti1Image(np.asarray(array, dtype), affine)
    if header is not None:
        image.header["xyzt_units"] = header["xyzt_units"]
        image.set_qform(affine, int(header["qform_code"]) or 1)
        image.set_sform(affine, int(header["sform_code"]) or 1)
    image.header.set_data_dtype(dtype)
    with atomic_path(Path(path)) as temporary:
        nib.save(image, temporary)
    return Path(path)


def corner_gap_mm(affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """Return how far apart, in mm along an axis, two affines put the corner voxels of a volume at most."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1)
    corners = np.vstack([corners, np.ones(corners.shape[1])])
    return float(np.abs((np.asarray(affine) - other) @ corners).max())


def check_same_grid(grids: dict[str, tuple[tuple[int, ...], np.ndarray, Path]]) -> None:
    """Raise `MrictError` unless all `{role: (shape, affine, path)}` share one grid.

    Affines are compared where it matters: at the corners of the volume, to 0.001 mm.
    """
    (role, (shape, affine, path)), *others = grids.items()
    for other, (other_shape, other_affine, other_path) in others:
        if tuple(other_shape) != tuple(shape):
            shapes = f"{other} has shape {tuple(other_shape)}, {role} ({path.name}) has {tuple(shape)}"
            raise MrictError(f"{shown(other_path)}: {shapes}; expected one grid; resample one onto the other's")
        gap_mm = corner_gap_mm(other_affine, affine, shape)
        if gap_mm > GRID_TOLERANCE_MM:
            gap = f"affines of {other} and {role} ({path.name}) put a voxel up to {gap_mm:.3g} mm apart"
            raise MrictError(f"{shown(other_path)}: {gap}; expected one grid; resample one onto the other's")
