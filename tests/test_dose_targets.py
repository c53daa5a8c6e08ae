"""Test targets: where they are, how large, that they repeat."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from dose_cases import distance_mm, image
from scipy import ndimage

from mrict_core.dose.targets import DEPTH_MM, RADII_MM, SOFT_SHARE, place_targets
from mrict_core.errors import MrictError

SIZE, SPACING = 60, 3.0


def head(radius_mm: float = 80.0, skull_mm: float = 6.0, air_mm: float = 0.0) -> tuple[sitk.Image, sitk.Image]:
    """Return CT and body of a ball with a skull, and air in its middle."""
    away = distance_mm(SIZE, SPACING)
    hu = np.where(away < radius_mm, np.where(away > radius_mm - skull_mm, 800.0, 30.0), -1000.0)
    hu[away < air_mm] = -900
    return image(hu.astype(np.float32), SPACING), image((away < radius_mm).astype(np.uint8), SPACING)


def test_targets_are_deep_in_soft_tissue_and_apart():
    ct, body = head()
    hu, inside = sitk.GetArrayFromImage(ct), sitk.GetArrayFromImage(body) > 0
    depth = ndimage.distance_transform_edt(inside, sampling=SPACING)
    spheres = place_targets(ct, body, 3)
    assert len(spheres) == 3
    masks = [sitk.GetArrayFromImage(sphere.mask(ct)) > 0 for sphere in spheres]
    for sphere, mask in zip(spheres, masks, strict=True):
        assert sphere.radius_mm in RADII_MM
        assert depth[mask].min() >= DEPTH_MM - SPACING
        soft = (hu[mask] > -200) & (hu[mask] < 250)
        assert soft.mean() >= SOFT_SHARE
        assert mask.sum() * SPACING**3 == pytest.approx(4 / 3 * np.pi * sphere.radius_mm**3, rel=0.05)
    assert sum(masks).max() == 1


def test_targets_depend_on_the_ct_and_the_seed_alone():
    ct, body = head()
    assert place_targets(ct, body, 2, seed=3) == place_targets(ct, body, 2, seed=3)
    assert place_targets(ct, body, 2, seed=3) != place_targets(ct, body, 2, seed=4)
    assert place_targets(ct, body, 1, seed=3) == place_targets(ct, body, 2, seed=3)[:1]


def test_a_smaller_body_has_smaller_targets_and_a_tiny_one_none():
    (sphere,) = place_targets(*head(30.0), 1)
    assert sphere.radius_mm < RADII_MM[0]
    with pytest.raises(MrictError, match=r"no test target fits.*--target"):
        place_targets(*head(20.0), 1)


def test_air_is_no_target():
    ct, body = head(air_mm=70.0)
    with pytest.raises(MrictError, match="no test target fits"):
        place_targets(ct, body, 1)


def test_the_field_ends_the_body():
    """A body cut by the field: targets keep their depth from the cut, too."""
    ct, body = (one[:, :, 18:42] for one in head())
    for sphere in place_targets(ct, body, 2):
        low, high = ct.GetOrigin()[2], ct.GetOrigin()[2] + (ct.GetSize()[2] - 1) * SPACING
        assert low + DEPTH_MM <= sphere.centre_mm[2] - sphere.radius_mm + 2 * SPACING
        assert sphere.centre_mm[2] + sphere.radius_mm - 2 * SPACING <= high - DEPTH_MM


@pytest.mark.parametrize("code", ["LPS", "RAS", "SAR"])
def test_a_mask_is_the_same_sphere_on_any_grid(code):
    ct, body = head()
    (sphere,) = place_targets(ct, body, 1)
    own = sitk.GetArrayFromImage(sphere.mask(ct))
    turned = sitk.DICOMOrient(sphere.mask(sitk.DICOMOrient(ct, code)), "LPS")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(turned), own)
