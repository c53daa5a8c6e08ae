"""Proofs of the dose: ranges and attenuation of the machines, symmetry, orientation, repetition, plans that fail."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest
import SimpleITK as sitk
from dose_cases import cube, distance_mm, image, needs_pyradplan, with_slab

from mrict_core.dose import engine, sampling
from mrict_core.dose.study import DoseSettings, Scans, study
from mrict_core.errors import MrictError
from mrict_core.metrics import dose as measures
from mrict_core.metrics.gamma import gamma_index, pass_rate

pytestmark = needs_pyradplan

GRID_MM, RIM = 3.0, 2
AIR_OFFSET = 0.0011  # of water per mm of air: how the library shifts the tabulated depths
FITTED_MM = 10000.0 - 1000.0  # the air that the tables were fitted with


@pytest.fixture(scope="module")
def water():
    return cube()


@pytest.fixture(scope="module")
def plans(water):
    """Plans of one beam from anterior, by modality."""
    return {
        modality: engine.make_plan(*water, {}, engine.PlanSettings(modality, gantry_deg=(0.0,)))
        for modality in engine.MODALITIES
    }


@pytest.fixture(scope="module")
def doses(water, plans):
    return {modality: sitk.GetArrayFromImage(plan.dose(water[0])) for modality, plan in plans.items()}


def machine(modality: str):
    from pyRadPlan.machines import load_machine_from_mat, validate_machine

    file = resources.files("pyRadPlan.data.machines").joinpath(f"{modality}_Generic.mat")
    return validate_machine(load_machine_from_mat(file))


def one_energy(plan: engine.Plan) -> tuple[engine.Plan, float]:
    """Return a plan with equal weights of the energy that most rays have, and that energy."""
    energies = np.array([let.energy for beam in plan.steering.beams for ray in beam.rays for let in ray.beamlets])
    values, counts = np.unique(energies, return_counts=True)
    energy = float(values[counts.argmax()])
    weights = (energies == energy).astype(float)
    return engine.Plan(plan.settings, plan.body, True, 0, plan.steering, weights), energy


def depth_dose(plan: engine.Plan, ct: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """Return (depths in mm below the anterior face, dose summed over the planes)."""
    dose = sitk.GetArrayFromImage(plan.dose(ct)).sum((0, 2))[RIM:-RIM]
    return (np.arange(len(dose)) + 0.5) * GRID_MM, dose


def peak_mm(depths: np.ndarray, dose: np.ndarray) -> float:
    """Return the depth of the maximum, by a parabola through its neighbours."""
    k = int(dose.argmax())
    low, mid, high = dose[k - 1 : k + 2]
    return float(depths[k] + GRID_MM * 0.5 * (low - high) / (low - 2 * mid + high))


def expected_mm(energy: float) -> float:
    """Return the tabulated depth of a peak, corrected for the air before the water."""
    data = machine("protons")
    skin_to_iso = (44 - 2 * RIM) / 2 * GRID_MM
    air = data.sad - skin_to_iso
    kernel = next(one for key, one in data.pb_kernels.items() if abs(key - energy) < 1e-6)
    return kernel.peak_pos - AIR_OFFSET * (air - FITTED_MM)


def test_protons_peak_at_the_range_of_the_machine(plans, water):
    plan, energy = one_energy(plans["protons"])
    assert peak_mm(*depth_dose(plan, water[0])) == pytest.approx(expected_mm(energy), abs=1.0)


@pytest.mark.parametrize("hu", [30.0, -40.0])
def test_a_change_of_hu_moves_the_range_by_the_table(plans, water, hu):
    plan, _ = one_energy(plans["protons"])
    before = peak_mm(*depth_dose(plan, water[0]))
    after = peak_mm(*depth_dose(plan, with_slab(*water[:2], hu)))
    density = np.interp(hu, *engine.hu_table().T)
    assert np.sign(after - before) == -np.sign(hu)
    assert after == pytest.approx(before / density, abs=0.6)


def test_photons_fall_exponentially_with_the_coefficient_of_the_machine(plans, water):
    plan = plans["photons"]
    plan = engine.Plan(plan.settings, plan.body, True, 0, plan.steering, np.ones_like(plan.weights))
    dose = sitk.GetArrayFromImage(plan.dose(water[0]))
    middle = dose.shape[0] // 2
    line = dose[middle - 1 : middle + 1, RIM:-RIM, middle - 1 : middle + 1].mean((0, 2))
    depths = (np.arange(len(line)) + 0.5) * GRID_MM
    skin = 1000.0 - (44 - 2 * RIM) / 2 * GRID_MM
    deep = (depths > 40) & (depths < 105)
    logs = np.log(line[deep] * ((skin + depths[deep]) / skin) ** 2)
    slope, offset = np.polyfit(depths[deep], logs, 1)
    assert np.abs(logs - slope * depths[deep] - offset).max() < 0.01
    kernel = next(iter(machine("photons").pb_kernels.values()))
    assert 0.75 * kernel.m < -slope < kernel.m  # what is scattered adds to what arrives
    assert 9 < depths[line.argmax()] < 18  # the maximum of 6 MV


@pytest.mark.parametrize("modality", engine.MODALITIES)
def test_a_plan_covers_its_target_and_ends_at_the_skin(modality, water, doses):
    marked, inside = (sitk.GetArrayFromImage(one) > 0 for one in (water[2], water[1]))
    target = doses[modality][marked]
    assert np.median(target) == pytest.approx(2.0, rel=0.02)
    assert doses[modality][~inside].max() == 0
    depth = RIM + 5  # 15 mm, past the build-up; gantry 0 comes from anterior
    assert doses[modality][:, depth].mean() > 1.3 * doses[modality][:, -depth - 1].mean()


@pytest.mark.parametrize("modality", engine.MODALITIES)
def test_a_mirrored_body_gets_the_mirrored_dose(modality, plans, water, doses):
    """The beam is in the plane of symmetry, so weights are mirrored with the rays."""
    ct = sitk.GetArrayFromImage(water[0]).copy()
    ct[10:30, 10:24, 8:20][ct[10:30, 10:24, 8:20] > -500] = 400
    flipped = image(np.ascontiguousarray(ct[:, :, ::-1]))
    plan = plans[modality]
    equal = engine.Plan(plan.settings, plan.body, True, 0, plan.steering, _symmetrical(plan))
    one, other = (sitk.GetArrayFromImage(equal.dose(each)).astype(float) for each in (image(ct), flipped))
    mirrored = np.ascontiguousarray(other[:, :, ::-1])
    most = one.max()
    if modality == "protons":
        assert np.abs(one - mirrored).max() < 1e-4 * most
    else:  # the library samples the photons' kernels half a millimetre off the middle
        assert pass_rate(gamma_index(one, mirrored, (3, 3, 3), most, measures.GAMMAS["gamma_1_1"])) == 100
    assert np.abs(one - other).max() > 0.02 * most


def _symmetrical(plan: engine.Plan) -> np.ndarray:
    """Return weights of 1 for every beamlet whose mirror image is in the plan, else 0."""
    keys = [
        (round(float(ray.ray_pos_bev[0]), 3), round(float(ray.ray_pos_bev[2]), 3), round(float(let.energy), 3))
        for beam in plan.steering.beams
        for ray in beam.rays
        for let in ray.beamlets
    ]
    there = set(keys)
    return np.array([float((-x + 0.0, y, energy) in there) for x, y, energy in keys])


@pytest.mark.parametrize("modality", engine.MODALITIES)
def test_doses_and_plans_repeat_bit_for_bit(modality, plans, water, doses):
    np.testing.assert_array_equal(sitk.GetArrayFromImage(plans[modality].dose(water[0])), doses[modality])
    again = engine.make_plan(*water, {}, plans[modality].settings)
    np.testing.assert_array_equal(again.weights, plans[modality].weights)


def test_an_empty_target_is_refused(water):
    with pytest.raises(MrictError, match="the target is empty"):
        engine.make_plan(*water[:2], water[2] * 0, {}, engine.PlanSettings("protons"))


def test_hu_beyond_the_table_are_cut_to_it(plans, water):
    low, high = engine.TABLE_HU
    assert (engine.hu_table()[[0, -1], 0] == (low, high)).all()
    dense, densest = (plans["photons"].dose(with_slab(*water[:2], hu)) for hu in (high, high + 5000))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(dense), sitk.GetArrayFromImage(densest))


def head(size: int = 40, spacing_mm: float = 3.0) -> Scans:
    """Return a head off the middle with a skull, and synthetic CTs: the CT itself, and 20 HU more."""
    away = distance_mm(size, spacing_mm, (4, -6, 2))
    inside = away < 50
    hu = np.where(inside, np.where(away > 44, 700.0, 30.0), -1000.0).astype(np.float32)
    more = np.where(inside, hu + 20, hu).astype(np.float32)
    body = image(inside.astype(np.uint8), spacing_mm)
    return Scans(image(hu, spacing_mm), body, {"same": image(hu, spacing_mm), "more": image(more, spacing_mm)})


SETTINGS = DoseSettings(("protons",), grid_mm=4.0, targets=1)


@pytest.fixture(scope="module")
def found():
    return study(head(), SETTINGS)


def test_equal_images_have_equal_doses(found):
    (plan,) = found.plans
    assert not plan.faults
    same = plan.models["same"]["measures"]
    assert (same["gamma_2_2"], same["gamma_1_1"], same["dose_mae"], same["range_mae_mm"]) == (100, 100, 0, 0)
    assert {same[key] for key in ("target_d98", "target_d2", "target_mean", "target_v95")} == {0}
    assert np.isnan(same["dvh"])  # no organ is made up


def test_more_hu_shorten_the_range_as_the_path_length_says(found):
    (plan,) = found.plans
    for beam in plan.models["more"]["beams"]:
        assert beam["wepl_mm"] > 0.3
        assert beam["range_mm"] == pytest.approx(-beam["wepl_mm"], abs=1.0)
        assert beam["range_mm"] < -0.2
    assert found.measure("more", "protons", "dose_mae") > 0
    assert found.measure("more", "protons", "gamma_1_1") < 100


def test_any_order_of_the_axes_gives_one_dose(found):
    scans = head()
    ct, body, sct = (sitk.DICOMOrient(one, "IRA") for one in (scans.ct, scans.body, scans.scts["more"]))
    other = study(Scans(ct, body, {"more": sct}), SETTINGS)
    one, two = (sitk.GetArrayFromImage(each.plans[0].sct_doses["more"]) for each in (found, other))
    np.testing.assert_allclose(two, one, atol=2e-3)
    back = sitk.DICOMOrient(sampling.dose_on(other.plans[0].ct_dose, body), "LPS")
    fine = sampling.dose_on(found.plans[0].ct_dose, scans.body)
    np.testing.assert_allclose(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(fine), atol=2e-3)


def test_a_plan_that_misses_its_prescription_is_kept_named_and_not_averaged():
    scans = head()
    organ = image((distance_mm(40, 3.0, (4, -6, 2)) < 24).astype(np.uint8))
    target = image((distance_mm(40, 3.0, (4, -6, 2)) < 12).astype(np.uint8))
    given = Scans(scans.ct, scans.body, {"more": scans.scts["more"]}, {"target": target}, {"around": organ})
    priorities = dict(engine.PRIORITIES)
    engine.PRIORITIES.update(target=1.0, organ=1000.0)
    try:
        result = study(given, DoseSettings(("protons",), grid_mm=4.0, targets=1))
    finally:
        engine.PRIORITIES.update(priorities)
    (plan,) = result.plans
    assert any("D98" in fault for fault in plan.faults)
    assert np.isfinite(plan.models["more"]["measures"]["target_d98"])
    assert np.isnan(result.measure("more", "protons", "target_d98"))
    assert any("around" in note and "target" in note for note in result.notes)


def test_a_shifted_dose_has_the_gamma_of_its_shift(doses):
    """A dose shifted by one voxel of 3 mm: gamma 2 %/2 mm at most 1.5, and far from all points pass."""
    dose = doses["protons"].astype(float)
    gamma = gamma_index(dose, np.roll(dose, 1, axis=1), (3, 3, 3), 2.0, measures.GAMMAS["gamma_2_2"])
    assert 40 < pass_rate(gamma) < 95
