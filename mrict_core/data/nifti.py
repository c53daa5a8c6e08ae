"""Headers of NIfTI files, and which of their readings is taken: that of ITK (docs/formats.md says why)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip

from mrict_core.data.grids import SAME_GRID, corner_gap_mm, corner_gap_voxels
from mrict_core.data.headers import Header, checked_affine, checked_shape, size_text, wrong
from mrict_core.data.orders import spacing_of

GZIP = b"\x1f\x8b"
BYTES = {nib.Nifti1Header: 348, nib.Nifti2Header: 540}
UNITS_MM = {1: ("metres", 1e3), 3: ("micrometres", 1e-3)}
SCANNER = 1  # the form's code for the scanner's own coordinates
RIGHT_ANGLES = 5e-4  # how far the axes of an sform may be from right angles for ITK to take it
nib.imageglobals.logger.setLevel("CRITICAL")  # its remarks on odd headers name no file; what matters is checked here


def read_nifti(path: Path) -> Header:
    """Return what the header of a NIfTI file says, compressed or not whatever its name.

    Raises MrictError, or what nibabel raises, where it does not describe one volume.
    """
    with open(path, "rb") as file:
        packed = file.peek(2)[:2] == GZIP
        block = (igzip.IGzipFile(fileobj=file) if packed else file).read(max(BYTES.values()))
    kind = nib.Nifti2Header if nib.Nifti2Header.may_contain_header(block) else nib.Nifti1Header
    block = block[: BYTES[kind]]
    header, raw = kind(block), kind(block, check=False)  # the first has wrong values replaced
    if bytes(header["magic"])[:3] not in (b"n+1", b"n+2"):
        raise wrong(path, "a header whose voxels are in another file (.img)", "one file", "export it as .nii.gz")
    dtype = header.get_data_dtype()
    if dtype.kind not in "biuf":
        raise wrong(path, "holds colours or complex numbers", "one number per voxel", "export grey values")
    shape = checked_shape(header.get_data_shape(), path)
    affine, remarks = _grid(header, np.array(raw["pixdim"][1:4], np.float64), shape, path)
    slope, inter = (float(raw[name]) for name in ("scl_slope", "scl_inter"))
    if not np.isfinite([slope, inter]).all():
        remarks += (f"its scl_slope and scl_inter are {slope:g} and {inter:g}: values are taken as stored",)
        slope = 0.0
    offset = float(header["vox_offset"])
    if not BYTES[kind] <= offset < 1e12:
        raise wrong(path, f"its vox_offset is {offset:g}", "the place of the voxels in the file")
    header["vox_offset"] = 0  # of the file that is written from it, nibabel finds the place anew
    return Header(
        path,
        shape,
        affine,
        dtype.newbyteorder(header.endianness),
        path,
        0 if packed else int(offset),
        skip=int(offset) if packed else 0,
        encoding="gzip" if packed else "raw",
        scale=(slope, inter) if slope else (1.0, 0.0),
        remarks=remarks,
        native=header,
    )


def _grid(header: Any, pixdim: np.ndarray, shape: tuple[int, ...], path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the affine (voxel -> RAS mm) as ITK reads the header, and a remark where other readings differ."""
    unit_name, unit = UNITS_MM.get(int(header["xyzt_units"]) & 7, ("", 1.0))
    sform, code = header.get_sform(coded=True)
    sized = np.isfinite(pixdim).all() and (pixdim > 0).all()
    if not sized and sform is None:
        raise wrong(path, f"voxels of {size_text(pixdim)} in its pixdim", "sizes above 0", "fix the header")
    zooms = pixdim if sized else np.array(spacing_of(sform))
    qform = _qform(header, zooms, sform is not None)
    in_mm = np.diag([unit, unit, unit, 1.0])
    base = header.get_base_affine() if sform is None and qform is None else None  # nibabel's, without a form
    sform, qform, base = (None if form is None else checked_affine(in_mm @ form, path) for form in (sform, qform, base))
    itk = _as_itk(sform, int(code), qform, unit * zooms)
    finest = next(form for form in (sform, qform, base) if form is not None)  # nibabel's, but for the unit
    taken = itk if _differ(itk, finest, shape) else finest
    causes = []
    if sform is None and qform is None:
        causes.append("holds no orientation (both form codes are 0)")
    if not sized:
        causes.append(f"has a pixdim of {size_text(pixdim)}")
    elif sform is not None and _differ(sform, _with_zooms(sform, unit * zooms), shape):
        sizes = size_text(spacing_of(sform)), size_text(unit * zooms)
        causes.append(f"says voxels of {sizes[0]} in its sform and {sizes[1]} in its pixdim")
    if sform is not None and qform is not None and _differ(qform, sform, shape):
        causes.append("has a qform and an sform that differ")
    if unit != 1:
        causes.append(f"counts in {unit_name}")
    others = [form for form in (sform, qform, np.linalg.inv(in_mm) @ finest) if form is not None]
    gap_mm = max(corner_gap_mm(taken, other, shape) for other in others)
    remark = (
        f"its header {' and '.join(causes)}: its readings put a voxel up to {gap_mm:.3g} mm apart; "
        f"taken: {_name(taken, sform, qform, shape)}, as ITK and 3D Slicer do"
    )
    return taken, (remark,) if causes else ()


def _qform(header: Any, zooms: np.ndarray, spare: bool) -> np.ndarray | None:
    """Return the qform, None without a code; a quaternion that is no rotation is none where there is an sform."""
    header = header.copy()
    header["pixdim"][1:4] = zooms
    try:
        return header.get_qform(coded=True)[0]
    except (nib.spatialimages.HeaderDataError, ValueError):
        if spare:
            return None
        raise


def _as_itk(sform: np.ndarray | None, code: int, qform: np.ndarray | None, zooms: np.ndarray) -> np.ndarray:
    """Return the affine of ITK 5.4: an sform in the scanner's coordinates, else the qform, else the sform.

    Its voxel size is that of pixdim whatever the form; without a form, axes run to the left, back and head from 0.
    """
    if sform is not None:
        directions = sform[:3, :3] / np.array(spacing_of(sform))
        straight = np.abs(directions.T @ directions - np.eye(3)).max() < RIGHT_ANGLES
        if straight and (qform is None or code == SCANNER):
            return _with_zooms(sform, zooms)
        if qform is None:
            return sform  # ITK refuses it
    return qform if qform is not None else np.diag([-zooms[0], -zooms[1], zooms[2], 1.0])


def _with_zooms(form: np.ndarray, zooms: np.ndarray) -> np.ndarray:
    sized = np.array(form)
    sized[:3, :3] *= zooms / np.array(spacing_of(form))
    return sized


def _differ(affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> bool:
    return corner_gap_voxels(affine, other, shape) > SAME_GRID


def _name(taken: np.ndarray, sform: np.ndarray | None, qform: np.ndarray | None, shape: tuple[int, ...]) -> str:
    """Return which reading was taken, in words."""
    for name, form in (("the sform", sform), ("the qform", qform)):
        if form is not None and not _differ(taken, form, shape):
            return name
    if sform is None and qform is None:
        return "axes to the left, back and head, from 0"
    return "the sform with the voxel size of pixdim"
