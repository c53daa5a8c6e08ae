"""How well the outlines and the air cavities of a pair agree, on voxels of about 3 mm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from mrict_core.hu import BONE_ABOVE_HU
from mrict_core.pairing.optimum import coarse, mr_field

CAVITY_BELOW_HU = -500.0  # mostly air, after averaging
CAVITY_MIN_ML = 5.0  # less is no basis for a judgement
DEPTH_MM = 8.0  # cavities nearer to the skin are part of the outline
NEAR_MM = 10.0  # MR signal is as low in bone and vessels as in air: only the surroundings of cavities are compared
DARK = 0.35  # of the median signal of the body


@dataclass(frozen=True)
class Overlaps:
    """Agreement of two bodies where the CT has data; a measure without a basis is None."""

    body_dice: float
    outline_mm: float | None  # mean distance of the surfaces, both ways
    air_dice: float | None
    covered: float  # share of the MR's body that the CT covers


def overlaps(mr: sitk.Image, ct: sitk.Image, mr_body: sitk.Image, ct_body: sitk.Image, field: sitk.Image) -> Overlaps:
    """Return the overlaps of a pair on one grid."""
    grey, hu = (sitk.GetArrayFromImage(coarse(image)) for image in (mr, ct))
    whole, other, seen = (sitk.GetArrayFromImage(coarse(image)) > 0.5 for image in (mr_body, ct_body, field))
    reached, seen = seen, seen & mr_field(grey, whole)
    spacing = coarse(mr_body).GetSpacing()[::-1]
    covered, body, other = _share(whole & reached, whole), whole & seen, other & seen
    return Overlaps(
        body_dice=dice(body, other),
        outline_mm=_outline_mm(body, other, seen, spacing),
        air_dice=_air_dice(grey, hu, body & other, seen, spacing),
        covered=covered,
    )


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Dice coefficient of two masks; 0 if both are empty."""
    total = np.count_nonzero(one) + np.count_nonzero(other)
    return 2 * np.count_nonzero(one & other) / total if total else 0.0


def _share(part: np.ndarray, whole: np.ndarray) -> float:
    return np.count_nonzero(part) / max(1, np.count_nonzero(whole))


def _outline_mm(one: np.ndarray, other: np.ndarray, seen: np.ndarray, spacing: tuple[float, ...]) -> float | None:
    """Return the mean distance of two surfaces; cuts by the image's border or the CT's field are no surface."""
    first, second = (mask & seen & ~ndimage.binary_erosion(mask | ~seen, border_value=1) for mask in (one, other))
    if not first.any() or not second.any():
        return None
    to_first, to_second = (ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in (first, second))
    return float((to_first[second].mean() + to_second[first].mean()) / 2)


def _air_dice(
    grey: np.ndarray, hu: np.ndarray, both: np.ndarray, seen: np.ndarray, spacing: tuple[float, ...]
) -> float | None:
    """Return the Dice coefficient of the CT's air and the MR's darkness, deep in both bodies and near the CT's air."""
    deep = both & (ndimage.distance_transform_edt(both | ~seen, sampling=spacing) > DEPTH_MM)
    air = deep & (hu < CAVITY_BELOW_HU)
    if np.count_nonzero(air) * float(np.prod(spacing)) / 1000 < CAVITY_MIN_ML:
        return None
    near = deep & (ndimage.distance_transform_edt(~air, sampling=spacing) <= NEAR_MM)
    near &= ~ndimage.binary_dilation(hu > BONE_ABOVE_HU)
    return dice(air & near, near & (grey < DARK * np.median(grey[both])))
