"""Resample a volume to another grid with SimpleITK."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from mrict_core.data.images import grids
from mrict_core.data.images.headers import ItkFrame
from mrict_core.data.images.volumes import Volume
from mrict_core.errors import MrictError
from mrict_core.hu import AIR_FLOOR_HU
from mrict_core.paths import shown

if TYPE_CHECKING:
    import SimpleITK as sitk


def same_grid(volume: Volume, like: Volume) -> bool:
    """Return whether two volumes share one grid (see `grids.is_same`)."""
    return grids.is_same(volume.shape, volume.affine, like.shape, like.affine)


def grid_text(volume: Volume) -> str:
    """Return the grid of a volume in words; see `grids.in_words`."""
    return grids.in_words(volume.shape, volume.affine)


def resample_to(volume: Volume, like: Volume, *, nearest: bool = False, fill: float = AIR_FLOOR_HU) -> Volume:
    """Return `volume` on the grid of `like`: linear, or nearest neighbour for masks; `fill` outside.

    A volume already on that grid is returned unchanged. Sheared grids raise MrictError: ITK cannot represent them.
    """
    if same_grid(volume, like):
        return volume
    import SimpleITK as sitk

    how = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    moved = sitk.Resample(itk_image(volume), itk_image(like), sitk.Transform(), how, float(fill))
    return Volume(np.ascontiguousarray(sitk.GetArrayFromImage(moved).T), like.affine, volume.path)


def in_plane_grid(volume: Volume, axes: Iterable[int], spacing_mm: float) -> Volume:
    """Return a grid to resample to: the extent of `volume`, `spacing_mm` along the file `axes`."""
    shape, affine = list(volume.shape), np.array(volume.affine)
    for axis in axes:
        before = volume.spacing_mm[axis]
        shape[axis] = max(1, math.ceil(volume.shape[axis] * before / spacing_mm - 1e-6))
        centre = (volume.shape[axis] - 1) / 2
        affine[:3, 3] += volume.affine[:3, axis] * centre
        affine[:3, axis] *= spacing_mm / before
        affine[:3, 3] -= affine[:3, axis] * (shape[axis] - 1) / 2
    return Volume(np.broadcast_to(np.float32(0), shape), affine, volume.path)


def is_sheared(volume: Volume) -> bool:
    """Return whether the axes of a volume are not orthogonal, beyond the tolerance of one grid."""
    straight = grids.straightened(volume.affine)
    return grids.corner_gap_voxels(volume.affine, straight, volume.shape) > grids.SAME_GRID


def itk_image(volume: Volume) -> sitk.Image:
    """Return a volume as an ITK image (axes LPS), with the file's own numbers if it was ITK's.

    Sheared grids raise MrictError.
    """
    import SimpleITK as sitk

    if is_sheared(volume):
        raise MrictError(
            f"{shown(volume.path)}: its axes are not at right angles; expected an unsheared grid to resample it or to "
            "write it as MHA or NRRD; resample it yourself, or keep NIfTI"
        )
    frame = volume.header if isinstance(volume.header, ItkFrame) else ItkFrame.of(volume.affine)
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array.T))
    image.SetSpacing(frame.spacing)
    image.SetDirection(frame.direction)
    image.SetOrigin(frame.origin)
    return image
