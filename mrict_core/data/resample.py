"""Bring a volume onto another one's grid. SimpleITK interpolates; geometry goes through the RAS affines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

from mrict_core.data.intensity import AIR_HU
from mrict_core.data.volumes import GRID_TOLERANCE_MM, LPS_TO_RAS, Volume, corner_gap_mm
from mrict_core.errors import MrictError
from mrict_core.paths import shown

if TYPE_CHECKING:
    import SimpleITK as sitk

ORTHOGONAL = 1e-4  # how far the axes' directions may be from right angles for ITK to hold them


def same_grid(volume: Volume, like: Volume) -> bool:
    """Return whether two volumes have one shape and put every voxel at the same place (to a micrometre)."""
    return volume.shape == like.shape and corner_gap_mm(volume.affine, like.affine, like.shape) <= GRID_TOLERANCE_MM


def grid_text(volume: Volume) -> str:
    """Return a grid in words: shape, voxel size, where its axes point, where its first voxel lies."""
    shape = "×".join(map(str, volume.shape))
    spacing = "×".join(f"{v:.4g}" for v in volume.spacing_mm)
    origin = ", ".join(f"{v:.4g}" for v in volume.affine[:3, 3])
    axes = "".join(nib.orientations.aff2axcodes(volume.affine))
    return f"{shape} voxels of {spacing} mm, axes {axes}, from ({origin}) mm"


def resample_to(volume: Volume, like: Volume, *, nearest: bool = False, fill: float = AIR_HU) -> Volume:
    """Return `volume` on the grid of `like`: linear, or by the nearest voxel for masks; `fill` where it holds nothing.

    A volume on that grid already is returned as it is. Sheared grids, which ITK cannot hold, raise MrictError.
    """
    if same_grid(volume, like):
        return volume
    import SimpleITK as sitk

    how = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    moved = sitk.Resample(_image(volume), _image(like), sitk.Transform(), how, float(fill))
    return Volume(np.ascontiguousarray(sitk.GetArrayFromImage(moved).T), like.affine, volume.path)


def _image(volume: Volume) -> sitk.Image:
    import SimpleITK as sitk

    lps = LPS_TO_RAS @ volume.affine
    spacing = np.array(volume.spacing_mm)
    directions = lps[:3, :3] / spacing
    if np.abs(directions.T @ directions - np.eye(3)).max() > ORTHOGONAL:
        raise MrictError(
            f"{shown(volume.path)}: its axes are not at right angles; expected an unsheared grid to resample; "
            "bring it to the other grid yourself"
        )
    left, _, right = np.linalg.svd(directions)  # the nearest exactly orthogonal axes: ITK insists on them
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array.T))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((left @ right).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image
