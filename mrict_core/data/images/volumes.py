"""Volumes: image files in and out. NIfTI, MetaImage and NRRD lie where ITK and 3D Slicer place them."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from mrict_core.data.images import headers
from mrict_core.data.images.grids import LPS_TO_RAS, check_same_grid, corner_gap_mm, straightened
from mrict_core.data.images.headers import SPACING_MM, Header
from mrict_core.data.images.metaimage import read_metaimage
from mrict_core.data.images.nifti import read_nifti
from mrict_core.data.images.nrrd import read_nrrd
from mrict_core.data.images.orders import SliceOrder, spacing_of
from mrict_core.data.images.padding import fill_nan
from mrict_core.data.images.streams import check_size, read_voxels, reading
from mrict_core.errors import MrictError, UnavailableError
from mrict_core.files import atomic_path, hash_file, hash_of
from mrict_core.paths import shown

__all__ = [
    "ITK",
    "LPS_TO_RAS",
    "NIFTI",
    "NOTE",
    "SPACING_MM",
    "SUFFIXES",
    "UNREAD",
    "SliceOrder",
    "Volume",
    "as_type",
    "check_same_grid",
    "corner_gap_mm",
    "files_of",
    "hash_image",
    "load_volume",
    "made_here",
    "read_geometry",
    "save_nifti",
    "spacing_of",
    "state_of",
    "stem_of",
]
NIFTI = (".nii.gz", ".nii")
ITK = (".mha", ".mhd", ".nrrd", ".nhdr")
SUFFIXES = NIFTI + ITK
# Types of images that are not read.
UNREAD = (".hdr", ".img", ".img.gz", ".mgz", ".mgh", ".mnc", ".gipl", ".nii.bz2", ".vti", ".vtk", ".par", ".rec")
NOTE = "synthetic CT, not for clinical use"  # in the header of what this suite writes
NOTE_WITHIN = 4096  # bytes of the file, in every format that is written
READERS: dict[str, Callable[[Path], Header]] = {
    **dict.fromkeys(NIFTI, read_nifti),
    **dict.fromkeys(ITK[:2], read_metaimage),
    **dict.fromkeys(ITK[2:], read_nrrd),
}


@dataclass(frozen=True)
class Volume:
    """An image as its file holds it: `array` (nx, ny, nz) float32, `affine` voxel -> RAS mm."""

    array: np.ndarray
    affine: np.ndarray
    path: Path
    header: Any = None  # nibabel's header; `ItkFrame` for MetaImage and NRRD
    remarks: tuple[str, ...] = ()  # what the file leaves open or contradicts, one line each: `--strict` refuses it
    notes: tuple[str, ...] = ()  # what was done and is in no doubt, one line each

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


def _header(path: Path) -> Header:
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)
    if suffix is None and path.exists():
        raise MrictError(f"{shown(path)}: not an image type this suite reads; allowed: {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise UnavailableError(f"{shown(path)}: no such file; expected an image ({', '.join(SUFFIXES)})")
    return READERS[suffix](path)


def read_geometry(path: Path | str) -> tuple[tuple[int, int, int], np.ndarray]:
    """Return (shape, affine) from the header alone; raises `MrictError` as `load_volume` does."""
    path = Path(path)
    with reading(path):
        header = _header(path)
        if not header.data.exists():
            raise headers.wrong(path, f"its voxels' file {header.data.name} is not there", "it beside the header")
        check_size(header)
    return header.shape, header.affine


def load_volume(path: Path | str, *, keep_nan: bool = False) -> Volume:
    """Read a NIfTI, MetaImage or NRRD file whole; what its header leaves open or contradicts is in `remarks`,
    what became of NaN around the image in `notes`; `keep_nan` leaves it as it is.

    Raises `MrictError` that names the file for: damaged or truncated files (every compressed stream's checksum is
    tested), other than 3-D images, images without voxels, infinite voxels and NaN inside the image, an affine that
    cannot be inverted; `UnavailableError` for files that are away or unreadable and for too little memory.
    """
    path = Path(path)
    with reading(path):
        header = _header(path)
        array = read_voxels(header)
        remarks, notes = header.remarks + _of_axes(header), ()
        if not (np.isfinite(array.min()) and np.isfinite(array.max())):  # NaN is the least and greatest of its array
            notes = fill_nan(array, path, keep_nan)
    return Volume(array, np.asarray(header.affine, np.float64), path, header.native, remarks, notes)


def _of_axes(header: Header) -> tuple[str, ...]:
    """Return a remark where the axes are not at right angles, with the distance from the nearest that are."""
    what = "its axes are not at right angles and taken as they are"
    return headers.disagreement(what, header.affine, straightened(header.affine), header.shape)


def made_here(path: Path) -> bool:
    """Return whether the header of an image file says that this suite wrote it: a synthetic CT, or a map of its SD."""
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb") as file:
            return NOTE.encode() in file.read(NOTE_WITHIN)
    except (OSError, EOFError, zlib.error):  # its reader says what is wrong with it
        return False


def files_of(path: Path | str) -> tuple[Path, ...]:
    """Return the files that an image is kept in: its own, and its voxels' where a header (MHD, NHDR) names another."""
    path = Path(path)
    if not path.name.lower().endswith(NIFTI):
        with contextlib.suppress(MrictError), reading(path):
            return tuple(dict.fromkeys((path, _header(path).data)))
    return (path,)


def hash_image(path: Path | str) -> str:
    """Return a short hash of an image's content, its voxels' own file included."""
    hashes = [hash_file(file) for file in files_of(path)]
    return hashes[0] if len(hashes) == 1 else hash_of(hashes)


def state_of(path: Path | str) -> tuple[int, int]:
    """Return size and time of an image, its voxels' own file included: they change when it is replaced."""
    stats = [file.stat() for file in files_of(path)]
    return sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats)


def as_type(array: np.ndarray, dtype: Any) -> np.ndarray:
    """Return an array in another type; for whole-number types rounded and clipped to their range."""
    dtype = np.dtype(dtype)
    if np.issubdtype(dtype, np.integer) and not np.issubdtype(array.dtype, np.integer):
        info = np.iinfo(dtype)
        array = np.rint(array).clip(info.min, info.max)
    return np.asarray(array, dtype)


def save_nifti(
    path: Path | str, array: np.ndarray, affine: np.ndarray, header: Any = None, dtype: Any = np.float32
) -> Path:
    """Write `array` (nx, ny, nz) as NIfTI, atomically; whole-number types are rounded and clipped to their range.

    `header` (of the volume whose grid this is) keeps units and codes; scaling and type are set anew.
    """
    image = nib.Nifti1Image(as_type(array, dtype), affine)
    if header is not None:
        image.header["xyzt_units"] = header["xyzt_units"]
        image.set_qform(affine, int(header["qform_code"]) or 1)
        image.set_sform(affine, int(header["sform_code"]) or 1)
    image.header.set_data_dtype(dtype)
    with atomic_path(Path(path)) as temporary:
        nib.save(image, temporary)
    return Path(path)
