"""The header of an image file: grid, type and position of its voxels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mrict_core.data.images.grids import LPS_TO_RAS, corner_gap_mm, differ
from mrict_core.data.images.orders import spacing_of
from mrict_core.errors import MrictError
from mrict_core.paths import shown

HEADER_BYTES = 1 << 20  # longest text header read
SPACING_MM = (0.05, 50.0)  # outside it the unit is wrong: metres or micrometres read as mm
MIN_VOLUME = 1e-2  # of the parallelepiped of the unit vectors of the axes: 1 if orthogonal


class ItkFrame(NamedTuple):
    """Origin (mm), spacing (mm) and direction (row by row) of an image in ITK, axes L, P, S."""

    origin: tuple[float, ...]
    spacing: tuple[float, ...]
    direction: tuple[float, ...]

    @classmethod
    def of_arrays(cls, *parts: np.ndarray) -> ItkFrame:
        return cls(*(tuple(map(float, part.ravel())) for part in parts))

    @classmethod
    def of(cls, affine: np.ndarray) -> ItkFrame:
        """Return the frame of an affine voxel -> RAS mm, obliqueness included."""
        lps, spacing = LPS_TO_RAS @ affine, np.array(spacing_of(affine))
        return cls.of_arrays(lps[:3, 3], spacing, lps[:3, :3] / spacing)

    @property
    def affine(self) -> np.ndarray:
        """The affine voxel -> RAS mm."""
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(self.direction, (3, 3)) * self.spacing
        affine[:3, 3] = self.origin
        return LPS_TO_RAS @ affine


@dataclass(frozen=True)
class Header:
    """The content of an image file's header."""

    path: Path
    shape: tuple[int, ...]
    affine: np.ndarray  # voxel -> RAS mm
    dtype: np.dtype  # with its byte order
    data: Path  # the file with the voxels: `path`, or a separate one
    start: int  # bytes in that file before the voxels or their compressed stream
    skip: int = 0  # bytes of the decompressed stream before the voxels
    encoding: str = "raw"  # gzip, zlib, bzip2
    scale: tuple[float, float] = (1.0, 0.0)  # slope and intercept
    remarks: tuple[str, ...] = ()
    native: Any = None  # nibabel's header, or an ItkFrame

    @property
    def voxels(self) -> int:
        return int(np.prod(self.shape, dtype=object))

    @property
    def size(self) -> int:
        """Of the voxels, in bytes."""
        return self.voxels * self.dtype.itemsize


def wrong(path: Path, came: str, expected: str, remedy: str = "export it again") -> MrictError:
    """Return the error for an unusable header."""
    return MrictError(f"{shown(path)}: {came}; expected {expected}; {remedy}")


def checked_shape(shape: Iterable[int], path: Path) -> tuple[int, int, int]:
    """Return the 3-D shape without trailing axes of length 1; raise if it is not that of a volume."""
    shape = tuple(int(n) for n in shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise wrong(path, f"{len(shape)}-D image of shape {shape}", "3-D", "export a single volume")
    if min(shape) < 1:
        raise wrong(path, f"image of shape {shape} holds no voxel", "three sizes above 0")
    return shape


def checked_affine(affine: np.ndarray, path: Path) -> np.ndarray:
    """Return the affine; raise if it cannot be inverted or its voxel size is implausible."""
    spacing = spacing_of(affine) if np.isfinite(affine).all() else (0.0, 0.0, 0.0)
    if min(spacing) == 0 or abs(np.linalg.det(np.asarray(affine)[:3, :3] / spacing)) < MIN_VOLUME:
        raise wrong(path, "affine not invertible", "three independent axes", "fix the header")
    low, high = SPACING_MM
    if min(spacing) < low or max(spacing) > high:
        raise wrong(path, f"voxels of {size_text(spacing)}", f"{low:g} to {high:g} mm", "fix the header's units")
    return affine


def size_text(spacing_mm: Iterable[float]) -> str:
    return " x ".join(f"{s:.4g}" for s in spacing_mm) + " mm"


def disagreement(what: str, affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Return a remark on a second reading of a header, with the distance in mm; none if both give one grid."""
    if not differ(affine, other, shape):
        return ()
    return (f"{what}: the two readings place a voxel up to {corner_gap_mm(affine, other, shape):.3g} mm apart",)


def unit_ignored(what: str, unit_mm: float, affine: np.ndarray, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Return a remark on a unit of length other than mm, which ITK ignores."""
    other = np.diag([unit_mm, unit_mm, unit_mm, 1.0]) @ affine
    return disagreement(f"{what} is ignored, as by ITK", affine, other, shape)


def numbers(path: Path, name: str, text: str, count: int) -> np.ndarray:
    """Return the `count` finite numbers of a header field; raise for anything else."""
    try:
        found = np.array([float(word) for word in text.split()])
    except ValueError:
        found = np.array([])
    if found.size != count or not np.isfinite(found).all():
        raise wrong(path, f"its {name} is {text.strip()[:60]!r}", f"{count} numbers", "fix the header")
    return found


def sizes(path: Path, name: str, text: str, count: int) -> np.ndarray:
    """Return voxel sizes in mm, all above 0: a negative one would silently flip the image."""
    found = numbers(path, name, text, count)
    if (found <= 0).any():
        raise wrong(path, f"its {name} is {text.strip()[:60]!r}", "sizes above 0", "fix the header")
    return found


def detached(path: Path, name: str) -> Path:
    """Return the file with the voxels that a header names; it must be one file in the header's folder or below."""
    if name.split()[:1] == ["LIST"] or "%" in name:
        raise wrong(path, f"voxels in several files ({name[:40]!r})", "one file", "write it as one file")
    if not name or Path(name).is_absolute() or ".." in Path(name).parts or "\\" in name:
        remedy = "move it there and edit the header"
        raise wrong(path, f"its voxels are in {name[:80]!r}", "a file in the header's own folder", remedy)
    return path.parent / name
