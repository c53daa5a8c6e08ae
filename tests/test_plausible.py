"""Which values are HU: tables of scalings that are refused by name, of good CT, and of bad models that are scored."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from benchmarks.check_kinds import GOOD, SCALED, bad_models
from mrict_core.data.checks.hu_values import check_hu, check_sct
from mrict_core.errors import MrictError

SHAPE = (48, 52, 24)


def head() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return a head in HU with a sinus, and masks: body, body without air, bone alone, one organ."""
    rng = np.random.default_rng(3)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij", sparse=True)
    radius = np.sqrt(sum(a**2 for a in axes))
    ct = np.select([radius < 0.6, radius < 0.72, radius < 0.82], [35.0, 950.0, -95.0], -1000.0)
    ct[22:26, 36:41, 8:14] = -900
    ct = ndimage.gaussian_filter(ct, 0.5) + rng.normal(0, 12, SHAPE)
    masks = {"body": radius < 0.86, "no air": (radius < 0.8) & (ct > -300), "bone": ct > 400, "organ": radius < 0.4}
    return np.round(ct).clip(-1024, 3071).astype(np.float32), masks


CT, MASKS = head()
BODY = MASKS["body"]


@pytest.mark.parametrize("mask", ["body", "no air", "bone"])
@pytest.mark.parametrize("kind", SCALED)
def test_a_ct_that_is_not_in_hu_is_refused_with_its_cause(kind: str, mask: str) -> None:
    change, cause = SCALED[kind]
    with pytest.raises(MrictError) as caught:
        check_hu(change(CT, BODY).astype(np.float32), "1BA001/ct.nii.gz", MASKS[mask])
    text = str(caught.value)
    assert text.startswith("1BA001/ct.nii.gz: ")
    assert "expected HU" in text
    assert "\n" not in text
    if mask == "body":
        caught.match(cause.replace("normalised", "(normalised|small numbers|the range)"))


@pytest.mark.parametrize("noise", [40, 150])
@pytest.mark.parametrize("kind", SCALED)
def test_an_sct_that_is_not_in_hu_is_refused_with_its_cause(kind: str, noise: float) -> None:
    """A good model and a poor one."""
    change, cause = SCALED[kind]
    rng = np.random.default_rng(0)
    sct = (CT + rng.normal(0, 10, SHAPE) + BODY * rng.normal(0, noise, SHAPE)).clip(-1024, 3000)
    with pytest.raises(MrictError, match=rf"sct\.nii\.gz: values .*{cause}"):
        check_sct(change(sct, BODY).astype(np.float32), CT, BODY, "sct.nii.gz")


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", GOOD)
def test_good_ct_passes_without_a_word(kind: str, mask: str) -> None:
    ct = GOOD[kind](CT, BODY).astype(np.float32)
    assert check_hu(ct, "ct.nii.gz", MASKS[mask]) == []
    assert check_hu(ct, "ct.nii.gz") == []


def test_a_window_of_the_reference_and_padding_in_the_mask_are_said() -> None:
    assert "clipped to a window, or HU multiplied" in check_hu(CT.clip(-500, 1300), "ct.nii.gz", BODY)[0]
    ct = np.where(np.indices(SHAPE)[0] < 8, -3024, CT).astype(np.float32)
    assert "of the mask holds padding (-3024)" in check_hu(ct, "ct.nii.gz", BODY)[0]


def test_a_ct_of_turned_sign_or_without_negative_values_is_refused() -> None:
    for mask in ("body", "bone"):
        with pytest.raises(MrictError, match=r"sign inverted; .*multiply by -1"):
            check_hu(-CT, "ct.nii.gz", MASKS[mask])
    with pytest.raises(MrictError, match="hold no air: negative HU clipped, a narrow window, or an MR"):
        check_hu(CT.clip(0), "ct.nii.gz", BODY)


def test_a_mask_of_the_air_is_refused() -> None:
    with pytest.raises(MrictError, match=r"the mask marks air \(median -\d+ HU, outside it \d+\): inverted"):
        check_hu(CT, "ct.nii.gz", ~MASKS["organ"] & (CT < -900))


MODELS = bad_models(CT, BODY)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", MODELS)
def test_a_bad_model_is_never_refused(kind: str, mask: str) -> None:
    remarks = check_sct(MODELS[kind].astype(np.float32), CT, MASKS[mask], "sct.nii.gz")
    assert all("\n" not in remark for remark in remarks)


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        (np.negative, "rise where the CT's fall: sign inverted"),
        (lambda a: a.clip(0), r"nothing is below 0 HU, in the CT [\d.]+% are below -800: negative HU clipped"),
        (lambda a: a.clip(-160, 240), "nothing is below -160 HU"),
        (lambda a: np.where(BODY, a * 5, -1024), r"of the mask is outside"),
        (lambda a: np.where(BODY, 40.0, -1024), "constant inside the mask"),
    ],
)
def test_what_is_doubtful_is_said(change: Callable[[np.ndarray], np.ndarray], remark: str) -> None:
    sct = CT + np.random.default_rng(0).normal(0, 40, SHAPE)
    found = check_sct(change(sct).astype(np.float32), CT, MASKS["no air"], "sct.nii.gz")
    assert any(re.search(remark, one) for one in found), found


def test_negative_values_cut_off_inside_the_mask_alone_are_said() -> None:
    sct = np.where(BODY, CT.clip(0), -1000).astype(np.float32)
    assert "nothing inside the mask is below 0 HU" in check_sct(sct, CT, BODY, "sct.nii.gz")[0]


@pytest.mark.parametrize(
    "change",
    [lambda a: a - 32768, lambda a: a.astype("<i2").view(">i2"), lambda a: a.astype("i8").astype("u8")],
    ids=["offset of a signed type", "byte order", "wrap of uint64"],
)
def test_values_beyond_all_hu_are_refused(change: Callable[[np.ndarray], np.ndarray]) -> None:
    with pytest.raises(MrictError, match=r"of the mask is outside .*check type, byte order, slope and intercept"):
        check_sct(change(CT).astype(np.float32), CT, BODY, "sct.nii.gz")


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_sct_is_not_refused_for_its_padding_or_window(kind: str) -> None:
    sct = CT + BODY * np.random.default_rng(0).normal(0, 40, SHAPE)
    assert check_sct(GOOD[kind](sct, BODY).astype(np.float32), CT, BODY, "sct.nii.gz") == []


def test_an_ordinary_sct_is_scored_without_a_word() -> None:
    sct = CT + np.random.default_rng(0).normal(0, 60, SHAPE).astype(np.float32)
    assert all(check_sct(sct, CT, mask, "sct.nii.gz") == [] for mask in MASKS.values())
