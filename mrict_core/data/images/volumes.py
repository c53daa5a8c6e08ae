"""Read image files as volumes and write NIfTI. NIfTI, MetaImage and NRRD are placed as by ITK and 3D Slicer."""

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
from mrict_core.data.images.grids import straightened
from mrict_core.data.images.headers import Header
from mrict_core.data.images.metaimage import read_metaimage
from mrict_core.data.images.nifti import read_nifti
from mrict_core.data.images.nrrd import read_nrrd
from mrict_core.data.images.orders import spacing_of
from mrict_core.data.images.padding import fill_nan
from mrict_core.data.images.streams import check_size, read_voxels, reading
from mrict_core.errors import MrictError, UnavailableError
from mrict_core.files import atomic_path, hash_file, hash_of
from mrict_core.paths import shown

NIFTI = (".nii.gz", ".nii")
ITK = (".mha", ".mhd", ".nrrd", ".nhdr")
SUFFIXES = NIFTI + ITK
# image types that are not supported
UNREAD = (".hdr", ".img", ".img.gz", ".mgz", ".mgh", ".mnc", ".gipl", ".nii.bz2", ".vti", ".vtk", ".par", ".rec")
NOTE = "synthetic CT, not for clinical use"  # in the header of all output
NOTE_WITHIN = 4096  # bytes at the start of the file, in every output format
READERS: dict[str, Callable[[Path], Header]] = {
    **dict.fromkeys(NIFTI, read_nifti),
    **dict.fromkeys(ITK[:2], read_metaimage),
    **dict.fromkeys(ITK[2:], read_nrrd),
}


@dataclass(frozen=True)
class Volume:
    """An image in file order: `array` (nx, ny, nz) float32, `affine` voxel -> RAS mm."""

    array: np.ndarray
    affine: np.ndarray
    path: Path
    header: Any = None  # nibabel's header; `ItkFrame` for MetaImage and NRRD
    remarks: tuple[str, ...] = ()  # missing or contradicting fields, one line each: refused by `--strict`
    notes: tuple[str, ...] = ()  # what was done, one line each

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
        raise MrictError(f"{shown(path)}: not a supported image type; allowed: {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise UnavailableError(f"{shown(path)}: no such file; expected an image ({', '.join(SUFFIXES)})")
    return READERS[suffix](path)


def read_geometry(path: Path | str) -> tuple[tuple[int, int, int], np.ndarray]:
    """Return (shape, affine) from the header alone; raise `MrictError` as `load_volume` does."""
    path = Path(path)
    with reading(path):
        header = _header(path)
        if not header.data.exists():
            raise headers.wrong(path, f"its voxels' file {header.data.name} is missing", "it beside the header")
        check_size(header)
    return header.shape, header.affine


def load_volume(path: Path | str, *, keep_nan: bool = False) -> Volume:
    """Read a NIfTI, MetaImage or NRRD file. `remarks` lists missing and contradicting fields of its header; NaN around
    the image becomes background, with a note, or is kept with `keep_nan`.

    Raises `MrictError` for damaged or truncated files (every checksum is verified), images that are not 3-D or have no
    voxels, infinite voxels, NaN inside the image and an affine that cannot be inverted; `UnavailableError` for missing
    or unreadable files and for too little memory.
    """
    path = Path(path)
    with reading(path):
        header = _header(path)
        array = read_voxels(header)
        what, straight = "its axes are not at right angles, used unchanged", straightened(header.affine)
        remarks, notes = header.remarks + headers.disagreement(what, header.affine, straight, header.shape), ()
        if not (np.isfinite(array.min()) and np.isfinite(array.max())):  # min and max of an array with NaN are NaN
            notes = fill_nan(array, path, keep_nan)
    return Volume(array, np.asarray(header.affine, np.float64), path, header.native, remarks, notes)


def made_here(path: Path) -> bool:
    """Return whether an image is output of this suite (a synthetic CT or its SD map), by its header."""
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb") as file:
            return NOTE.encode() in file.read(NOTE_WITHIN)
    except (OSError, EOFError, zlib.error):  # its reader reports the fault
        return False


def files_of(path: Path | str) -> tuple[Path, ...]:
    """Return the files of an image: its own, and the separate one with its voxels (MHD, NHDR)."""
    path = Path(path)
    if not path.name.lower().endswith(NIFTI):
        with contextlib.suppress(MrictError), reading(path):
            return tuple(dict.fromkeys((path, _header(path).data)))
    return (path,)


def hash_image(path: Path | str) -> str:
    """Return a short hash of the content of all `files_of` an image."""
    hashes = [hash_file(file) for file in files_of(path)]
    return hashes[0] if len(hashes) == 1 else hash_of(hashes)


def state_of(path: Path | str) -> tuple[int, int]:
    """Return size and time of all `files_of` an image: they change when it is replaced."""
    stats = [file.stat() for file in files_of(path)]
    return sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats)


def as_type(array: np.ndarray, dtype: Any) -> np.ndarray:
    """Return an array in another type; for integer types rounded and clipped to their range."""
    dtype = np.dtype(dtype)
    if np.issubdtype(dtype, np.integer) and not np.issubdtype(array.dtype, np.integer):
        info = np.iinfo(dtype)
        array = np.rint(array).clip(info.min, info.max)
    return np.asarray(array, dtype)


def save_nifti(
    path: Path | str, array: np.ndarray, affine: np.ndarray, header: Any = None, dtype: Any = np.float32
) -> Path:
    """Write `array` (nx, ny, nz) as NIfTI, atomically, in `dtype` (see `as_type`).

    Units and form codes come from `header`, that of the volume with the same grid.
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
