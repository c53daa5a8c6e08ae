"""The clinical panel on hand-computed cases, and its independence of the storage order."""

from __future__ import annotations

import json
import math

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import sample

from mrict_core import metrics
from mrict_core.errors import MrictError
from mrict_core.metrics import clinical
from mrict_core.metrics.alignment import alignment, continuity
from mrict_core.metrics.path_length import HU_TO_RSP, relative_stopping_power, wepl_errors


def line(values: list[float]) -> np.ndarray:
    return np.array(values, float).reshape(-1, 1, 1)


def test_tissues_by_hand():
    ct = line([-900, -201, -200, 0, 250, 251, 1000, 5000])
    sct = line([-800, -301, -190, -30, 250, 151, 1300, 0])
    mask = line([1, 1, 1, 1, 1, 1, 1, 0])
    found = clinical.tissue_errors(ct, sct, mask)
    assert (found["n_air"], found["n_soft"], found["n_bone"]) == (2, 3, 2)
    assert (found["mae_air_hu"], found["me_air_hu"]) == (100.0, 0.0)
    assert (found["mae_soft_hu"], found["me_soft_hu"]) == pytest.approx((40 / 3, -20 / 3))
    assert (found["mae_bone_hu"], found["me_bone_hu"]) == (200.0, 100.0)
    assert found["me_hu"] == pytest.approx((100 - 100 + 10 - 30 + 0 - 100 + 300) / 7)


def test_a_tissue_that_is_not_there_has_no_number():
    found = clinical.tissue_errors(line([0, 10]), line([5, 5]), line([1, 1]))
    assert math.isnan(found["mae_bone_hu"])
    assert math.isnan(found["me_air_hu"])
    assert (found["n_bone"], found["n_soft"]) == (0, 2)


def test_bone_dice_by_hand():
    ct, sct, mask = line([100, 200, 300, 400, 600, 999]), line([200, 300, 200, 400, 400, 999]), line([1] * 5 + [0])
    found = clinical.bone_dice(ct, sct, mask)
    # > 150: CT 4 voxels, sCT 5, common 4; > 250: 3 and 3, common 2; > 350: 2 and 2, common 2; > 500: 1 and 0
    expected = {"dice_bone_150": 8 / 9, "dice_bone_250": 4 / 6, "dice_bone_350": 1.0, "dice_bone_500": 0.0}
    assert found == pytest.approx(expected)
    assert math.isnan(clinical.bone_dice(ct, sct, mask, (2000,))["dice_bone_2000"])


def test_calibration_by_hand():
    ct, sct = line([-5000, 0, 49, 50, 60, 9999, 7]), line([-900, 10, 30, 100, 300, 800, 1e6])
    mask = line([1, 1, 1, 1, 1, 1, 0])
    found = clinical.calibration(ct, sct, mask, (-50.0, 0.0, 50.0, 100.0, 150.0))
    assert found.count.tolist() == [1, 2, 2, 1]
    assert found.mean_hu.tolist() == [-900.0, 20.0, 200.0, 800.0]
    assert found.sd_hu.tolist() == pytest.approx([0.0, 10.0, 100.0, 0.0])
    empty = clinical.calibration(line([0.0]), line([5.0]), line([1]))
    assert np.isnan(empty.mean_hu).sum() == len(empty.count) - 1
    assert empty.count.sum() == 1


def test_stopping_power_meets_its_table_and_is_linear_between():
    for hu, rsp in HU_TO_RSP:
        assert relative_stopping_power(np.array(hu)) == rsp
    assert relative_stopping_power(np.array([-5000.0, 9000.0])).tolist() == [0.00324, 2.53061]
    assert relative_stopping_power(np.array(-412.0)) == pytest.approx((0.00324 + 1.2) / 2)  # half way from -1024 to 200
    assert relative_stopping_power(np.array(0.0)) == pytest.approx(1.0, abs=0.01)


def block(shape: tuple[int, int, int], spacing: float, side_mm: float) -> np.ndarray:
    """A cube of side_mm in the middle of the grid."""
    axes = [(np.arange(n) - (n - 1) / 2) * spacing for n in shape]
    inside = [np.abs(a) < side_mm / 2 for a in axes]
    return inside[0][:, None, None] & inside[1][None, :, None] & inside[2][None, None, :]


def rotation(axis: int, degrees: float) -> np.ndarray:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    i, j = (a for a in range(3) if a != axis)
    matrix = np.eye(4)
    matrix[i, i] = matrix[j, j] = c
    matrix[i, j], matrix[j, i] = -s, s
    return matrix


GRIDS = {
    "plain": np.diag([2.0, 2.0, 2.0, 1.0]),
    "flipped": np.diag([-2.0, 2.0, -2.0, 1.0]),
    "moved": np.array([[2, 0, 0, 50], [0, 2, 0, -30], [0, 0, 2, 7], [0, 0, 0, 1.0]]),
    "permuted": np.array([[0, 0, 2, 0], [2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1.0]]),
    "turned by 90 degrees": rotation(2, 90) @ np.diag([2.0, 2.0, 2.0, 1.0]),
}


@pytest.mark.parametrize("grid", GRIDS)
def test_path_through_a_block_of_water_with_a_bone_plate(grid):
    """Water of 80 mm; in the sCT it is all 100 HU higher: every beam at 0 or 90 degrees errs by 80 mm x the step."""
    shape = (61, 61, 61)
    body = block(shape, 2.0, 81.0)  # 41 voxels: 82 mm
    ct = np.where(body, 0.0, -1000.0)
    found = wepl_errors(ct, np.where(body, 100.0, -1000.0), body, GRIDS[grid], step_deg=90)
    water, denser = relative_stopping_power(np.array([0.0, 100.0]))
    assert found.angles_deg == (0.0, 90.0)
    assert found.ct_mm == pytest.approx([82 * water] * 2, rel=0.02)
    assert found.error_mm == pytest.approx([82 * (denser - water)] * 2, rel=0.02)
    assert found.wepl_mae_mm == found.wepl_me_mm == pytest.approx(np.mean(found.error_mm))
    assert found.wepl_max_mm == max(found.error_mm)


def test_a_plate_counts_once_in_the_beams_that_cross_it():
    shape = (61, 61, 21)
    body = block(shape, 2.0, 81.0)
    sct = np.where(body, 0.0, -1000.0)
    ct = sct.copy()
    ct[45:48] = np.where(body[45:48], 1000.0, ct[45:48])  # 6 mm of bone across the first axis, off the centre
    found = wepl_errors(ct, sct, body, np.diag([2.0, 2.0, 2.0, 1.0]), step_deg=90)
    lost = 6 * (relative_stopping_power(np.array(1000.0)) - relative_stopping_power(np.array(0.0)))
    assert found.error_mm[0] == pytest.approx(-lost, rel=0.03)
    assert found.error_mm[1] == pytest.approx(0.0, abs=1e-9)
    assert found.wepl_me_mm == pytest.approx(-lost / 2, rel=0.03)


def test_beams_keep_to_the_axial_plane_of_a_tilted_scan():
    body = block((41, 41, 41), 2.0, 1e9)  # all of the grid
    ct = np.zeros((41, 41, 41))
    tilted = rotation(0, 30) @ np.diag([2.0, 2.0, 2.0, 1.0])
    straight, oblique = (wepl_errors(ct, ct + 10, body, a, 90).ct_mm for a in (np.diag([2.0, 2.0, 2.0, 1]), tilted))
    assert oblique[0] == pytest.approx(straight[0], rel=0.02)  # along the axis of the tilt
    assert oblique[1] == pytest.approx(straight[1] / math.cos(math.radians(30)), rel=0.02)


@pytest.mark.parametrize("step", [0, -15, 181])
def test_a_wrong_angle_step_is_named(step):
    volume = np.zeros((5, 5, 5))
    with pytest.raises(MrictError, match="angle step"):
        wepl_errors(volume, volume, volume + 1, np.eye(4), step)


def test_continuity_by_hand():
    ct, sct = line([0, 10, 20, 30, 40, 50]), line([0, 30, 0, 30, 0, 99])
    mask = line([1, 1, 1, 1, 1, 0])
    assert continuity(ct, sct, mask, 0)["continuity"] == pytest.approx(30 / 10)
    assert math.isnan(continuity(ct, sct, mask, 0)["continuity_bone_edge"])  # no bone
    assert math.isnan(continuity(ct, sct, mask, 1)["continuity"])  # one slice
    assert math.isnan(continuity(np.zeros_like(ct), sct, mask, 0)["continuity"])  # a constant CT
    with pytest.raises(MrictError, match="axis 3"):
        continuity(ct, sct, mask, 3)


def test_continuity_at_bone_edges_looks_at_the_edges_alone():
    ct = line([0, 0, 0, 0, 500, 500, 500, 500, 500, 0, 0, 0, 0])
    sct = ct * 0.5
    sct[0] = 77.0  # far from bone
    found = continuity(ct, sct, np.ones_like(ct), 0)
    assert found["continuity_bone_edge"] == pytest.approx(0.5)
    assert found["continuity"] == pytest.approx((250 + 250 + 77) / 1000)


def test_noise_from_slice_to_slice_is_seen_as_such():
    rng = np.random.default_rng(0)
    ct = np.broadcast_to(np.arange(40) * 20.0, (16, 16, 40))
    sct = ct + rng.normal(0, 1, (16, 16, 40)).cumsum(axis=0) * 0 + rng.normal(0, 100, (1, 1, 40))
    found = continuity(ct, sct, np.ones(ct.shape), 2)["continuity"]
    assert found == pytest.approx(np.abs(np.diff(sct[0, 0])).mean() / 20)
    assert found > 3


SHIFTS = [(0, 0, 0), (1, 0, 0), (-2, 1, 0), (2, -2, 2)]


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_shifted_copy_is_moved_back(shift):
    rng = np.random.default_rng(1)
    ct = rng.normal(0, 300, (24, 20, 18))
    mask = np.zeros(ct.shape)
    mask[4:-4, 4:-4, 4:-4] = 1
    sct = np.roll(ct, [-s for s in shift], axis=(0, 1, 2))  # moving it by +shift restores the CT inside the mask
    found = alignment(ct, sct, mask)
    assert found.shift_voxels == shift
    assert found.mae_shift_hu == 0.0
    plain = float(np.abs(ct - sct)[mask > 0].mean())
    assert (plain == 0) == (shift == (0, 0, 0))


def test_the_best_shift_equals_the_search_with_padded_copies():
    rng = np.random.default_rng(2)
    ct, sct = rng.normal(0, 100, (2, 7, 6, 5))
    mask = rng.random(ct.shape) < 0.5
    best = math.inf
    for shift in np.ndindex(5, 5, 5):
        s = np.array(shift) - 2
        moved = sct[np.ix_(*(np.clip(np.arange(n) - d, 0, n - 1) for n, d in zip(ct.shape, s, strict=True)))]
        best = min(best, np.abs(ct - moved)[mask].mean())
    assert alignment(ct, sct, mask).mae_shift_hu == pytest.approx(best, rel=1e-6)


def test_equal_errors_take_the_smallest_shift_and_thin_axes_are_not_shifted():
    flat = np.full((8, 8, 2), 40.0)
    assert alignment(flat, flat + 10, np.ones(flat.shape)).shift_voxels == (0, 0, 0)
    rng = np.random.default_rng(3)
    ct = rng.normal(size=(9, 9, 1))
    assert alignment(ct, ct, np.ones(ct.shape)).shift_voxels == (0, 0, 0)


def test_the_core_leaves_the_shell_of_the_mask_out():
    ct = np.zeros((21, 21, 21))
    mask = np.zeros(ct.shape)
    mask[3:18, 3:18, 3:18] = 1  # a cube of 15
    sct = np.full(ct.shape, 100.0)
    sct[6:15, 6:15, 6:15] = 10.0  # its core of 9, three voxels in
    assert alignment(ct, sct, mask).mae_core_hu == 10.0
    whole = np.ones(ct.shape)  # the image's faces are no boundary
    assert alignment(ct, sct, whole).mae_core_hu == pytest.approx(np.abs(sct).mean())
    small = np.zeros(ct.shape)
    small[10, 10, 10] = 1
    assert math.isnan(alignment(ct, sct, small).mae_core_hu)
    one = slice(10, 11)
    flat = alignment(ct[..., one], sct[..., one], mask[..., one])
    assert flat.mae_core_hu == 10.0  # eroded in the plane alone


def head(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(np.linspace(-1, 1, 18), np.linspace(-1, 1, 20), np.linspace(-1, 1, 12), indexing="ij")
    radius = np.sqrt((x / 0.8) ** 2 + (y / 0.9) ** 2 + (z / 1.4) ** 2) + 0.1 * x
    ct = np.select([radius < 0.7, radius < 0.9], [30.0, 900.0], -1000.0) + rng.normal(0, 10, radius.shape)
    return ct, ct + rng.normal(0, 80, ct.shape) + 20, radius < 1


ORDERS = st.permutations([0, 1, 2])


def panel(case):
    return metrics.values(metrics.keys("clinical"), case)


@settings(max_examples=25, deadline=None)
@given(ORDERS, st.tuples(*[st.booleans()] * 3), st.integers(0, 5))
def test_the_panel_does_not_depend_on_how_the_file_is_stored(order, flips, seed):
    ct, sct, mask = head(seed)
    affine = np.diag([3.0, 2.5, 4.0, 1.0])
    before = panel(metrics.Case(ct, sct, mask, affine, 2))
    stored = nib.orientations.apply_orientation
    ornt = np.array([[order.index(a), -1 if flips[a] else 1] for a in range(3)])  # axis a goes to place order.index(a)
    moved = [np.ascontiguousarray(stored(volume, ornt)) for volume in (ct, sct, mask.astype(np.uint8))]
    new_affine = affine @ nib.orientations.inv_ornt_aff(ornt, ct.shape)
    after = panel(metrics.Case(*moved, new_affine, order.index(2)))
    for name, value in before.items():
        if name != "shift_mm":  # of equally good shifts another may come first
            assert after[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_the_panel_is_whole_and_ready_for_json():
    case = metrics.Case(*head(0), np.diag([3.0, 2.5, 4.0, 1.0]), 2)
    details = clinical.curves(case)
    assert set(clinical.counts(case)) == {"n_air", "n_soft", "n_bone"}
    assert all(math.isfinite(value) for value in panel(case).values())
    assert json.loads(json.dumps(details["wepl"])) == details["wepl"]
    assert len(details["calibration"]["mean_hu"]) == len(details["calibration"]["edges_hu"]) - 1
    assert len(details["wepl"]["error_mm"]) == len(details["wepl"]["angles_deg"]) == 12


def test_a_known_bias_on_a_real_head():
    ct, mask = (nib.load(sample("brainweb_head/Task1/brain/BW04") / f"{name}.nii.gz") for name in ("ct", "mask"))
    hu, inside = ct.get_fdata(dtype=np.float32), mask.get_fdata() > 0
    scalars = panel(metrics.Case(hu, hu + 30, inside, ct.affine, 2))
    for name in ("me_hu", "mae_soft_hu", "me_bone_hu", "mae_core_hu"):
        assert scalars[name] == pytest.approx(30, abs=1e-3), name
    assert scalars["continuity"] == pytest.approx(1.0, abs=1e-4)
    assert scalars["shift_mm"] == 0.0
    # 30 HU more over 15 to 20 cm of head: 0.001 of water per HU in round numbers
    assert 3 < scalars["wepl_me_mm"] < 8
    assert scalars["dice_bone_250"] > 0.9
