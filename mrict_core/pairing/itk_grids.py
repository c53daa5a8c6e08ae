"""Grids of ITK images, and images resampled onto them. Points and transforms are LPS mm, as in ITK."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from mrict_core.errors import MrictError
from mrict_core.hu import AIR_FLOOR_HU

INTEGERS = {  # pixel type => what it holds
    getattr(sitk, f"sitk{kind}{bits}"): np.iinfo(f"{kind.lower()}{bits}")
    for kind in ("UInt", "Int")
    for bits in (8, 16, 32)
}


@dataclass(frozen=True)
class Grid:
    """Where voxels are: their number, spacing, centre of the first one (LPS mm), axes (9 numbers, by rows)."""

    size: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @classmethod
    def of(cls, image: sitk.Image) -> Grid:
        """Return the grid of an image."""
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    def with_spacing(self, spacing_mm: float | Sequence[float]) -> Grid:
        """Return the grid of the same box with another spacing (mm; one value or one for each axis).

        The box's centre is kept. It grows to a whole number of voxels, by less than one along each axis.
        """
        spacing = np.broadcast_to(np.asarray(spacing_mm, float), 3)
        if not (np.isfinite(spacing).all() and (spacing > 0).all()):
            raise MrictError(f"spacing {spacing_mm} mm: expected three numbers above 0; change it")
        size = np.maximum(1, np.ceil(np.multiply(self.size, self.spacing_mm) / spacing - 1e-6)).astype(int)
        return self._around(size, spacing, (np.array(self.size) - 1) / 2)

    def box(self, start: Sequence[int], size: Sequence[int]) -> Grid:
        """Return the part of the grid from voxel `start` (may be outside) with `size` voxels."""
        return self._around(np.asarray(size), np.array(self.spacing_mm), np.add(start, (np.asarray(size) - 1) / 2))

    def _around(self, size: np.ndarray, spacing: np.ndarray, centre: np.ndarray) -> Grid:
        """Return a grid with the axes of this one, whose centre is at this one's (continuous) voxel `centre`."""
        axes = np.reshape(self.direction, (3, 3))
        middle = np.array(self.origin) + axes @ (centre * self.spacing_mm)
        origin = middle - axes @ ((size - 1) / 2 * spacing)
        return Grid(*(tuple(v.tolist()) for v in (size, spacing, origin)), self.direction)

    def empty(self, kind: int = sitk.sitkUInt8) -> sitk.Image:
        """Return an image of zeros on the grid, of a SimpleITK pixel type."""
        image = sitk.Image(self.size, kind)
        image.SetSpacing(self.spacing_mm)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)
        return image


def resample(
    image: sitk.Image,
    grid: Grid,
    transform: sitk.Transform | None = None,
    *,
    nearest: bool = False,
    fill: float = float(AIR_FLOOR_HU),
) -> sitk.Image:
    """Return an image on another grid, in its own pixel type: linear and rounded, or nearest neighbour for masks.

    transform: maps points of the grid to points of the image; None: the same space. fill: the value outside the image;
    MrictError if the pixel type cannot hold it. No other value is outside the image's range.
    """
    held = INTEGERS.get(image.GetPixelID())
    if held and not held.min <= fill <= held.max:
        raise MrictError(
            f"fill {fill:g}: {image.GetPixelIDTypeAsString()} holds {held.min} to {held.max}; "
            "expected a value that the image's type holds; give another fill, or cast the image"
        )
    rounded = bool(held) and not nearest  # ITK would cut the decimals off: half a HU too near to 0 on average
    found = sitk.Resample(
        image,
        grid.size,
        transform or sitk.Transform(3, sitk.sitkIdentity),
        sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear,
        grid.origin,
        grid.spacing_mm,
        grid.direction,
        float(fill),
        sitk.sitkFloat64 if rounded else image.GetPixelID(),
    )
    return sitk.Cast(sitk.Round(found), image.GetPixelID()) if rounded else found


def field_of_view(ct: sitk.Image, grid: Grid, transform: sitk.Transform | None = None) -> sitk.Image:
    """Return a uint8 image on the grid: 1 where the CT has data, to half a voxel beyond its outer voxels' centres."""
    return resample(Grid.of(ct).empty() + 1, grid, transform, nearest=True, fill=0)
