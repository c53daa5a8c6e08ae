"""HU windows, MR normalisation, and the checks that keep foreign units out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mrict_core import hu as scale
from mrict_core.data import intensity
from mrict_core.data.checks import hu_values
from mrict_core.errors import MrictError

WINDOWS = sorted(scale.WINDOWS)


@pytest.mark.parametrize("name", WINDOWS)
@given(data=st.data())
def test_window_inverse_restores_whole_hu_inside_it(name: str, data: st.DataObject) -> None:
    window = scale.WINDOWS[name]
    values = st.integers(int(window.low), int(window.high))
    hu = data.draw(hnp.arrays(np.int16, hnp.array_shapes(max_side=6), elements=values))
    unit = window.to_unit(hu)
    assert unit.dtype == np.float32
    assert np.abs(unit).max() <= 1
    np.testing.assert_array_equal(np.rint(window.to_hu(unit)), hu)


@pytest.mark.parametrize("name", WINDOWS)
def test_window_ends_and_clipping(name: str) -> None:
    window = scale.WINDOWS[name]
    hu = [window.low - 500, window.low, (window.low + window.high) / 2, window.high, window.high + 500]
    np.testing.assert_allclose(window.to_unit(np.array(hu)), [-1, -1, 0, 1, 1], atol=1e-6)


def test_window_of_tensors_equals_that_of_arrays() -> None:
    window = scale.WINDOWS["patient"]
    hu = np.array([[-2000, -1024, 0, 40, 3000, 4000]], np.int16)
    unit = window.to_unit(torch.from_numpy(hu))
    assert isinstance(unit, torch.Tensor)
    assert unit.dtype == torch.float32
    np.testing.assert_array_equal(unit.numpy(), window.to_unit(hu))
    np.testing.assert_array_equal(window.to_hu(unit).numpy(), window.to_hu(window.to_unit(hu)))


@given(
    low=st.floats(-100, 1000, width=32),
    span=st.floats(1, 5000, width=32),
    parts=hnp.arrays(np.float32, 20, elements=st.floats(0, 1, width=32)),
)
def test_mr_normalisation_is_linear_onto_the_unit_range(low: float, span: float, parts: np.ndarray) -> None:
    mr = (low + span * parts).astype(np.float32)
    unit = intensity.normalise_mr(mr, low, low + span)
    assert np.abs(unit).max() <= 1
    np.testing.assert_allclose((unit + 1) * (span / 2) + low, mr, atol=1e-5 * (span + abs(low)))


def test_mr_range_ignores_outliers_and_the_outside() -> None:
    mr = np.linspace(100, 200, 10_000, dtype=np.float32).reshape(100, 100, 1)
    body = np.ones(mr.shape, bool)
    body[:10] = False
    mr[:10], mr[50, 50] = 1e6, 1e5
    low, high = intensity.robust_mr_range(mr, body)
    assert (low, high) == pytest.approx((110.5, 199.5), abs=1)


@pytest.mark.parametrize(
    ("mr", "body", "message"),
    [
        (np.ones((4, 4, 1)), np.ones((4, 4, 1), bool), "constant 1 inside the body"),
        (np.ones((4, 4, 1)), np.zeros((4, 4, 1), bool), "body mask is empty"),
    ],
)
def test_mr_range_refuses(mr: np.ndarray, body: np.ndarray, message: str) -> None:
    with pytest.raises(MrictError, match=message):
        intensity.robust_mr_range(mr, body)


def test_minmax_slice_is_the_predecessors() -> None:
    mr = np.array([[2.0, 4.0], [6.0, 10.0]])
    np.testing.assert_allclose(intensity.minmax_slice(mr), (mr - 2) / (8 + 1e-5), rtol=1e-6)
    np.testing.assert_array_equal(intensity.minmax_slice(np.full((2, 2), 7.0)), 0)  # no division by zero


def plain_ct() -> tuple[np.ndarray, np.ndarray]:
    """Return a round body with bone in air (HU), and its mask."""
    x, y, _ = np.mgrid[-20:20, -20:20, 0:2]
    radius = np.hypot(x, y)
    ct = np.select([radius < 12, radius < 14, radius < 16], [40.0, 1200.0, -90.0], -1000.0)
    return ct, radius < 17


GOOD = {
    "plain": lambda ct: ct,
    "air at -1024": lambda ct: np.maximum(ct - 24, -1024),
    "up to 3071": lambda ct: np.where(ct > 1000, 3071, ct),
    "metal on the extended scale": lambda ct: np.where(np.indices(ct.shape).sum(axis=0) == 40, 14000, ct),
    "padding outside the field of view": lambda ct: np.where(np.arange(40)[:, None, None] == 0, -3024, ct),
    "small errors of an 8-bit origin": lambda ct: np.round((ct + 1024) / 16) * 16 - 1024 + 13,
}
BAD = {
    "8-bit": (lambda ct: np.round((ct + 1024) / 4024 * 255), "8 bits"),
    "normalised": (lambda ct: (ct + 1024) / 2012 - 1, "normalised"),
    "offset": (lambda ct: ct + 1024, "intercept of -1024 lost, .* subtract 1024"),
    "offset twice": (lambda ct: ct - 1024, "applied twice; .* add 1024"),
    "constant": (lambda ct: np.zeros_like(ct), "constant value 0"),
    "an MR": (lambda ct: np.where(ct > -1000, 300 + ct / 10, 3.0), "or an MR"),
    "windowed": (lambda ct: ct.clip(-160, 240), "hold no air"),
    "wrong slope": (lambda ct: ct * 10, "above 3100: HU multiplied by 10"),
}


@pytest.mark.parametrize("case", GOOD)
def test_check_hu_accepts(case: str) -> None:
    ct, mask = plain_ct()
    ct = GOOD[case](ct)
    hu_values.check_hu(ct, "ct.nii.gz", mask)
    hu_values.check_hu(ct, "ct.nii.gz")


@pytest.mark.parametrize("case", BAD)
def test_check_hu_refuses(case: str) -> None:
    ct, mask = plain_ct()
    change, message = BAD[case]
    with pytest.raises(MrictError, match=message) as caught:
        hu_values.check_hu(change(ct), "1BA001/ct.nii.gz", mask)
    text = str(caught.value)
    assert text.startswith("1BA001/ct.nii.gz: ")
    assert "expected" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("mr", "message"),
    [(np.full((3, 3, 1), 5.0), "constant value 5"), (plain_ct()[0], "look like a CT in HU")],
)
def test_check_mr_refuses(mr: np.ndarray, message: str) -> None:
    with pytest.raises(MrictError, match=message):
        intensity.check_mr(mr, "mr.nii.gz")


def test_check_mr_accepts_negative_noise() -> None:
    intensity.check_mr(np.random.RandomState(0).normal(0, 300, (20, 20, 2)) + 500, "mr.nii.gz")
