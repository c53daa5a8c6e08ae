"""Headers of NIfTI files, read as ITK reads them (docs/formats.md explains why)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip

from mrict_core.data.images.grids import corner_gap_mm, differ
from mrict_core.data.images.headers import Header, ItkFrame, checked_affine, checked_shape, size_text, wrong
from mrict_core.data.images.orders import spacing_of
from mrict_core.data.images.streams import GZIP

BYTES = {nib.Nifti1Header: 348, nib.Nifti2Header: 540}
FORM_CODES = range(6)
UNITS_MM = {1: ("metres", 1e3), 3: ("micrometres", 1e-3)}
FORMS = (
    *("pixdim", "xyzt_units", "qform_code", *(f"quatern_{k}" for k in "bcd"), *(f"qoffset_{k}" for k in "xyz")),
    *("sform_code", *(f"srow_{k}" for k in "xyz")),
)
nib.imageglobals.logger.setLevel("CRITICAL")  # its remarks name no file; what matters is checked here


def read_nifti(path: Path) -> Header:
    """Return the header of a NIfTI file; its content, not its name, decides whether it is compressed.

    Raises MrictError, or an error of nibabel, if it does not describe one volume.
    """
    with open(path, "rb") as file:
        packed = file.peek(2)[:2] == GZIP
        block = (igzip.IGzipFile(fileobj=file) if packed else file).read(max(BYTES.values()))
    kind = nib.Nifti2Header if nib.Nifti2Header.may_contain_header(block) else nib.Nifti1Header
    block = block[: BYTES[kind]]
    header, raw = kind(block), kind(block, check=False)  # the first with corrected values
    if bytes(header["magic"])[:3] not in (b"n+1", b"n+2"):
        raise wrong(path, "a header whose voxels are in another file (.img)", "one file", "export it as .nii.gz")
    dtype = header.get_data_dtype()
    if dtype.kind not in "biuf":
        raise wrong(path, "holds colours or complex numbers", "one number per voxel", "export grey values")
    shape = checked_shape(header.get_data_shape(), path)
    for name in ("qform_code", "sform_code"):
        if int(raw[name]) not in FORM_CODES:  # nibabel ignores such a form, ITK uses it
            raise wrong(path, f"its {name} is {int(raw[name])}", f"0 to {FORM_CODES[-1]}", "fix the header")
    affine, remarks = _grid(header, np.array(raw["pixdim"][1:4], np.float64), shape, path)
    slope, inter = (float(raw[name]) for name in ("scl_slope", "scl_inter"))
    if not np.isfinite([slope, inter]).all():
        remarks += (f"its scl_slope and scl_inter are {slope:g} and {inter:g}: values are taken as stored",)
        slope = 0.0
    offset = float(header["vox_offset"])
    if not BYTES[kind] <= offset < 1e12:
        raise wrong(path, f"its vox_offset is {offset:g}", "the position of the voxels in the file")
    header["vox_offset"] = 0  # nibabel sets it when writing
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
    """Return the affine (voxel -> RAS mm) as ITK reads the header, and a remark if other readings differ."""
    unit_name, unit = UNITS_MM.get(int(header["xyzt_units"]) & 7, ("", 1.0))
    sform, _ = header.get_sform(coded=True)
    sized = np.isfinite(pixdim).all() and (pixdim > 0).all()
    if not sized and sform is None:
        raise wrong(path, f"voxels of {size_text(pixdim)} in its pixdim", "sizes above 0", "fix the header")
    zooms = pixdim if sized else np.array(spacing_of(sform))
    qform = _qform(header, zooms, sform is not None)
    in_mm = np.diag([unit, unit, unit, 1.0])
    base = header.get_base_affine() if sform is None and qform is None else None  # nibabel's, without a form
    with np.errstate(invalid="ignore"):  # non-finite forms are refused below
        sform, qform, base = (
            None if form is None else checked_affine(in_mm @ form, path) for form in (sform, qform, base)
        )
    finest = next(form for form in (sform, qform, base) if form is not None)  # nibabel's, but for the unit
    causes = []
    if sform is None and qform is None:
        causes.append("holds no orientation (both form codes are 0)")
    if not sized:
        causes.append(f"has a pixdim of {size_text(pixdim)}")
    elif sform is not None and differ(sform, _with_zooms(sform, unit * zooms), shape):
        sizes = size_text(spacing_of(sform)), size_text(unit * zooms)
        causes.append(f"has voxels of {sizes[0]} in its sform and {sizes[1]} in its pixdim")
    if sform is not None and qform is not None and differ(qform, sform, shape):
        causes.append("has a qform and an sform that differ")
    if unit != 1:
        causes.append(f"is in {unit_name}")
    if not causes:
        return finest, ()
    itk = _placed_by_itk(header) if sized else None  # it would flip the image if pixdim is not a size
    forms = {"the sform": sform, "the qform": qform}
    known = {name: form for name, form in forms.items() if form is not None}
    taken, name = finest, next(iter(known), "")
    if itk is not None:
        odd = "the sform with the voxel size of pixdim" if known else "axes to the left, back and head, from 0"
        same = (name for name, form in known.items() if not differ(itk, form, shape))
        name = next(same, odd)
        taken = known.get(name, itk)
    gap_mm = max(corner_gap_mm(taken, other, shape) for other in (*known.values(), np.linalg.inv(in_mm) @ finest))
    remark = (
        f"its header {' and '.join(causes)}: its readings place a voxel up to {gap_mm:.3g} mm apart; "
        f"taken: {name}{', as by ITK and 3D Slicer' if itk is not None else ''}"
    )
    return taken, (remark,)


def _qform(header: Any, zooms: np.ndarray, spare: bool) -> np.ndarray | None:
    """Return the qform, None without a code; `spare` (there is an sform) ignores an invalid quaternion."""
    header = header.copy()
    header["pixdim"][1:4] = zooms
    try:
        return header.get_qform(coded=True)[0]
    except (nib.spatialimages.HeaderDataError, ValueError):
        if spare:
            return None
        raise


def _placed_by_itk(header: Any) -> np.ndarray | None:
    """Return where ITK itself places an image with these forms, None if it refuses.

    Usually by an sform with code 1 (scanner), else the qform, else the sform, with the voxel size of pixdim; there are
    exceptions if forms differ only in the signs of their axes.
    """
    import SimpleITK as sitk

    copy = nib.Nifti1Header()
    copy.set_data_shape((1, 1, 1))
    for name in FORMS:
        copy[name] = header[name]
    sitk.ProcessObject.GlobalWarningDisplayOff()  # its remarks name no file
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "header.nii"
        path.write_bytes(copy.binaryblock + bytes(4))
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            return None
    return ItkFrame(reader.GetOrigin(), reader.GetSpacing(), reader.GetDirection()).affine


def _with_zooms(form: np.ndarray, zooms: np.ndarray) -> np.ndarray:
    sized = np.array(form)
    sized[:3, :3] *= zooms / np.array(spacing_of(form))
    return sized
