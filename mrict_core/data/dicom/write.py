"""Write a synthetic CT as a DICOM series: the MR's study, frame of reference and voxel centres."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from mrict_core.data.dicom.ct_object import MAKER, Plane, SeriesFacts, ct_slice
from mrict_core.data.dicom.frames import RIGHT_ANGLE
from mrict_core.data.dicom.read import DicomVolume, Source
from mrict_core.data.dicom.values import hushed, text_of
from mrict_core.data.images.grids import LPS_TO_RAS
from mrict_core.data.images.orders import SliceOrder
from mrict_core.data.images.volumes import Volume
from mrict_core.errors import MrictError
from mrict_core.files import atomic_folder
from mrict_core.hu import AIR_FLOOR_HU
from mrict_core.paths import shown

STORED = 2**16 - 1
FILE = re.compile(r"CT\d{4,}\.dcm")


def write_ct_series(folder: Path | str, hu: np.ndarray, volume: Volume, **options: Any) -> Path:
    """Write a series like `staged_ct_series`, immediately; return its folder."""
    with staged_ct_series(folder, hu, volume, **options):
        pass
    return Path(folder)


@contextlib.contextmanager
def staged_ct_series(
    folder: Path | str,
    hu: np.ndarray,
    volume: Volume,
    *,
    model: str,
    version: str,
    overwrite: bool = False,
    keep_identifiers: bool = False,
) -> Iterator[None]:
    """Write `hu` (shape and file order of `volume`) in whole HU as CT Image Storage objects, one per slice.

    The folder is renamed into place if the block succeeds, else removed. A CT of a DICOM volume keeps the MR's study,
    frame of reference and positions, and each slice references its source image; other volumes get a new study, a new
    frame of reference and axial slices. The patient's name, id and dates are written only with `keep_identifiers`,
    here and in `read_series`; the kept UIDs link to the MR for anyone who has it, and may contain a date.
    """
    folder, identity = Path(folder), None
    if hu.shape != volume.shape:
        raise MrictError(f"{shown(folder)}: an image of shape {hu.shape}; expected the MR's shape {volume.shape}")
    if not np.isfinite(hu).all():
        raise MrictError(f"{shown(folder)}: NaN or infinite HU; expected numbers; the model's output is broken")
    low, high = int(np.rint(hu.min())), int(np.rint(hu.max()))
    intercept = min(AIR_FLOOR_HU, low)  # the usual one, unless lower values come
    if high - intercept > STORED:
        raise MrictError(f"{shown(folder)}: {low} to {high} HU; expected a range of 16 bits; the output is broken")
    source = volume.source if isinstance(volume, DicomVolume) else None
    if keep_identifiers:
        identity = source.identity if source else None
        if identity is None:
            raise MrictError(
                f"{shown(folder)}: no identifiers to keep; expected a DICOM series; read it with keep_identifiers"
            )
    stack, planes = _of_dicom(hu, volume, source) if source else _of_file(hu, volume)
    facts = _facts(source, _plain(model), _plain(version), intercept, identity)
    may_replace = partial(_check_replaceable, overwrite=overwrite)
    if os.path.lexists(folder):
        may_replace(folder)
    with atomic_folder(folder, may_replace) as temporary:
        with hushed():
            for k, plane in enumerate(planes):
                file, pixels = temporary / f"CT{k + 1:04d}.dcm", np.rint(stack[k]).astype(np.int32)
                ct_slice(facts, plane, k + 1, pixels).save_as(file, enforce_file_format=True)
        yield


def _plain(text: str) -> str:
    """Return text valid as a single DICOM value."""
    return re.sub(r"[\\\x00-\x1f]+", "/", text).strip()


def _facts(source: Source | None, model: str, version: str, intercept: int, identity: dict | None) -> SeriesFacts:
    return SeriesFacts(
        study_uid=(source and source.study_uid) or generate_uid(prefix=None),
        series_uid=generate_uid(prefix=None),
        frame_of_reference_uid=(source and source.frame_of_reference_uid) or generate_uid(prefix=None),
        patient_position=source.patient_position if source else "",
        lossy=bool(source and source.lossy),
        model=model,
        version=version,
        intercept=intercept,
        identity=identity,
    )


def _of_dicom(hu: np.ndarray, volume: Volume, source: Source) -> tuple[np.ndarray, list[Plane]]:
    """Return slices (N, rows, columns) and the planes of the MR's frames."""
    thickness = volume.spacing_mm[2]
    return hu.T, [Plane(f.position, f.orientation, f.spacing_mm, thickness, f) for f in source.frames]


def _of_file(hu: np.ndarray, volume: Volume) -> tuple[np.ndarray, list[Plane]]:
    """Return the slices (N, rows, columns) of `SliceOrder.own` and their planes for a volume in any axis order."""
    order = SliceOrder.own(volume.shape, volume.affine)
    lps = LPS_TO_RAS @ volume.affine
    spacing = order.spacing_mm(volume.affine)
    steps = [lps[:3, axis] * (-1 if flip else 1) for axis, flip in zip(order.axes, order.flips, strict=True)]
    first = np.zeros(3)
    for axis, flip in zip(order.axes, order.flips, strict=True):
        first[axis] = (volume.shape[axis] - 1) if flip else 0
    origin = lps[:3, :3] @ first + lps[:3, 3]
    up, down, across = (step / size for step, size in zip(steps, spacing, strict=True))
    axes = np.stack([up, down, across])
    if np.abs(axes @ axes.T - np.eye(3)).max() > RIGHT_ANGLE:
        raise MrictError(
            f"{shown(volume.path)}: its axes are not at right angles, which DICOM cannot store; "
            "expected an unsheared grid; resample it or write another file type"
        )
    stack = order.to_slices(hu)
    orientation = (*across, *down)
    return stack, [Plane(origin + k * steps[0], orientation, spacing[1:], spacing[0]) for k in range(len(stack))]


def _check_replaceable(folder: Path, overwrite: bool) -> None:
    if folder.is_symlink() or not folder.is_dir():
        raise MrictError(f"{shown(folder)}: exists and is not a folder; expected a new folder; choose another name")
    inside = list(folder.iterdir())
    if inside and not overwrite:
        raise MrictError(f"{shown(folder)}: exists already; expected a new folder; choose another or allow overwriting")
    if not all(_is_ours(file) for file in inside):
        raise MrictError(
            f"{shown(folder)}: contains files other than a CT series of this suite; nothing was overwritten; "
            "choose another folder"
        )


def _is_ours(file: Path) -> bool:
    if not (FILE.fullmatch(file.name) and file.is_file()):
        return False
    try:
        with hushed():
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["Manufacturer"])
            return text_of(header, "Manufacturer") == MAKER
    except Exception:  # not DICOM, or damaged: not ours to delete
        return False
