"""Write a synthetic CT beside what it was made from: exactly the input's grid, nothing half-written."""

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

FORMATS = (".nii.gz", ".nii", ".mha", ".nrrd")  # .mhd is two files, which cannot be replaced at once
DESCRIP_BYTES = 79  # of NIfTI's 80-byte field


def format_of(path: Path | str) -> str:
    """Return the image suffix of an output's name; other types are an error."""
    name = Path(path).name.lower()
    suffix = next((s for s in FORMATS if name.endswith(s)), "")
    if not suffix or name == suffix:
        raise MrictError(f"{shown(path)}: not an image type that is written; allowed: {', '.join(FORMATS)}")
    return suffix


def is_series(path: Path | str) -> bool:
    """Return whether an output is the folder of a DICOM series: a name without a suffix."""
    return not Path(path).suffix


def sidecar_path(path: Path | str) -> Path:
    """Return where the json of a synthetic CT lies: beside it, under its name."""
    path = Path(path)
    return path.with_name(f"{path.name if is_series(path) else stem_of(path)}.json")


def note_of(model: str) -> str:
    """Return what the header of a file says of itself."""
    return f"{NOTE}; {model}"


def write_ct(path: Path | str, hu: np.ndarray, volume: Volume, *, model: str = "") -> Path:
    """Write `hu` (nx, ny, nz) as int16 on the grid of `volume`, atomically; the suffix of `path` says how.

    A NIfTI file keeps the input's affine, form codes and units as they were, an MHA or NRRD file its origin, spacing
    and direction; free text of the input's header, which may name a patient, is left out.
    """
    with staged(path, hu, volume, note_of(model)):
        pass
    return Path(path)


@contextlib.contextmanager
def staged(path: Path | str, array: np.ndarray, volume: Volume, note: str, dtype: Any = np.int16) -> Iterator[None]:
    """Write an image under a temporary name; it takes its own when the block ends well, and vanishes when not.

    Several files staged at once are all on the disk before the first one appears.
    """
    path, suffix = Path(path), format_of(path)
    if array.shape != volume.shape:
        raise MrictError(f"{shown(path)}: an image of shape {array.shape}, expected that of the MR, {volume.shape}")
    array = as_type(array, dtype)
    with atomic_path(path) as temporary:
        if suffix in NIFTI:
            nib.save(_nifti(array, volume, note), temporary)
        else:
            _write_itk(temporary, array, volume, note, path)
        yield


@contextlib.contextmanager
def staged_json(path: Path, value: Any) -> Iterator[None]:
    """Write json under a temporary name, as `staged` does."""
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
    # no affine: nibabel then leaves both forms, their codes and the zooms as the input has them
    return kind(array, None, header)


def _write_itk(temporary: Path, array: np.ndarray, volume: Volume, note: str, path: Path) -> None:
    import SimpleITK as sitk

    image = itk_image(dataclasses.replace(volume, array=array))
    image.SetMetaData("Comment" if path.suffix.lower() == ".mha" else "note", note)
    try:
        sitk.WriteImage(image, str(temporary))
    except RuntimeError as error:
        raise unwritable(path, str(error).strip().splitlines()[-1][:120]) from None
    if temporary.stat().st_size < array.nbytes:  # the writers are silent on a full disk
        raise unwritable(path, "disk full?")
