"""Headers of NRRD files (attached, or NHDR with separate voxels), read as ITK reads them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from mrict_core.data.images.headers import (
    HEADER_BYTES,
    Header,
    ItkFrame,
    checked_affine,
    checked_shape,
    detached,
    numbers,
    sizes,
    unit_ignored,
    wrong,
)

TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
ENCODINGS = {"raw": "raw", "gz": "gzip", "gzip": "gzip", "bz2": "bzip2", "bzip2": "bzip2"}
TO_LPS = {  # space => signs of its axes
    **dict.fromkeys(("left-posterior-superior", "lps", "left-posterior-superior-time", "lpst"), (1, 1, 1)),
    **dict.fromkeys(("right-anterior-superior", "ras", "right-anterior-superior-time", "rast"), (-1, -1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las", "left-anterior-superior-time", "last"), (1, -1, 1)),
}
SCALARS = ("domain", "space", "time", "none", "???", "stub", "scalar", "list")  # kinds of axes other than components
UNITS_MM = {"m": 1e3, "cm": 10.0, **dict.fromkeys(("um", "µm", "microns", "micrometers"), 1e-3)}


def read_nrrd(path: Path) -> Header:
    """Return the header of an NRRD or NHDR file; raise MrictError if it does not describe one volume."""
    with open(path, "rb") as file:
        start = file.read(HEADER_BYTES)
    if not re.match(rb"NRRD000\d", start):
        raise ValueError("does not begin as an NRRD file")
    end = re.search(rb"\n\r?\n", start)
    fields = _fields(start[: end.start() if end else None].decode("utf-8", "replace"), path)
    name = fields.get("datafile", "")
    if not (end or name):
        raise ValueError("no empty line after its header")
    dimension = int(numbers(path, "dimension", fields.get("dimension", ""), 1)[0])
    shape = checked_shape(numbers(path, "sizes", fields.get("sizes", ""), dimension), path)
    kinds = fields.get("kinds", "").split()[:3]
    if set(kinds) - set(SCALARS):
        raise wrong(path, f"its axes are {', '.join(kinds)[:60]!r}", "one number per voxel", "export grey values")
    frame, remarks = _frame(fields, dimension, shape, path)
    encoding = ENCODINGS.get(fields.get("encoding", "").lower())
    if encoding is None or int(fields.get("lineskip", 0)):
        came = f"encoding {fields.get('encoding', '')[:20]!r}, line skip {fields.get('lineskip', 0)!r}"
        raise wrong(path, came, "raw, gzip or bzip2 without lines to skip")
    header = Header(
        path,
        shape,
        frame.affine,
        _type(fields, path),
        detached(path, name) if name else path,
        0 if name else end.end(),
        encoding=encoding,
        remarks=remarks,
        native=frame,
    )
    return _skipped(header, int(fields.get("byteskip", 0)))


def _fields(text: str, path: Path) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in text.splitlines()[1:]:
        name, separator, value = line.partition(":")
        if line.startswith("#") or not separator or value.startswith("="):  # comments and custom keys
            continue
        name = name.strip().lower().replace(" ", "")
        if name in fields:
            raise wrong(path, f"its {name[:40]!r} is given twice", "one", "fix the header")
        fields[name] = value.strip()
    return fields


def _type(fields: dict[str, str], path: Path) -> np.dtype:
    name = fields.get("type", "").lower()
    code = next((code for code, names in TYPES.items() if name in names), "")
    order = {"little": "<", "big": ">"}.get(fields.get("endian", "").lower(), "")
    if not code:
        raise wrong(path, f"its type is {name[:40]!r}", "one number per voxel")
    if not order and code[1] != "1":
        raise wrong(path, "no endian in its header", "little or big")
    return np.dtype(code).newbyteorder(order or "<")


def _skipped(header: Header, skip: int) -> Header:
    """Return the header with `byte skip` applied to the file or to the decompressed stream."""
    if header.encoding != "raw":
        return replace(header, skip=max(skip, 0))
    if skip == -1:
        return replace(header, start=header.data.stat().st_size - header.size)
    return replace(header, start=header.start + skip)


def _frame(
    fields: dict[str, str], dimension: int, shape: tuple[int, ...], path: Path
) -> tuple[ItkFrame, tuple[str, ...]]:
    """Return the grid as ITK reads it, and remarks on missing and contradicting fields."""
    space, vectors = fields.get("space", "").lower(), re.findall(r"\([^)]*\)|none", fields.get("spacedirections", ""))
    missing = [] if space in TO_LPS else ["orientation" + (f" (its space is {space[:30]!r})" if space else "")]
    if vectors:
        if len(vectors) != dimension or "none" in vectors[:3]:
            raise wrong(path, f"its space directions are {len(vectors)} for {dimension} axes", "three vectors")
        axes = np.array([_vector(path, "space directions", vector) for vector in vectors[:3]]).T
        spacing = np.linalg.norm(axes, axis=0)
        origin = _vector(path, "space origin", fields["spaceorigin"]) if "spaceorigin" in fields else np.zeros(3)
        missing += [] if "spaceorigin" in fields else ["position"]
    else:
        text = _first_three(fields, "spacings")
        known = bool(text) and "nan" not in text.lower()
        spacing = sizes(path, "spacings", text, 3) if known else np.ones(3)
        axes, origin = np.diag(spacing), np.zeros(3)
        if "axismins" in fields:
            origin = numbers(path, "axis mins", _first_three(fields, "axismins"), 3) + spacing / 2
        missing = ["orientation", *([] if known else ["voxel size"])]
    signs = np.array(TO_LPS.get(space, (1, 1, 1)))
    direction = np.divide(axes, spacing, out=np.zeros((3, 3)), where=spacing > 0) * signs[:, None]
    frame = ItkFrame.of_arrays(signs * origin, spacing, direction)
    remarks = tuple(missing and [f"its header holds no {' and no '.join(missing)}: assumed as by ITK, axes L, P, S"])
    affine = checked_affine(frame.affine, path)
    units = re.findall(r'"([^"]*)"', fields.get("spaceunits", "") or fields.get("units", ""))
    if odd := next((name for name in units[:3] if name in UNITS_MM), ""):
        remarks += unit_ignored(f"its unit {odd!r}", UNITS_MM[odd], affine, shape)
    return frame, remarks


def _vector(path: Path, name: str, text: str) -> np.ndarray:
    return numbers(path, name, text.strip("()").replace(",", " "), 3)


def _first_three(fields: dict[str, str], name: str) -> str:
    """Return a field's values for the three axes of the volume; a fourth axis may have NaN."""
    return " ".join(fields.get(name, "").split()[:3])
