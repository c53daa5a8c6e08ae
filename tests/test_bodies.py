"""Bodies on CT and MR, metal, the scoring mask and the preparation of an MR, on phantoms and real slices."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import SimpleITK as sitk
from samples import sample
from scipy import ndimage

from mrict_core.data.images.headers import ItkFrame
from mrict_core.data.images.orders import SliceOrder
from mrict_core.data.phantom import OUTSIDE, PhantomPatient, PhantomSpec, Tissue, make_patient
from mrict_core.errors import MrictError
from mrict_core.pairing.bodies import ct_body, metal, mr_body, scoring_mask
from mrict_core.pairing.mr_preparation import clip, correct_bias

SPECS = {"brain": PhantomSpec("brain", 3.6, 5.0, 1), "pelvis": PhantomSpec("pelvis", 4.5, 5.0, 1)}


@cache
def phantom(patient: str) -> PhantomPatient:
    return make_patient(patient, 0, SPECS["brain" if patient[1] == "B" else "pelvis"])


def image(array: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """Return an array (nx, ny, nz) as an image; affine: voxel -> RAS mm."""
    found, frame = sitk.GetImageFromArray(np.ascontiguousarray(array.T)), ItkFrame.of(affine)
    found.SetOrigin(frame.origin)
    found.SetSpacing(frame.spacing)
    found.SetDirection(frame.direction)
    return found


def array(mask: sitk.Image) -> np.ndarray:
    assert mask.GetPixelID() == sitk.sitkUInt8
    values = sitk.GetArrayFromImage(mask).T
    assert values.max() <= 1
    return values > 0


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


def true_body(patient: PhantomPatient) -> np.ndarray:
    return ndimage.binary_fill_holes(~np.isin(patient.labels, [int(t) for t in OUTSIDE]))


def with_couch(patient: PhantomPatient, gap_mm: float, hu: float) -> tuple[sitk.Image, np.ndarray, np.ndarray]:
    """Return an axial CT with a plate of 4 mm below the body, with the body and the plate (N, rows, cols)."""
    order = SliceOrder.axial(patient.affine)
    body, spacing = order.to_slices(true_body(patient)), order.spacing_mm(patient.affine)
    ct = order.to_slices(np.where(true_body(patient), patient.ct, -1000))
    room = ((0, 0), (0, 12), (0, 0))
    ct, body = np.pad(ct, room, constant_values=-1000), np.pad(body, room)
    top = np.flatnonzero(body.any(axis=(0, 2))).max() + 1 + round(gap_mm / spacing[1])
    plate = np.zeros(body.shape, bool)
    plate[:, top : top + max(1, round(4 / spacing[1]))] = True
    plate &= ~body
    found = sitk.GetImageFromArray(np.where(plate, hu, ct).astype(np.int16))
    found.SetSpacing([float(s) for s in spacing[::-1]])
    return found, body, plate


@pytest.mark.parametrize("patient", ["1BA001", "1BB001", "1BC001", "1PA001", "1PB001", "1PC001"])
def test_bodies_of_phantoms_in_any_orientation(patient):
    person = phantom(patient)
    true, couch = true_body(person), np.isin(person.labels, [Tissue.COUCH_SHELL, Tissue.COUCH_FOAM])
    on_ct, on_mr = (array(f(image(a, person.affine))) for f, a in ((ct_body, person.ct), (mr_body, person.mr)))
    assert dice(on_ct, true) > 0.97
    assert not (on_ct & couch).any()
    assert dice(on_mr, true) > 0.94


@pytest.mark.parametrize("patient", ["1BA001", "1BC001", "1PA001", "1PB001"])
@pytest.mark.parametrize(("gap_mm", "hu"), [(0, -120), (0, 100), (-4, -120), (5, -120), (20, 300)])
def test_couch_is_outside_the_body_even_if_it_touches(patient, gap_mm, hu):
    ct, body, plate = with_couch(phantom(patient), gap_mm, hu)
    found = array(ct_body(ct)).T
    assert dice(found, body) > 0.97
    assert np.count_nonzero(found & plate) < 0.03 * np.count_nonzero(plate)


@pytest.mark.parametrize("strength", [0.0, 0.6, 1.0])
def test_body_on_an_mr_with_a_bias_field(strength):
    person = phantom("1BA001")
    ramp = np.linspace(-strength, strength, person.mr.shape[0])[:, None, None]
    assert dice(array(mr_body(image(person.mr * np.exp(ramp), person.affine))), true_body(person)) > 0.93


@pytest.mark.parametrize(("role", "find"), [("ct", ct_body), ("mr", mr_body)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_volumes_one_voxel_thick(role, find, axis):
    person = phantom("1BA001")
    middle = [slice(None)] * 3
    middle[axis] = slice(person.ct.shape[axis] // 2, person.ct.shape[axis] // 2 + 1)
    middle = tuple(middle)
    found = array(find(image(getattr(person, role)[middle], person.affine)))
    assert dice(found, true_body(person)[middle]) > 0.93


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_real_slices_leave_couch_and_headrest_outside_the_mask(plane):
    root = sample(f"synthrad_brain_{plane}") / "Task1" / "brain"
    agree, outside = [], []
    for folder in sorted(root.iterdir())[::12]:
        ct, mr, given = (sitk.ReadImage(folder / f"{name}.nii.gz") for name in ("ct", "mr", "mask"))
        body, mask = array(ct_body(ct)), sitk.GetArrayFromImage(given).T > 0
        agree.append(dice(body, array(mr_body(mr))))
        outside.append(np.count_nonzero(body & ~mask) / np.count_nonzero(body))
    assert np.median(agree) > 0.94
    assert np.median(outside) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "least"), [("brainweb_head/Task1/brain/BW04", 0.97), ("pelvis_bulk/Task1/pelvis/P3", 0.98)]
)
def test_real_anatomy(folder, least):
    ct, mr, given = (sitk.ReadImage(sample(folder) / f"{name}.nii.gz") for name in ("ct", "mr", "mask"))
    mask = sitk.GetArrayFromImage(given).T > 0
    assert min(dice(array(ct_body(ct)), mask), dice(array(mr_body(mr)), mask)) > least


def with_implant() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the CT of a pelvis with an implant and a dark streak beside it, the implant, the streak and the affine."""
    person = phantom("1PA001")  # axes L, P, S
    ct, body = person.ct.copy(), true_body(person)
    x, y, z = (int(v) for v in ndimage.center_of_mass(body))
    implant, streak = np.zeros(ct.shape, bool), np.zeros(ct.shape, bool)
    implant[x - 1 : x + 2, y - 1 : y + 2, z - 2 : z + 3] = True
    streak[x + 3 : x + 10, y, z - 2 : z + 3] = True
    ct[implant], ct[streak & body] = 3071, -700
    return ct, implant, streak & body, person.affine


def test_metal_and_its_streaks_are_marked_and_nothing_far_away():
    ct, implant, streak, affine = with_implant()
    marked = array(metal(image(ct, affine)))
    assert marked[implant].all()
    assert marked[streak].mean() > 0.95
    slices = np.flatnonzero(implant.any(axis=(0, 1)))
    assert not marked[..., : slices[0] - 1].any()
    assert marked.sum() < 3 * (implant | streak).sum() + 200


@pytest.mark.parametrize("patient", ["1BB001", "1PA001"])
def test_no_metal_gives_an_empty_mask(patient):
    person = phantom(patient)
    assert not array(metal(image(person.ct, person.affine))).any()


def box(low: int, high: int, shape: tuple[int, int, int] = (20, 20, 20)) -> sitk.Image:
    values = np.zeros(shape, np.uint8)
    values[low:high, low:high, low:high] = 1
    return image(values, np.diag([2.0, 2.0, 2.0, 1.0]))


@pytest.mark.parametrize(
    ("field", "margin_mm", "edge"),
    [(box(0, 20), 0.0, 6), (box(0, 20), 4.0, 10), (box(0, 20), 1.9, 6), (box(0, 9), 4.0, 5), (box(15, 20), 0.0, 0)],
)
def test_scoring_mask_is_the_intersection_inside_the_field(field, margin_mm, edge):
    mask = array(scoring_mask(box(4, 14), box(8, 18), field, margin_mm))
    assert np.count_nonzero(mask[:, 10, 10]) == edge * (not mask.any() or mask[8, 10, 10])
    assert not mask[sitk.GetArrayFromImage(field).T == 0].any()


def flat(value: float) -> sitk.Image:
    return image(np.full((30, 30, 8), value, np.float32), np.diag([2.0, 2.0, 4.0, 1.0]))


ERRORS = [
    (lambda: ct_body(flat(-1000)), "ct: no body found"),
    (lambda: ct_body(sitk.Image([8, 8], sitk.sitkInt16)), "expected a volume"),
    (lambda: ct_body(sitk.Image([8, 8, 8, 2], sitk.sitkInt16)), "expected a volume"),
    (lambda: ct_body(sitk.Image([8, 8, 8], sitk.sitkVectorUInt8, 3)), "expected a volume"),
    (lambda: mr_body(flat(0)), "mr"),
    (lambda: scoring_mask(box(2, 9), box(2, 9, (20, 20, 18)), box(0, 20)), "expected one grid"),
    (lambda: scoring_mask(box(2, 9), box(2, 9), box(0, 20), -1.0), "expected 0 or more"),
    (lambda: clip(box(2, 9), box(2, 9), 99, 1), "the lower one first"),
    (lambda: clip(box(2, 9), box(2, 2)), "its body is empty"),
    (lambda: correct_bias(image(np.ones((20, 20, 1)), np.eye(4)), image(np.ones((20, 20, 1)), np.eye(4))), "leave it"),
]


@pytest.mark.parametrize(("call", "words"), ERRORS)
def test_what_cannot_be_used_is_one_line(call, words):
    with pytest.raises(MrictError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def test_bias_correction_flattens_a_field_and_keeps_the_median():
    rng = np.random.default_rng(0)
    x, y, z = np.mgrid[-1:1:40j, -1:1:40j, -1:1:32j]
    inside = x**2 + y**2 + z**2 < 0.8
    tissue = np.where(inside, np.where(y > 0, 400.0, 600.0), 0.0)
    field = np.exp(0.5 * x)
    mr = image((tissue * field + rng.normal(0, 4, tissue.shape) * inside).clip(0), np.diag([2.0, 2.0, 2.0, 1.0]))
    body = image(inside.astype(np.uint8), np.diag([2.0, 2.0, 2.0, 1.0]))
    after = sitk.GetArrayFromImage(correct_bias(mr, body)).T

    def spread(values: np.ndarray) -> float:
        part = values[inside & (y > 0)]
        return float(part.std() / part.mean())

    assert spread(after) < 0.4 * spread(tissue * field)
    assert np.median(after[inside]) == pytest.approx(np.median((tissue * field)[inside]), rel=0.05)


@pytest.mark.parametrize(("low", "high", "limits"), [(0.0, 99.5, (0.0, 994.0)), (5.0, 90.0, (49.95, 899.1))])
def test_clipping_at_percentiles_of_the_body(low, high, limits):
    values = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)
    mr, body = image(values, np.eye(4)), image(np.ones(values.shape, np.uint8), np.eye(4))
    found = sitk.GetArrayFromImage(clip(mr, body, low, high))
    assert (found.min(), found.max()) == pytest.approx(limits, abs=0.1)
