"""The verdict on a pair: phantoms with known errors, other persons and regions, mirror images, cut fields."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache

import numpy as np
import pytest
import SimpleITK as sitk

from mrict_core.data.phantom import PhantomSpec
from mrict_core.data.phantom.patients import make_patient
from mrict_core.errors import MrictError
from mrict_core.pairing.bodies import ct_body, mr_body
from mrict_core.pairing.optimum import BINS, compare, find_optimum, mr_field, mutual_information
from mrict_core.pairing.overlaps import dice, overlaps
from mrict_core.pairing.quality import LIMITS, MEASURES, Quality, Verdict, judge

AIR = -1024.0
GOOD, LOOK, NOT = Verdict
SPECS = {"B": PhantomSpec("brain", 3.5, 4.0), "P": PhantomSpec("pelvis", 5.0, 5.0)}


@cache
def scans(patient: str) -> tuple[sitk.Image, sitk.Image]:
    """MR and CT of a phantom on one grid, exactly aligned."""
    phantom = make_patient(patient, 3, SPECS[patient[1]])
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ phantom.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    images = []
    for array in (phantom.mr, phantom.ct):
        image = sitk.GetImageFromArray(np.ascontiguousarray(array.T.astype(np.float32)))
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        images.append(image)
    return images[0], images[1]


def move_of(like: sitk.Image, shift_mm: tuple, turn_deg: tuple) -> sitk.Transform:
    """A move about the centre of a grid."""
    centre = like.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in like.GetSize()])
    return sitk.Euler3DTransform(centre, *np.deg2rad(turn_deg).tolist(), [float(v) for v in shift_mm])


def moved(image: sitk.Image, like: sitk.Image, shift_mm: tuple, turn_deg: tuple = (0, 0, 0)) -> tuple:
    """A CT and its field of view after a known move."""
    move = move_of(like, shift_mm, turn_deg)
    whole = sitk.Image(image.GetSize(), sitk.sitkUInt8) + 1
    whole.CopyInformation(image)
    ct = sitk.Resample(image, like, move, sitk.sitkLinear, AIR)
    return ct, sitk.Resample(whole, like, move, sitk.sitkNearestNeighbor, 0)


def judged(mr: sitk.Image, ct: sitk.Image, field: sitk.Image) -> Quality:
    return judge(mr, ct, mr_body(mr), ct_body(ct), field)


@pytest.mark.parametrize(
    ("mr_of", "ct_of", "shift_mm", "turn_deg", "verdicts", "words"),
    [
        ("1BA001", "1BA001", (0, 0, 0), (0, 0, 0), {GOOD}, ""),
        ("1PB001", "1PB001", (0, 0, 0), (0, 0, 0), {GOOD}, ""),
        ("1PC002", "1PC002", (0.5, 0, 0), (0, 0, 0), {GOOD}, ""),  # an oblique grid
        ("1BA001", "1BA001", (0, -4, 0), (0, 0, 0), {LOOK}, "mm away"),
        ("1BA001", "1BA001", (0, 0, 0), (0, 0, 5), {LOOK}, "turned by"),  # a head is nearly round from above
        ("1PB001", "1PB001", (3, 0, 2), (0, 0, 0), {LOOK}, "mm away"),
        ("1BA001", "1BA001", (40, 60, 0), (0, 0, 0), {NOT}, "bodies overlap"),
        ("1BA001", "1BA004", (0, 0, 0), (0, 0, 0), {LOOK, NOT}, ""),  # another person
        ("1BA001", "1PB001", (0, 0, 0), (0, 0, 0), {NOT}, "outlines"),  # another region
    ],
)
def test_verdicts_of_known_errors(mr_of, ct_of, shift_mm, turn_deg, verdicts, words):
    mr = scans(mr_of)[0]
    quality = judged(mr, *moved(scans(ct_of)[1], mr, shift_mm, turn_deg))
    assert quality.verdict in verdicts, quality
    assert bool(quality.reasons) == (quality.verdict is not GOOD)
    assert not words or any(words in reason for reason in quality.reasons)


@pytest.mark.parametrize(
    ("shift_mm", "turn_deg"), [((0, 3, 0), (0, 0, 0)), ((1, 0, -2), (4, 0, 0)), ((0, 0, 6), (0, 3, 0))]
)
def test_offset_is_that_of_the_move(shift_mm, turn_deg):
    mr, ct = scans("1BA001")
    ct, field = moved(ct, mr, shift_mm, turn_deg)
    quality = judged(mr, ct, field)
    move, body = move_of(mr, shift_mm, turn_deg), np.argwhere(sitk.GetArrayFromImage(mr_body(mr)))[::97, ::-1]
    points = np.array([mr.TransformIndexToPhysicalPoint(index.tolist()) for index in body])
    true_mm = np.linalg.norm([move.TransformPoint(point) for point in points] - points, axis=1).mean()
    assert quality.offset_mm == pytest.approx(true_mm, abs=0.8)
    assert quality.offset_deg == pytest.approx(max(turn_deg), abs=0.8)


@pytest.mark.parametrize("kind", ["cut field", "noise", "bias"])
def test_good_pairs_of_poor_images_stay_good(kind):
    mr, ct = scans("1PB001")
    array = sitk.GetArrayFromImage(mr)
    rng = np.random.default_rng(0)
    field = np.ones(array.shape, np.uint8)
    if kind == "cut field":
        field[:, :, : array.shape[2] // 4] = 0
    elif kind == "noise":
        array = np.hypot(array + rng.normal(0, 40, array.shape), rng.normal(0, 40, array.shape))
    else:
        array = array * np.exp(np.linspace(-0.5, 0.5, array.shape[1]))[None, :, None]
    poor, seen = (sitk.GetImageFromArray(np.ascontiguousarray(a)) for a in (array.astype(np.float32), field))
    for image in (poor, seen):
        image.CopyInformation(mr)
    quality = judged(poor, sitk.Mask(ct, seen, AIR), seen)
    assert quality.verdict is GOOD, quality
    assert quality.covered == pytest.approx(1.0 if kind != "cut field" else 0.86, abs=0.05)


def test_a_mirrored_ct_is_named():
    mr, ct = scans("1BA001")
    across = int(np.argmax(np.abs(np.array(mr.GetDirection()).reshape(3, 3)[0])))
    array = np.flip(sitk.GetArrayFromImage(ct), 2 - across)
    other = sitk.GetImageFromArray(np.ascontiguousarray(array))
    other.CopyInformation(mr)
    quality = judged(mr, *moved(other, mr, (0, 0, 0)))
    assert quality.verdict is NOT
    assert any("mirrored left-right" in reason for reason in quality.reasons)


def test_quality_is_plain_and_the_same_twice():
    mr, ct = scans("1BA001")
    first, second = (judged(mr, *moved(ct, mr, (0, 0, 0))) for _ in range(2))
    assert first == second
    read = json.loads(json.dumps(asdict(first)))
    assert read["verdict"] == "good"
    assert set(MEASURES) == set(LIMITS) <= set(read)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda images: images | {"ct": images["ct"][:-2]}, "expected one grid"),
        (lambda images: images | {"mr_body": images["mr_body"] * 0}, "body of the MR is empty"),
        (lambda images: {name: image[:, :, :2] for name, image in images.items()}, "expected four"),
    ],
)
def test_input_that_cannot_be_judged(change, words):
    mr, ct = scans("1BA001")
    images = {"mr": mr, "ct": ct, "mr_body": mr_body(mr), "ct_body": ct_body(ct)}
    images["field"] = sitk.Cast(ct > -5000, sitk.sitkUInt8)
    with pytest.raises(MrictError, match=words):
        judge(**change(images))


def test_bodies_apart_are_no_pair():
    mr, ct = scans("1BA001")
    body = mr_body(mr)
    array = sitk.GetArrayFromImage(body)
    left, right = array.copy(), array.copy()
    middle = array.shape[2] // 2
    left[:, :, middle - 2 :], right[:, :, : middle + 2] = 0, 0
    halves = [sitk.GetImageFromArray(half) for half in (left, right)]
    for half in halves:
        half.CopyInformation(body)
    quality = judge(mr, ct, *halves, sitk.Cast(ct > -5000, sitk.sitkUInt8))
    assert (quality.verdict, quality.reasons) == (NOT, ("the bodies do not overlap",))


def test_a_small_field_of_the_mr_is_no_fault_of_the_pair():
    """On the CT's grid, the MR may end before the body does."""
    mr, ct = scans("1PB001")
    array = sitk.GetArrayFromImage(mr)
    axis = int(np.argmax(np.abs(np.array(mr.GetDirection()).reshape(3, 3)[2])))  # along the body
    cut = [slice(None)] * 3
    cut[2 - axis] = slice(0, array.shape[2 - axis] // 4)
    array[tuple(cut)] = 0
    short = sitk.GetImageFromArray(array)
    short.CopyInformation(mr)
    quality = judged(short, *moved(ct, mr, (0, 0, 0)))
    assert quality.verdict is GOOD, quality
    assert quality.body_dice > 0.95


def test_field_of_an_mr_ends_only_where_the_body_is_cut():
    z, y, x = np.ogrid[-20:20, -20:20, -20:20]
    ball = z * z + y * y + x * x < 256
    assert mr_field(ball * 1.0, ball).all()  # a background of zeros
    cut = ball.copy()
    cut[:20] = False
    assert mr_field(cut * 1.0, cut).all(axis=(1, 2)).tolist() == [False] * 20 + [True] * 20


def test_mutual_information_of_known_histograms():
    fixed = np.repeat([0.0, 10.0, 20.0, 30.0], 500)
    assert mutual_information(fixed, BINS - 1 - fixed) == pytest.approx(np.log(4))  # one from the other
    assert mutual_information(fixed, np.tile([0.0, 10.0, 20.0, 30.0], 500)) == pytest.approx(0, abs=1e-9)
    half = mutual_information(np.repeat([0.0, 10.0], 500), np.repeat([3.5, 3.5], 500))
    assert half == pytest.approx(0, abs=1e-9)


def test_a_ball_fits_nearly_as_well_turned():
    """A ball can be turned freely: its optimum in the angles is flat, but not in the shifts."""
    z, y, x = np.ogrid[-24:24, -24:24, -24:24]
    ball = sitk.GetImageFromArray((z * z + y * y + x * x < 400).astype(np.float32))
    ball.SetSpacing((3.0, 3.0, 3.0))
    body = sitk.Cast(ball > 0.5, sitk.sitkUInt8)
    pair = compare(ball * 100, ball * 1024 - 1024, body, body, body * 0 + 1)
    found = find_optimum(pair)
    assert found.offset_mm < 0.5
    turned, shifted = pair.information([0, 0, 0, 0, 0, 8]), pair.information([4, 0, 0, 0, 0, 0])
    assert found.here > turned > shifted  # voxels of 3 mm make the ball's edge a little uneven
    assert found.sharpness > 0.04


def test_overlaps_of_simple_bodies():
    array = np.zeros((30, 30, 30), np.uint8)
    array[5:25, 5:25, 5:25] = 1
    body = sitk.GetImageFromArray(array)
    body.SetSpacing((3.0, 3.0, 3.0))
    shifted = sitk.GetImageFromArray(np.roll(array, 2, 0))
    shifted.SetSpacing((3.0, 3.0, 3.0))
    grey = sitk.Cast(body, sitk.sitkFloat32)
    noise = sitk.AdditiveGaussianNoise(grey * 100, 5.0, 0.0, 1)
    found = overlaps(noise, grey * 1024 - 1024, body, shifted, body * 0 + 1)
    assert found.body_dice == pytest.approx(0.9)
    assert found.air_dice is None
    assert found.covered == 1
    assert 0 < found.outline_mm < 6
    assert dice(np.zeros(3, bool), np.zeros(3, bool)) == 0
