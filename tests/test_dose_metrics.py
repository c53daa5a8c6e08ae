"""Dose measures against numbers by hand: dose-volume, conformity, SynthRAD's MAE and DVH measure, proton ranges."""

from __future__ import annotations

import numpy as np
import pytest

from mrict_core.errors import MrictError
from mrict_core.metrics import dose as measures
from mrict_core.metrics.path_length import relative_stopping_power

DOSE_GY = 2.0
SIZE = (20, 20, 20)


def box(*bounds: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[tuple(slice(*pair) for pair in bounds)] = True
    return mask


TARGET = box((8, 12), (8, 12), (8, 12))
ORGANS = {f"organ {k}": box((0, 20), (0, 20), (k, k + 1)) for k in range(5)}


def doses() -> tuple[np.ndarray, np.ndarray]:
    """Return doses of CT and sCT in Gy: noise on a slope in z, full dose in the target."""
    rng = np.random.default_rng(3)
    ct = np.broadcast_to(np.linspace(1.6, 0.1, SIZE[2]), SIZE) + rng.uniform(0, 0.1, SIZE)
    ct[TARGET] = rng.uniform(1.9, 2.1, TARGET.sum())
    return ct, ct * rng.uniform(0.95, 1.02, SIZE)


@pytest.mark.parametrize(("percent", "expected"), [(100, 0.0), (98, 2.0), (95, 5.0), (50, 50.0), (2, 98.0), (0, 100.0)])
def test_dose_at_is_linear_in_the_sorted_doses(percent, expected):
    values = np.random.default_rng(0).permutation(np.arange(101.0))
    assert measures.dose_at(values, percent) == pytest.approx(expected)


def test_dose_at_is_that_of_matrad():
    values = np.random.default_rng(1).gamma(2.0, 1.0, 37)
    for percent in (98, 95, 50, 5, 2):
        by_hand = np.interp(1 - percent / 100, np.linspace(0, 1, values.size), np.sort(values))
        assert measures.dose_at(values, percent) == pytest.approx(by_hand)
    assert measures.dose_at(np.array([1.5]), 98) == 1.5


def test_structure_doses_are_of_the_structure_alone():
    ct, _ = doses()
    found = measures.structure_doses(ct, TARGET, DOSE_GY)
    own = np.sort(ct[TARGET])
    assert found["mean_gy"] == pytest.approx(own.sum() / 64)
    assert found["v95_percent"] == pytest.approx(100 * sum(dose >= 1.9 for dose in own) / 64)
    assert found["d98_gy"] == pytest.approx(np.interp(0.02, np.linspace(0, 1, 64), own))
    assert found["d98_gy"] < found["d95_gy"] < found["d50_gy"] < found["d2_gy"]


def test_v95_counts_from_95_percent_of_the_prescription():
    dose = np.array([1.89, 1.9, 1.91, 2.5])
    assert measures.structure_doses(dose, np.ones(4, bool), DOSE_GY)["v95_percent"] == 75


def test_a_structure_without_voxels_has_no_dose():
    with pytest.raises(MrictError, match="without voxels"):
        measures.structure_doses(np.ones(SIZE), np.zeros(SIZE, bool), DOSE_GY)


@pytest.mark.parametrize(
    ("covered", "expected"),
    [
        (TARGET, 1.0),
        (box((8, 12), (8, 12), (8, 10)), 0.5),  # 32² / (64 * 32)
        (box((8, 12), (8, 12), (8, 16)), 0.5),  # 64² / (64 * 128)
        (box((0, 2), (0, 2), (0, 2)), 0.0),
        (np.zeros(SIZE, bool), 0.0),
    ],
    ids=["same", "half covered", "twice covered", "elsewhere", "nothing"],
)
def test_conformity(covered, expected):
    assert measures.conformity(np.where(covered, 1.9, 1.89), TARGET, DOSE_GY) == pytest.approx(expected)


def test_the_mae_is_over_high_dose_of_the_ct_wherever_it_is():
    ct = np.array([1.79, 1.8, 2.0, 2.2, 0.0])
    sct = np.array([0.0, 1.7, 2.1, 2.2, 2.0])
    assert measures.target_mae(ct, sct, DOSE_GY) == pytest.approx(100 * (0.1 + 0.1 + 0) / 3 / DOSE_GY)
    assert np.isnan(measures.target_mae(ct * 0.8, sct, DOSE_GY))


def relative(a, b):
    return abs(a - b) / a


def test_the_dvh_measure_by_hand():
    """The target's D98 and conformity, and the mean over the three organs with the highest (D5 + Dmean)/2."""
    ct, sct = doses()
    own = {name: (ct[mask], sct[mask]) for name, mask in ORGANS.items()}
    most = [own[f"organ {k}"] for k in range(3)]  # the slope falls with the number
    expected = (
        relative(np.quantile(ct[TARGET], 0.02), np.quantile(sct[TARGET], 0.02))
        + relative(measures.conformity(ct, TARGET, DOSE_GY), measures.conformity(sct, TARGET, DOSE_GY))
        + np.mean([relative(np.quantile(a, 0.98), np.quantile(b, 0.98)) for a, b in most])
        + np.mean([relative(a.mean(), b.mean()) for a, b in most])
    )
    shuffled = dict(reversed(ORGANS.items()))
    for official in (False, True):
        found = measures.dvh_measure(ct, sct, TARGET, shuffled, DOSE_GY, official=official)
        assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_organs_are_averaged_over_those_given(count):
    ct, _ = doses()
    organs = {name: ORGANS[name] for name in list(ORGANS)[:count]}
    sct = ct.copy()
    for mask in organs.values():
        sct[mask] = ct[mask] * 0.9  # 10 % in D2 and 10 % in the mean
    assert measures.dvh_measure(ct, sct, TARGET, organs, DOSE_GY) == pytest.approx(0.2, abs=1e-9)


def test_organs_without_dose_count_100_percent_in_the_official_measure_only():
    """Two zeros differ by 1 there: identical doses with one organ of three outside all fields score 0.667."""
    ct, _ = doses()
    organs = {name: ORGANS[name] for name in list(ORGANS)[:3]}
    ct[organs["organ 2"]] = 0
    assert measures.dvh_measure(ct, ct, TARGET, organs, DOSE_GY, official=True) == pytest.approx(2 / 3, abs=1e-6)
    assert measures.dvh_measure(ct, ct, TARGET, organs, DOSE_GY) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("share", [0.009, 0.011])
def test_an_organ_has_dose_from_one_percent_of_the_prescription(share):
    ct = np.where(TARGET, 2.0, share * DOSE_GY)
    found = measures.dvh_measure(ct, ct, TARGET, {"organ": ORGANS["organ 0"]}, DOSE_GY)
    assert np.isnan(found) == (share < 0.01)


@pytest.mark.parametrize("organs", [{}, {"nothing": np.zeros(SIZE, bool)}], ids=["none", "empty"])
@pytest.mark.parametrize("official", [False, True])
def test_without_organs_there_is_no_dvh_measure(organs, official):
    ct, sct = doses()
    assert np.isnan(measures.dvh_measure(ct, sct, TARGET, organs, DOSE_GY, official=official))


def test_changes_have_the_sign_of_the_synthetic_ct():
    ct, _ = doses()
    a = measures.structure_doses(ct, TARGET, DOSE_GY)
    b = measures.structure_doses(ct + 0.02, TARGET, DOSE_GY)
    found = measures.changes(a, b, DOSE_GY)
    for key in ("target_d98", "target_d2", "target_mean"):
        assert found[key] == pytest.approx(1.0)
    assert measures.changes(a, a | {"v95_percent": a["v95_percent"] - 4}, DOSE_GY)["target_v95"] == -4


# Proton ranges: voxels of 2, 2 and 3 mm with x to the patient's left (not right), y to anterior, z to superior.
SPACING = (2.0, 2.0, 3.0)
SHAPE = (60, 50, 8)
BODY = (slice(5, 55), slice(5, 45), slice(1, 7))
AFFINE = np.diag([-SPACING[0], SPACING[1], SPACING[2], 1.0])
AFFINE[:3, 3] = (60, -50, -10)
THROUGH = AFFINE[:3, :3] @ (29.5, 24.5, 3.5) + AFFINE[:3, 3]
# gantry => (axis of the array, whether the beam runs from its end to its start)
FROM = {0: (1, True), 90: (0, True), 180: (1, False), 270: (0, False)}


def phantom() -> tuple[np.ndarray, np.ndarray]:
    """Return HU and body of a water block in air."""
    hu, inside = np.full(SHAPE, -1000.0), np.zeros(SHAPE, bool)
    hu[BODY], inside[BODY] = 0.0, True
    return hu, inside


def entering(gantry: int, voxels: float) -> np.ndarray:
    """Return a dose of 2 Gy from the side where a beam enters, which falls to 0 within a voxel at a depth."""
    axis, backwards = FROM[gantry]
    n, skin = SHAPE[axis], 5
    depth = (np.arange(n)[::-1] if backwards else np.arange(n)) - skin
    dose = 2.0 * np.clip(voxels - depth, 0, 1)
    return np.broadcast_to(dose.reshape([-1 if k == axis else 1 for k in range(3)]), SHAPE)


def ranges(gantry, ct_dose, sct_dose, sct=None):
    hu, inside = phantom()
    images = {"ct": hu, "sct": hu if sct is None else sct}
    return measures.beam_range({"ct": ct_dose, "sct": sct_dose}, images, inside, AFFINE, THROUGH, gantry, DOSE_GY)


@pytest.mark.parametrize("gantry", FROM)
def test_a_beam_enters_where_its_gantry_says_and_is_measured_from_the_skin(gantry):
    """Gantry 0 is anterior, 90 the patient's left. The skin is the body's half value, half a voxel before its first."""
    found = ranges(gantry, entering(gantry, 20), entering(gantry, 18))
    axis, _ = FROM[gantry]
    assert found["ct_mm"] == pytest.approx((19.2 + 0.5) * SPACING[axis], abs=measures.STEP_MM)
    assert found["range_mm"] == pytest.approx(-2 * SPACING[axis], abs=1e-6)
    assert found["sct_mm"] - found["ct_mm"] == found["range_mm"]
    assert found["wepl_mm"] == 0


@pytest.mark.parametrize("gantry", FROM)
def test_a_beam_that_leaves_the_body_has_no_range(gantry):
    """Doses are 0 outside the body: its surface is not the beam's end."""
    _, inside = phantom()
    found = ranges(gantry, np.where(inside, 2.0, 0.0), entering(gantry, 20))
    assert np.isnan([found["ct_mm"], found["range_mm"], found["wepl_mm"]]).all()
    assert np.isfinite(found["sct_mm"])


def test_the_angle_between_two_sides_is_between_them():
    """Half of the body towards anterior left has dose: the beam of 45° ends at its centre, that of 135° runs along."""
    x, y = np.meshgrid(np.arange(SHAPE[0]), np.arange(SHAPE[1]), indexing="ij")
    left, anterior = -(AFFINE[0, 0] * x + AFFINE[0, 3] - THROUGH[0]), AFFINE[1, 1] * y + AFFINE[1, 3] - THROUGH[1]
    dose = np.repeat(np.where(left + anterior > 0, 2.0, 0.0)[..., None], SHAPE[2], axis=2)
    to_skin = (24.5 - 4.5) * SPACING[1] * np.sqrt(2)  # the anterior side is nearer
    assert ranges(45, dose, dose)["ct_mm"] == pytest.approx(to_skin, abs=2)
    assert np.isnan(ranges(225, dose, dose)["ct_mm"])


@pytest.mark.parametrize("gantry", FROM)
def test_a_slab_changes_the_water_equivalent_path_by_its_table(gantry):
    """10 mm of 1000 HU on the side where the beam enters; the same slab on the other side lies behind the range."""
    hu, _ = phantom()
    axis, backwards = FROM[gantry]
    sct, behind = hu.copy(), hu.copy()
    near, far = slice(5, 10), slice(SHAPE[axis] - 10, SHAPE[axis] - 5)
    for volume, place in ((sct, far if backwards else near), (behind, near if backwards else far)):
        cut = list(BODY)
        cut[axis] = place
        volume[tuple(cut)] = 1000.0
    dose = entering(gantry, 20)
    water, bone = relative_stopping_power(np.array([0.0, 1000.0]))
    assert ranges(gantry, dose, dose, sct)["wepl_mm"] == pytest.approx(10 * (bone - water), abs=0.3)
    assert ranges(gantry, dose, dose, behind)["wepl_mm"] == 0


def test_air_outside_the_body_has_no_path_length():
    hu, inside = phantom()
    sct = np.where(inside, hu, 500.0)
    dose = entering(0, 20)
    assert ranges(0, dose, dose, sct)["wepl_mm"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("ct_dose", "sct_dose", "known"),
    [
        (entering(0, 20) * 0.79, entering(0, 20), {"sct_mm"}),
        (entering(0, 20), entering(0, 20) * 0.79, {"ct_mm", "wepl_mm"}),
        (entering(0, 20), np.full(SHAPE, 2.0), {"ct_mm", "wepl_mm"}),
        (np.zeros(SHAPE), np.zeros(SHAPE), set()),
    ],
    ids=["CT below 80 %", "sCT below 80 %", "sCT never falls", "no dose"],
)
def test_a_range_that_does_not_exist_is_absent(ct_dose, sct_dose, known):
    found = ranges(0, ct_dose, sct_dose)
    assert {key for key, value in found.items() if np.isfinite(value)} == known


def test_a_line_that_misses_the_body_has_no_range():
    hu, inside = phantom()
    dose = np.full(SHAPE, 2.0)
    found = measures.beam_range(
        {"ct": dose, "sct": dose}, {"ct": hu, "sct": hu}, inside, AFFINE, THROUGH + np.array((500, 0, 0)), 0, DOSE_GY
    )
    assert len(found) == 4
    assert all(np.isnan(value) for value in found.values())
