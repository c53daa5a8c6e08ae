"""Test targets for a CT without structures: spheres in soft tissue, deep inside the body, the same at every run.

They make target dose, gamma and range exist for every case. They are not lesions, and organs are never made up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from mrict_core.errors import MrictError
from mrict_core.hu import AIR_BELOW_HU, BONE_ABOVE_HU

RADII_MM = (20.0, 17.5, 15.0, 12.5, 10.0)  # the largest that fits is taken
DEPTH_MM = 15.0  # between sphere and skin, at least
SOFT_SHARE = 0.75  # of a sphere that is soft tissue
TRIES = 200
SEED = 1


@dataclass(frozen=True)
class Sphere:
    """A test target: not a lesion."""

    centre_mm: tuple[float, float, float]  # LPS
    radius_mm: float

    def mask(self, like: sitk.Image) -> sitk.Image:
        """Return the sphere on an image's grid, 0 and 1."""
        voxels = _within(like, np.array(self.centre_mm), self.radius_mm)
        mask = sitk.GetImageFromArray(voxels.astype(np.uint8))
        mask.CopyInformation(like)
        return mask


def place_targets(ct: sitk.Image, body: sitk.Image, count: int, seed: int = SEED) -> list[Sphere]:
    """Return at most `count` spheres on a CT in HU (axes along L, P and S), chosen by the CT and the seed alone.

    Each lies `DEPTH_MM` or more inside the body, which ends at the image's edge at the latest, is soft tissue for the
    most part, and keeps away from the others. Raises MrictError if none fits.
    """
    hu, inside = sitk.GetArrayFromImage(ct), sitk.GetArrayFromImage(body) > 0
    spacing = np.array(ct.GetSpacing()[::-1])
    depth = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    depth -= spacing.max() / 2  # it is measured to the middle of the first voxel outside
    soft = (hu > AIR_BELOW_HU) & (hu < BONE_ABOVE_HU) & inside
    rng, found = np.random.default_rng(seed), []
    for radius in RADII_MM:
        places = np.argwhere(soft & (depth >= radius + DEPTH_MM))
        for place in rng.permutation(places)[:TRIES]:
            centre = np.array(ct.TransformIndexToPhysicalPoint(place[::-1].tolist()))
            apart = all(np.linalg.norm(centre - other.centre_mm) >= radius + other.radius_mm for other in found)
            if apart and soft[_within(ct, centre, radius)].mean() >= SOFT_SHARE:
                found.append(Sphere(tuple(centre.tolist()), radius))
            if len(found) == count:
                return found
    if not found:
        raise MrictError(
            f"no test target fits: expected soft tissue {DEPTH_MM + RADII_MM[-1]:g} mm inside the body; give --target"
        )
    return found


def _within(like: sitk.Image, centre: np.ndarray, radius_mm: float) -> np.ndarray:
    """Return the voxels (z, y, x) within a radius of a point; the image's axes are at right angles."""
    place = np.array(like.TransformPhysicalPointToContinuousIndex(centre.tolist()))
    squares = [
        ((np.arange(size) - middle) * spacing) ** 2
        for size, middle, spacing in zip(like.GetSize(), place, like.GetSpacing(), strict=True)
    ]
    x, y, z = squares
    return z[:, None, None] + y[:, None] + x <= radius_mm**2
