"""Write a synthetic CT on exactly the input's grid, atomically."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from mrict_core.data.images.resample import itk_image
from mrict_core.data.images.volumes import NIFTI, NOTE, Volume, as_type, stem_of
from mrict_core.errors import MrictError
from mrict_core.files import atomic_path, unwritable, write_json
from mrict_core.paths import shown

FORMATS = (".nii.gz", ".nii", ".mha", ".nrrd")  # not .mhd: two files cannot be replaced atomically
DESCRIP_BYTES = 79  # of NIfTI's 80-byte field


def format_of(path: Path | str) -> str:
    """Return the image suffix of an output; raise MrictError for other types."""
    name = Path(path).name.lower()
    suffix = next((s for s in FORMATS if name.endswith(s)), "")
    if not suffix or name == suffix:
        raise MrictError(f"{shown(path)}: not an image type that is written; allowed: {', '.join(FORMATS)}")
    return suffix


def is_series(path: Path | str) -> bool:
    """Return whether an output is a DICOM series folder: a name without a suffix."""
    return not Path(path).suffix


def sidecar_path(path: Path | str) -> Path:
    """Return the path of a synthetic CT's json, next to it."""
    path = Path(path)
    return path.with_name(f"{path.name if is_series(path) else stem_of(path)}.json")


def note_of(model: str) -> str:
    """Return the note for a file's header."""
    return f"{NOTE}; {model}"


def write_ct(path: Path | str, hu: np.ndarray, volume: Volume, *, model: str = "") -> Path:
    """Write `hu` (nx, ny, nz) as int16 on the grid of `volume`, atomically, in the format of `path`'s suffix.

    NIfTI keeps the input's affine, form codes and units; MHA and NRRD keep origin, spacing and direction. Free text of
    the input's header, which may name a patient, is not copied.
    """
    with staged(path, hu, volume, note_of(model)):
        pass
    return Path(path)


@contextlib.contextmanager
def staged(path: Path | str, array: np.ndarray, volume: Volume, note: str, dtype: Any = np.int16) -> Iterator[None]:
    """Write an image under a temporary name; rename it if the block succeeds, else remove it.

    Files staged together are all on disk before the first is renamed.
    """
    path, suffix = Path(path), format_of(path)
    if array.shape != volume.shape:
        raise MrictError(f"{shown(path)}: an image of shape {array.shape}, expected the MR's shape {volume.shape}")
    array = as_type(array, dtype)
    with atomic_path(path) as temporary:
        if suffix in NIFTI:
            nib.save(_nifti(array, volume, note), temporary)
        else:
            _write_itk(temporary, array, volume, note, path)
        yield


@contextlib.contextmanager
def staged_json(path: Path, value: Any) -> Iterator[None]:
    """Write json like `staged`."""
    with atomic_path(path) as temporary:
        write_json(temporary, value)
        yield


def _nifti(array: np.ndarray, volume: Volume, note: str) -> Any:
    header = volume.header
    if not isinstance(header, nib.Nifti1Header):
        image = nib.Nifti1Image(array, volume.affine)
        image.set_qform(volume.affine, 1)
        image.set_sform(volume.affine, 1)
        image.header.set_xyzt_units("mm")
        header = image.header
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    header = header.copy()
    header.extensions.clear()
    for field in ("aux_file", "intent_name", "db_name"):
        if field in header:
            header[field] = b""
    for field in ("intent_code", "cal_min", "cal_max", "intent_p1", "intent_p2", "intent_p3"):
        header[field] = 0
    header["descrip"] = note.encode("ascii", "replace")[:DESCRIP_BYTES]
    header.set_data_dtype(array.dtype)
    header.set_slope_inter(1, 0)
    # without an affine nibabel keeps the input's forms, codes and zooms
    return kind(array, None, header)


def _write_itk(temporary: Path, array: np.ndarray, volume: Volume, note: str, path: Path) -> None:
    import SimpleITK as sitk

    image = itk_image(dataclasses.replace(volume, array=array))
    image.SetMetaData("Comment" if path.suffix.lower() == ".mha" else "note", note)
    try:
        sitk.WriteImage(image, str(temporary))
    except RuntimeError as error:
        raise unwritable(path, str(error).strip().splitlines()[-1][:120]) from None
    if temporary.stat().st_size < array.nbytes:  # ITK does not report a full disk
        raise unwritable(path, "disk full?")
