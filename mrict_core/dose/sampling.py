"""The grid that doses are computed on, and images brought to it and back. Points are LPS mm, as in ITK."""

from __future__ import annotations

from itertools import product

import numpy as np
import SimpleITK as sitk

from mrict_core.errors import MrictError
from mrict_core.hu import AIR_HU
from mrict_core.pairing.itk_grids import Grid, resample

ROOM_MM = 6.0  # of air kept around the body
STRAIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)  # axes along L, P and S: pyRadPlan plans no others


def dose_grid(body: sitk.Image, spacing_mm: float) -> Grid:
    """Return a grid along L, P and S around a body (0 and 1, any orientation): the same for every order of its axes.

    Raises MrictError if the body is empty.
    """
    marked = np.argwhere(sitk.GetArrayFromImage(body))
    if not marked.size:
        raise MrictError("the body mask is empty; expected 1 inside the body; check the mask")
    ends = zip((marked.min(0) - 0.5)[::-1].tolist(), (marked.max(0) + 0.5)[::-1].tolist(), strict=True)
    corners = np.array([body.TransformContinuousIndexToPhysicalPoint(corner) for corner in product(*ends)])
    low, high = corners.min(0) - ROOM_MM, corners.max(0) + ROOM_MM
    size = np.ceil((high - low) / spacing_mm - 1e-6).astype(int)
    origin = (low + high) / 2 - (size - 1) / 2 * spacing_mm
    return Grid(tuple(size.tolist()), (spacing_mm,) * 3, tuple(origin.tolist()), STRAIGHT)


def averaged(image: sitk.Image, grid: Grid, fill: float) -> sitk.Image:
    """Return an image on a coarser grid (float32): means over as many voxels as a voxel of the grid is wide.

    pyRadPlan's own sampling reads one voxel of 27 between 1 and 3 mm, so that noise and thin bone weigh too much.
    """
    wide = (grid.spacing_mm[0] / np.array(image.GetSpacing()) - 1) / 2
    radius = np.maximum(np.round(wide), 0).astype(int)
    smooth = sitk.BoxMean(sitk.Cast(image, sitk.sitkFloat32), radius.tolist())
    return resample(smooth, grid, fill=fill)


def hu_on(image: sitk.Image, body: sitk.Image, grid: Grid) -> sitk.Image:
    """Return a CT in HU on the grid, air outside the body (on the image's grid)."""
    return averaged(sitk.Mask(sitk.Cast(image, sitk.sitkFloat32), body, AIR_HU), grid, AIR_HU)


def mask_on(mask: sitk.Image, grid: Grid) -> sitk.Image:
    """Return a mask on the grid: 1 where at least half of a voxel is marked."""
    return sitk.Cast(averaged(mask, grid, 0.0) >= 0.5, sitk.sitkUInt8)


def dose_on(dose: sitk.Image, body: sitk.Image) -> sitk.Image:
    """Return a dose (Gy, float32) on the grid of the body, 0 outside it, where interpolation lets it leak."""
    return sitk.Mask(resample(dose, Grid.of(body), fill=0.0), body)
