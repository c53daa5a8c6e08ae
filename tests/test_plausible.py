"""Which values are HU: tables of scalings that are refused by name, of good CT, and of bad models that are scored."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from mrict_core.data.plausible import check_hu, check_sct
from mrict_core.errors import MrictError

SHAPE = (48, 52, 24)
Change = Callable[[np.ndarray, np.ndarray], np.ndarray]


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


def zscore(a: np.ndarray, where: np.ndarray) -> np.ndarray:
    return (a - a[where].mean()) / a[where].std()


def picture(a: np.ndarray, top: float, low: float = -1024, high: float = 3000) -> np.ndarray:
    return (a.clip(low, high) - low) / (high - low) * top


SCALED: dict[str, tuple[Change, str]] = {
    "wrap of uint16": (
        lambda a, m: np.round(a) + 65536 * (np.round(a) < 0),
        "wrapped round by an unsigned 16",
    ),
    "wrap of 12 bits": (lambda a, m: np.round(a) + 4096 * (np.round(a) < 0), "wrapped round at 12 bits"),
    "wrap of uint8": (lambda a, m: np.round(a) % 256, "fill 8 bits"),
    "16-bit picture": (lambda a, m: picture(a, 65535), "scaled to 16 bits"),
    "16-bit picture of a window": (lambda a, m: picture(a, 65535, -1000, 1000), "scaled to 16 bits"),
    "8-bit picture": (lambda a, m: np.round(picture(a, 255)), "8 bits"),
    "8-bit picture of a window": (lambda a, m: np.round(picture(a, 255, -1000, 1000)), "8 bits"),
    "int8 clip": (lambda a, m: np.round(a).clip(-128, 127), "fill 8 bits"),
    "uint8 clip": (lambda a, m: np.round(a).clip(0, 255), "fill 8 bits"),
    "z-scores in the mask": (lambda a, m: zscore(a, m), "normalised"),
    "z-scores of all": (lambda a, m: zscore(a, np.ones_like(m)), "normalised"),
    "z-scores on 0": (lambda a, m: np.where(m, zscore(a, m), 0), "normalised"),
    "[-1, 1]": (lambda a, m: picture(a, 2) - 1, "normalised"),
    "[0, 1]": (lambda a, m: picture(a, 1), "normalised"),
    "HU / 1000": (lambda a, m: a / 1000, "normalised"),
    "[0, 1000]": (lambda a, m: picture(a, 1000), r"scaled to 0…1000"),
    "[0, 1000] of a window": (lambda a, m: picture(a, 1000, -1000, 1000), "multiply by 2 and subtract 1024"),
    "times 10": (lambda a, m: a * 10, "HU multiplied by 10"),
    "times 0.1": (lambda a, m: a * 0.1, r"HU multiplied by 0\.1"),
    "times 0.5": (lambda a, m: a * 0.5, r"HU multiplied by 0\.5"),
    "slope lost": (lambda a, m: (a + 1024) / 2, "slope and intercept lost.*; multiply by 2 and subtract 1024"),
    "slope 0.5 lost": (lambda a, m: (a + 1024) * 2, r"slope and intercept lost.*; multiply by 0\.5 and subtract 1024"),
    "intercept lost": (lambda a, m: a + 1024, "intercept of -1024 lost.*; subtract 1024"),
    "intercept of 1000 lost": (lambda a, m: a + 1000, "intercept of -1024 lost.*; subtract 1024"),
    "intercept twice": (lambda a, m: a - 1024, "applied twice.*; add 1024"),
}


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


def padded(value: float) -> Change:
    return lambda a, m: np.where(ndimage.binary_dilation(m, iterations=2), a, value)


GOOD: dict[str, Change] = {
    "plain": lambda a, m: a,
    "low dose": lambda a, m: a + np.random.default_rng(0).normal(0, 100, SHAPE),
    "metal on an extended scale": lambda a, m: np.where(np.random.default_rng(0).random(SHAPE) < 0.002, 30000, a),
    **{f"padded with {value}": padded(value) for value in (-1024, -2000, -2048, -3024, -32768)},
    "two kinds of padding": lambda a, m: np.where(np.indices(SHAPE)[0] < 3, -3024, padded(-2000)(a, m)),
    "window to 1000": lambda a, m: a.clip(-1000, 1000),
    "masked with air": lambda a, m: np.where(m, a, -1024),
    "bone up to 3071": lambda a, m: np.where(a > 900, 3071, a),
}


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
        with pytest.raises(MrictError, match=r"sign turned; .*multiply by -1"):
            check_hu(-CT, "ct.nii.gz", MASKS[mask])
    with pytest.raises(MrictError, match="hold no air: negative HU cut off, a narrow window, or an MR"):
        check_hu(CT.clip(0), "ct.nii.gz", BODY)


def models() -> dict[str, np.ndarray]:
    """Return synthetic CTs in HU as bad models make them."""
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 1, SHAPE)
    air, zero = (lambda a: np.where(BODY, a, -1024.0)), (lambda a: np.where(BODY, a, 0.0))
    found = {
        "constant": np.full(SHAPE, 37.0),
        "constant 0": np.zeros(SHAPE),
        "nearly constant": 37 + noise,
        "nearly 0": 0.3 * noise,
        "collapsed to 0": air(2 * noise),
        "collapsed to air": -1000 + 5 * noise,
        "noise": 400 * noise,
        "water": air(np.zeros(SHAPE)),
        "all soft tissue": air(40 + 15 * noise),
        "all soft tissue on 0": zero(40 + 15 * noise),
        "mean CT": air(CT[BODY].mean() + 0 * CT),
        "half air": np.where(BODY, -500 + 0.5 * ndimage.gaussian_filter(CT, 2), -1000),
        "mirrored": CT[::-1],
        "aside": np.roll(CT, 8, 0),
        "bone as air": np.where(CT > 300, -1000, 1000) + 5 * noise,
        "masked with 0": zero(CT),
        "narrow window": CT.clip(-160, 240),
    }
    found |= {f"noise of {sd} HU": CT + sd * noise for sd in (100, 400, 800)}
    found |= {f"blurred by {s}": ndimage.gaussian_filter(CT, s) for s in (1, 3, 6)}
    for name, around in (("", lambda a: a), (", air around", air), (", 0 around", zero)):
        found |= {f"bias of {b} HU{name}": around(CT + b) for b in (-600, -400, -150, 150, 400, 600)}
        found |= {f"contrast {k}{name}": around(40 + k * (CT - 40)) for k in (0.1, 0.3, 0.5, 0.7, 1.5, 2) if name}
    return found


MODELS = models()


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", MODELS)
def test_a_bad_model_is_never_refused(kind: str, mask: str) -> None:
    remarks = check_sct(MODELS[kind].astype(np.float32), CT, MASKS[mask], "sct.nii.gz")
    assert all("\n" not in remark for remark in remarks)


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        (np.negative, "rise where the CT's fall: sign turned"),
        (lambda a: a.clip(0), r"nothing lies below 0 HU, in the CT \d+% lie below -800: negative HU cut off"),
        (lambda a: a.clip(-160, 240), "nothing lies below -160 HU"),
        (lambda a: np.where(BODY, a * 5, -1024), r"of the mask lies outside"),
        (lambda a: np.where(BODY, 40.0, -1024), "constant inside the mask"),
    ],
)
def test_what_is_doubtful_is_said(change: Callable[[np.ndarray], np.ndarray], remark: str) -> None:
    sct = CT + np.random.default_rng(0).normal(0, 40, SHAPE)
    found = check_sct(change(sct).astype(np.float32), CT, MASKS["no air"], "sct.nii.gz")
    assert any(re.search(remark, one) for one in found), found


def test_an_ordinary_sct_is_scored_without_a_word() -> None:
    sct = CT + np.random.default_rng(0).normal(0, 60, SHAPE).astype(np.float32)
    assert all(check_sct(sct, CT, mask, "sct.nii.gz") == [] for mask in MASKS.values())
