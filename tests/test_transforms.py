"""Joint transforms: pairs stay aligned, ranges are kept, a seed repeats."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrict_core.data.augment import NONE, AugmentSettings, JointTransform

GEOMETRY = AugmentSettings(gamma=0, bias_field=0, noise=0)
PHOTOMETRY = AugmentSettings(0, 0, 0, 0, 0)


def pair(seed: int = 0, count: int = 3, side: int = 48):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand((count, 1, side, side), generator=generator) * 2 - 1
    image[:, :, :6], image[:, :, -6:], image[..., :6], image[..., -6:] = -1, -1, -1, -1
    return image, image.clone(), (image > -0.5).float()


def seeded(number: int, options: AugmentSettings) -> JointTransform:
    return JointTransform(options, torch.Generator().manual_seed(number))


@given(st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_geometry_moves_both_images_alike(seed):
    real_A, real_B, mask = pair(seed)
    moved_A, moved_B, moved_mask = seeded(seed, GEOMETRY)(real_A, real_B, mask)
    assert torch.equal(moved_A, moved_B)
    assert set(moved_mask.unique().tolist()) <= {0.0, 1.0}
    assert not torch.equal(moved_A, real_A)


@given(st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_mask_follows_the_image(seed):
    """A disc moves with its mask: linear and nearest sampling differ at the rim only."""
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    disc = (((rows - 28) ** 2 + (columns - 36) ** 2) < 15**2).float()[None, None]
    moved, _, mask = seeded(seed, GEOMETRY)(disc * 2 - 1, disc * 2 - 1, disc)
    rim = (moved > -0.98) & (moved < 0.98)
    inside = moved >= 0.98
    assert bool((mask[inside] == 1).all())
    assert bool((mask[~inside & ~rim] == 0).all())
    assert rim.sum() < 260
    assert mask.sum() == pytest.approx(float(disc.sum()), rel=0.15)  # scale ±5 % each way, whole pixels at the rim


@given(st.integers(0, 2**31), st.floats(-1, 0.9), st.floats(0.01, 0.1))
@settings(max_examples=25, deadline=None)
def test_no_value_outside_the_ct_range_appears(seed, low, width):
    real_A, _, mask = pair(seed)
    real_B = torch.where(mask > 0, low + width * torch.rand(mask.shape), torch.tensor(-1.0))
    _, moved, _ = seeded(seed, AugmentSettings())(real_A, real_B, mask)
    assert float(moved.min()) >= -1
    assert float(moved.max()) <= float(real_B.max()) + 1e-6


def test_photometry_changes_the_mr_alone_and_inside_its_support_only():
    real_A, real_B, mask = pair()
    moved_A, moved_B, moved_mask = seeded(1, PHOTOMETRY)(real_A, real_B, mask)
    assert torch.allclose(moved_B, real_B, atol=1e-5)
    assert torch.equal(moved_mask, mask)
    background = real_A == -1
    assert torch.allclose(moved_A[background], real_A[background], atol=1e-5)
    assert (moved_A - real_A)[~background].abs().mean() > 0.01
    assert float(moved_A.min()) >= -1
    assert float(moved_A.max()) <= 1


def test_nothing_chosen_changes_nothing():
    images = pair()
    for before, after in zip(images, seeded(0, NONE)(*images), strict=True):
        assert torch.allclose(before, after, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "flipped"),
    [
        (AugmentSettings(1, 0, 0, 0, 0, 0, 0, 0), (3,)),
        (AugmentSettings(0, 1, 0, 0, 0, 0, 0, 0), (2,)),
        (AugmentSettings(1, 1, 0, 0, 0, 0, 0, 0), (2, 3)),
    ],
)
def test_flips_are_exact(options, flipped):
    real_A, real_B, mask = pair()
    moved_A, _, moved_mask = seeded(0, options)(real_A, real_B, mask)
    assert torch.allclose(moved_A, real_A.flip(flipped), atol=1e-5)
    assert torch.equal(moved_mask, mask.flip(flipped))


@pytest.mark.parametrize("degrees", [5.0, 10.0])
def test_rotation_turns_without_shear(degrees):
    """A centred disc is its own rotation; an off-centre spot keeps its distance from the centre."""
    options = AugmentSettings(0, 0, degrees, 0, 0, 0, 0, 0)
    rows, columns = torch.meshgrid(torch.arange(65) - 32.0, torch.arange(65) - 32.0, indexing="ij")
    spot = torch.exp(-((rows - 20) ** 2 + columns**2) / 8)[None, None] * 2 - 1
    moved, _, _ = seeded(3, options)(spot, spot, (spot > 0).float())
    weight = (moved[0, 0] + 1) / (moved[0, 0] + 1).sum()
    row, column = float((weight * rows).sum()), float((weight * columns).sum())
    assert (row**2 + column**2) ** 0.5 == pytest.approx(20, abs=0.2)
    assert abs(column) <= 20 * torch.sin(torch.deg2rad(torch.tensor(degrees))) + 0.1
    assert abs(column) > 0.05


def test_a_seed_repeats():
    first = seeded(5, AugmentSettings())(*pair())
    again = seeded(5, AugmentSettings())(*pair())
    other = seeded(6, AugmentSettings())(*pair())
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
