"""Gamma index of doses: an analytic ramp, uniform differences, shifts against a search by hand, cut-off, edges."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from mrict_core.metrics.gamma import CUT, REACH, Criterion, gamma_index, pass_rate

DOSE_GY = 2.0
TWO = Criterion(2, 2)
SHAPES = {1: (24,), 2: (12, 14), 3: (8, 9, 7)}
SPACING = {1: (2.0,), 2: (2.0, 3.0), 3: (3.0, 2.0, 2.5)}


def hill(axes: int, shift_mm: float = 0.0, width_mm: float = 7.0) -> np.ndarray:
    """Return a dose in Gy, highest in the middle, moved along the last axis."""
    places = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(SHAPES[axes], SPACING[axes], strict=True)]
    places[-1] = places[-1] - shift_mm
    squares = sum(grid**2 for grid in np.meshgrid(*places, indexing="ij"))
    return DOSE_GY * np.exp(-squares / (2 * width_mm**2))


def between(dose: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return a dose between voxels (points, axes), linear along each axis; beyond the outer voxels it is theirs."""
    places = np.clip(places, 0, np.array(dose.shape) - 1)
    low = np.minimum(places.astype(int), np.array(dose.shape) - 2)
    part = places - low
    return sum(
        np.prod(np.where(corner, part, 1 - part), axis=1) * dose[tuple((low + corner).T)]
        for corner in product((0, 1), repeat=dose.ndim)
    )


def by_hand(reference, other, place, spacing, criterion=TWO) -> float:
    """Return gamma at one point: the least over every offset of a tenth of the distance, none left out."""
    steps = np.arange(-15, 16) / 10
    offsets = np.array(list(product(steps, repeat=reference.ndim)))
    there = between(other, place + offsets * criterion.distance_mm / spacing)
    difference = (there - reference[tuple(place)]) / (criterion.percent / 100 * DOSE_GY)
    return min(REACH, float(np.hypot(np.linalg.norm(offsets, axis=1), difference).min()))


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("along", [0, -1])
def test_a_ramp_has_its_analytic_gamma(axes, along):
    """2 % more on a ramp of 2 % each mm: least of t² + (1 - 2t)², t in units of 2 mm, is 1/5."""
    shape = [5] * axes
    shape[along] = 30
    ramp = np.moveaxis(np.broadcast_to(0.5 + 0.04 * np.arange(30), [*np.delete(shape, along), 30]), -1, along)
    gamma = gamma_index(ramp, ramp + 0.04, [1.0] * axes, DOSE_GY, TWO)
    inside = np.moveaxis(gamma, along, -1)[..., 5:-5]
    np.testing.assert_allclose(inside, 1 / np.sqrt(5), atol=1e-5)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_identical_doses_pass_everywhere(axes):
    dose = hill(axes)
    gamma = gamma_index(dose, dose, SPACING[axes], DOSE_GY, TWO)
    assert pass_rate(gamma) == 100
    assert np.nanmax(gamma) == 0


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize(("share", "passed"), [(1.02, 100), (0.98, 100), (1.021, 0), (0.979, 0), (1.019, 100)], ids=str)
def test_a_uniform_difference_passes_up_to_the_criterion(share, passed, kind):
    dose = np.full((6, 7), DOSE_GY, kind)
    gamma = gamma_index(dose, (dose * share).astype(kind), (3, 3), DOSE_GY, TWO)
    assert pass_rate(gamma) == passed
    np.testing.assert_allclose(gamma, abs(share - 1) / 0.02, atol=1e-4)


def test_the_criterion_is_a_share_of_the_prescription_not_of_the_point():
    dose = np.full((6, 6), 0.5 * DOSE_GY)
    assert pass_rate(gamma_index(dose, dose + 0.02 * DOSE_GY, (3, 3), DOSE_GY, TWO)) == 100
    assert pass_rate(gamma_index(dose, dose + 0.021 * DOSE_GY, (3, 3), DOSE_GY, TWO)) == 0


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_shift_has_the_gamma_of_a_search_by_hand(axes):
    reference, other = hill(axes), hill(axes, shift_mm=3.0)
    gamma = gamma_index(reference, other, SPACING[axes], DOSE_GY, TWO)
    judged = np.argwhere(np.isfinite(gamma))
    assert len(judged) > 10
    chosen = judged[:: max(1, len(judged) // 6)]
    found = [gamma[tuple(place)] for place in chosen]
    np.testing.assert_allclose(found, [by_hand(reference, other, p, SPACING[axes]) for p in chosen], atol=1e-9)
    assert max(found) > 1  # 3 mm are 1.5 of the criterion
    assert min(found) < 1


def test_a_shift_within_the_distance_passes_and_a_farther_one_does_not():
    """Steps of dose of 30 % each voxel: only the distance can make a point pass."""
    steep = np.clip(0.2 + 0.6 * np.arange(20), 0, None)
    for shift_mm, expected in ((1.0, 0.5), (2.0, 1.0), (2.4, 1.2)):
        other = np.clip(0.2 + 0.6 * (np.arange(20) - shift_mm / 3), 0, None)
        gamma = gamma_index(steep, other, [3.0], DOSE_GY, TWO)[5:-5]
        np.testing.assert_allclose(gamma, expected, atol=0.02)


@pytest.mark.parametrize("axis", [0, 1])
def test_mirrored_doses_have_the_mirrored_gamma(axis):
    reference, other = hill(2), hill(2, shift_mm=2.0) * 1.01
    gamma = gamma_index(reference, other, SPACING[2], DOSE_GY, TWO)
    mirrored = gamma_index(np.flip(reference, axis), np.flip(other, axis), SPACING[2], DOSE_GY, TWO)
    np.testing.assert_allclose(np.flip(mirrored, axis), gamma, atol=1e-9)


def test_the_spacing_belongs_to_its_axis():
    reference, other = hill(2), hill(2, shift_mm=2.0)
    gamma = gamma_index(reference, other, SPACING[2], DOSE_GY, TWO)
    turned = gamma_index(reference.T, other.T, SPACING[2][::-1], DOSE_GY, TWO)
    np.testing.assert_allclose(turned.T, gamma, atol=1e-9)


def test_a_stricter_criterion_passes_less():
    reference, other = hill(2), hill(2, shift_mm=1.5)
    rates = [pass_rate(gamma_index(reference, other, SPACING[2], DOSE_GY, Criterion(k, k))) for k in (1, 2, 3)]
    assert rates[0] < rates[1] <= rates[2]


def test_points_up_to_the_cut_off_and_outside_a_region_are_not_judged():
    dose = np.array([0.0, CUT, CUT + 0.001, 0.5, 1.0]) * DOSE_GY
    gamma = gamma_index(dose, dose, [3.0], DOSE_GY, TWO)
    assert np.isfinite(gamma).tolist() == [False, False, True, True, True]
    where = np.array([True, True, False, True, True])
    assert np.isfinite(gamma_index(dose, dose, [3.0], DOSE_GY, TWO, where)).tolist() == [
        False,
        False,
        False,
        True,
        True,
    ]


def test_dose_that_only_the_other_has_is_not_judged_and_a_lost_one_fails():
    dose = np.array([2.0, 2.0, 2.0, 0, 0, 0])
    assert pass_rate(gamma_index(dose, np.full(6, 2.0), [10.0], DOSE_GY, TWO)) == 100
    gamma = gamma_index(dose, np.zeros(6), [10.0], DOSE_GY, TWO)
    np.testing.assert_array_equal(gamma[:3], REACH)
    assert pass_rate(gamma) == 0


def test_without_points_there_is_no_pass_rate():
    dose = np.zeros((4, 4, 4))
    gamma = gamma_index(dose, dose, (3, 3, 3), DOSE_GY, TWO)
    assert np.isnan(gamma).all()
    assert np.isnan(pass_rate(gamma))


def test_the_criterion_names_itself():
    assert str(Criterion(1, 1)) == "1 %/1 mm"
    assert str(Criterion(2, 2.5)) == "2 %/2.5 mm"
