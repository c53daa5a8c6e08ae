"""Headers of MetaImage files (MHA, MHD), read as ITK reads them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np

from mrict_core.data.images.headers import (
    HEADER_BYTES,
    Header,
    ItkFrame,
    checked_affine,
    checked_shape,
    detached,
    disagreement,
    numbers,
    sizes,
    unit_ignored,
    wrong,
)

END = re.compile(rb"^ElementDataFile[ \t]*=[ \t]*([^\r\n]*)\r?(?:\n|\Z)", re.MULTILINE)
TYPES = {"CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4", "LONG": "i4"} | {
    **{"ULONG": "u4", "LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8"}
}
POSITION, MATRIX = ("Offset", "Position", "Origin"), ("TransformMatrix", "Rotation", "Orientation")
SPACING = ("ElementSpacing", "ElementSize")
DEFAULTS = "as ITK does: 1 mm, from 0, axes to the left, back and head"
UNITS_MM = {"um": 1e-3, "cm": 10.0}


def read_metaimage(path: Path) -> Header:
    """Return the header of an MHA or MHD file; raise MrictError if it does not describe one volume."""
    with open(path, "rb") as file:
        start = file.read(HEADER_BYTES)
    end = END.search(start)
    if not end:
        raise ValueError("no ElementDataFile in its header")
    fields = _fields(start[: end.start()].decode("latin-1"), path)
    name = end[1].decode("latin-1").strip()
    local = name.upper() == "LOCAL"
    count = int(numbers(path, "NDims", fields.get("NDims", ""), 1)[0])
    shape = checked_shape(numbers(path, "DimSize", fields.get("DimSize", ""), count), path)
    frame, remarks = _frame(fields, count, shape, path)
    slope, offset = (fields.get(f"ElementToIntensityFunction{name}", "") for name in ("Slope", "Offset"))
    if float(slope or 1) != 1 or float(offset or 0) != 0:
        text = f"its ElementToIntensityFunction (slope {slope or 1}, offset {offset or 0})"
        remarks += (f"{text} is ignored: values are taken as stored, as by ITK and 3D Slicer",)
    data = path if local else detached(path, name)
    skip = int(fields.get("HeaderSize", 0) or 0)
    header = Header(
        path,
        shape,
        frame.affine,
        _type(fields, path),
        data,
        end.end() if local else max(skip, 0),
        remarks=remarks,
        native=frame,
    )
    return _place(header, fields, skip)


def _fields(text: str, path: Path) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, separator, value = (part.strip() for part in line.partition("="))
        if separator and fields.setdefault(name, value) != value:
            raise wrong(
                path, f"its {name[:40]!r} is both {fields[name][:40]!r} and {value[:40]!r}", "one", "fix the header"
            )
    return fields


def _true(fields: dict[str, str], *names: str) -> bool:
    return any(fields.get(name, "").lower()[:1] in ("t", "y", "1") for name in names)


def _type(fields: dict[str, str], path: Path) -> np.dtype:
    name = fields.get("ElementType", "").removeprefix("MET_")
    if int(fields.get("ElementNumberOfChannels", 1) or 1) > 1 or name.endswith("_ARRAY"):
        raise wrong(path, "holds several numbers in a voxel", "one number per voxel", "export grey values")
    if name not in TYPES:
        raise wrong(path, f"its ElementType is {name[:40]!r}", f"one of {', '.join(TYPES)}")
    if not _true({"BinaryData": "True"} | fields, "BinaryData"):
        raise wrong(path, "its voxels are written as text", "binary voxels")
    return np.dtype(TYPES[name]).newbyteorder(
        ">" if _true(fields, "BinaryDataByteOrderMSB", "ElementByteOrderMSB") else "<"
    )


def _place(header: Header, fields: dict[str, str], skip: int) -> Header:
    """Return the header with the position of its voxels: at the end of the file, or in a compressed stream."""
    if _true(fields, "CompressedData"):
        return replace(header, encoding="zlib")
    if skip == -1 and header.data != header.path:
        return replace(header, start=header.data.stat().st_size - header.size)
    return header


def _first(fields: dict[str, str], names: tuple[str, ...]) -> tuple[str, str]:
    """Return name and text of the first existing field, else ("", "")."""
    return next(((name, fields[name]) for name in names if name in fields), ("", ""))


def _frame(fields: dict[str, str], count: int, shape: tuple[int, ...], path: Path) -> tuple[ItkFrame, tuple[str, ...]]:
    """Return the grid as ITK reads it, and remarks on missing and contradicting fields."""
    missing, found = [], {}
    for what, names, read, size, default in (
        ("voxel size", SPACING, sizes, count, np.ones(count)),
        ("position", POSITION, numbers, count, np.zeros(count)),
        ("orientation", MATRIX, numbers, count**2, np.eye(count).ravel()),
    ):
        name, text = _first(fields, names)
        found[what] = read(path, name, text, size) if name else default
        missing += [] if name else [what]
    direction = found["orientation"].reshape(count, count).T[:3, :3]  # one axis after the other in the file
    origin, spacing = found["position"][:3], found["voxel size"][:3]
    frame = ItkFrame.of_arrays(origin, spacing, direction)
    remarks = tuple(missing and [f"its header holds no {' and no '.join(missing)}: assumed {DEFAULTS}"])
    return frame, remarks + _contradictions(fields, frame, shape, path)


def _contradictions(fields: dict[str, str], frame: ItkFrame, shape: tuple[int, ...], path: Path) -> tuple[str, ...]:
    """Return remarks on fields that contradict the grid that ITK reads."""
    remarks: tuple[str, ...] = ()
    affine = checked_affine(frame.affine, path)
    codes = fields.get("AnatomicalOrientation", "")
    named = codes.translate(str.maketrans("RLAPIS", "LRPASI"))  # it names the origin of each axis
    ours = "".join(nib.orientations.aff2axcodes(affine))
    if re.fullmatch("(?=.*[RL])(?=.*[AP])(?=.*[IS])[RLAPIS]{3}", codes) and named != ours:
        turned = np.zeros((3, 3))
        for axis, code in enumerate(named):
            turned["LPSRAI".index(code) % 3, axis] = 1 if code in "LPS" else -1
        other = frame._replace(direction=tuple(turned.ravel())).affine
        remarks += disagreement(
            f"AnatomicalOrientation {codes} is not that of its matrix, which is used", affine, other, shape
        )
    unit = UNITS_MM.get(fields.get("DistanceUnits", "").lower(), 1.0)
    remarks += unit_ignored(f"DistanceUnits {fields.get('DistanceUnits')}", unit, affine, shape)
    lengths = np.linalg.norm(np.reshape(frame.direction, (3, 3)), axis=0)
    other = frame._replace(direction=tuple((np.reshape(frame.direction, (3, 3)) / lengths).ravel())).affine
    remarks += disagreement("the axes in its matrix are not of length 1; used unchanged", affine, other, shape)
    return remarks
