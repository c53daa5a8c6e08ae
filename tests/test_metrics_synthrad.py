"""SynthRAD scores against the definitions written out: window by window, scale by scale."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import synthrad as plain
from reference.synthrad import direct_ms_ssim
from scipy.ndimage import uniform_filter

from mrict_core import metrics
from mrict_core.errors import MrictError


def case(shape: tuple[int, ...], seed: int, share: float = 0.6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CT with values outside the range, an sCT near it, a mask that touches the faces."""
    rng = np.random.default_rng(seed)
    ct = rng.uniform(-2000, 4000, shape)
    mask = rng.random(shape) < share
    mask.flat[0] = mask.flat[-1] = True
    return ct, ct + rng.normal(0, 300, shape), mask


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(9, 8, 7), (31, 17, 23), (7, 40, 12), (50, 9, 33)])
def test_all_scores_equal_the_plain_form(shape, order):
    ct, sct, mask = (np.asarray(a, np.float32 if a.dtype != bool else bool, order=order) for a in case(shape, seed=1))
    found, expected = metrics.score_case(ct, sct, mask), plain.scores(ct, sct, mask)
    assert found.pop("ssim_dimensionality") == "3D"
    assert found == pytest.approx(expected, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(7, 18)] * 3), st.integers(0, 10**6), st.floats(0.02, 1))
def test_scores_of_random_shapes_and_sparse_masks(shape, seed, share):
    ct, sct, mask = (np.asarray(a, np.float32 if a.dtype != bool else bool) for a in case(shape, seed, share))
    if not mask[3:-3, 3:-3, 3:-3].any():
        mask[3, 3, 3] = True
    found, expected = metrics.score_case(ct, sct, mask), plain.scores(ct, sct, mask)
    assert found["mae_hu"] == pytest.approx(expected["mae_hu"], rel=1e-6)
    assert found["psnr_db"] == pytest.approx(expected["psnr_db"], rel=1e-6)
    assert found["ssim"] == pytest.approx(expected["ssim"], rel=1e-6, abs=1e-7)


def body(shape: tuple[int, int, int], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A shell around soft tissue, and a copy with noise and a smoother shell."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
    radius = np.sqrt(sum(a**2 for a in axes))
    ct = np.where(radius < 0.9, np.where(radius > 0.7, 1100.0, 40.0), -1000.0) + rng.normal(0, 30, shape)
    return ct, uniform_filter(ct, 3) + rng.normal(0, 60, shape), radius < 0.95


@pytest.mark.parametrize("exponents", ["per_voxel", "per_scale"])
@pytest.mark.parametrize("luminance", ["every_scale", "last_scale"])
@pytest.mark.parametrize(("shape", "high"), [((97, 99, 98), 3071.0), ((30, 101, 64), 3000.0)])
def test_ms_ssim_equals_the_direct_form(shape, high, luminance, exponents):
    ct, sct, mask = body(shape, seed=3)
    hu_range = metrics.RANGES["synthrad2025" if high == 3071 else "synthrad2025_metrics"]
    found = metrics.ms_ssim(ct, sct, mask, hu_range=hu_range, luminance=luminance, exponents=exponents)
    assert found == pytest.approx(direct_ms_ssim(ct, sct, mask, high, luminance, exponents), rel=1e-6)
    assert 0 < found < 1


def test_ms_ssim_of_noise_and_of_the_same():
    ct, sct, mask = case((20, 33, 41), seed=5, share=1.0)
    mask[:3] = False
    assert metrics.ms_ssim(ct, sct, mask) == pytest.approx(direct_ms_ssim(ct, sct, mask), rel=1e-6)
    assert metrics.ms_ssim(ct, ct, mask) == pytest.approx(1.0, abs=1e-9)
    assert metrics.ms_ssim(ct, 1000 - ct, mask) < 0.2  # structure turned round: its factor is cut off at 0


def test_the_luminance_factor_sees_a_bias_that_the_others_do_not():
    ct, _, mask = body((97, 97, 97), seed=4)
    soft = np.clip(ct, -200, 200)
    every = metrics.ms_ssim(soft, soft + 150, mask)
    last = metrics.ms_ssim(soft, soft + 150, mask, luminance="last_scale")
    assert every < last < 1


def test_protocols_and_ranges_are_named():
    ct, sct, mask = case((9, 9, 9), seed=6)
    ct[0, 0, 0], sct[0, 0, 0] = 3071, 3000  # differs beyond 3000 only
    narrow = metrics.score_case(ct, sct, mask)
    wide = metrics.score_case(ct, sct, mask, hu_range="synthrad2025")
    inside = mask > 0
    for scores, high in ((narrow, 3000), (wide, 3071)):
        real, fake = (np.clip(a[inside], -1024, high) for a in (ct, sct))
        expected = 10 * np.log10((high + 1024) ** 2 / np.mean((real - fake) ** 2))
        assert scores["psnr_db"] == pytest.approx(expected, rel=1e-6)
        assert scores["mae_hu"] == narrow["mae_hu"]
    later = metrics.score_case(*body((40, 40, 40), 1), "synthrad2025")
    assert set(later) == {"mae_hu", "psnr_db", "ms_ssim"}
    for arguments, message in (
        ({"protocol": "synthrad2024"}, "did you mean 'synthrad202"),
        ({"hu_range": "synthrad"}, "unknown HU range"),
    ):
        with pytest.raises(MrictError, match=message):
            metrics.score_case(ct, sct, mask, **arguments)
    for option in ("luminance", "exponents"):
        with pytest.raises(MrictError, match=f"unknown {option}"):
            metrics.ms_ssim(ct, sct, mask, **{option: "x"})


def test_a_mask_that_ms_ssim_cannot_use_is_named():
    ct, sct, mask = case((100, 100, 100), seed=7)
    mask[:] = False
    mask[51, 51, 51] = True  # lost at the second scale, which keeps even voxels
    with pytest.raises(MrictError, match=r"no voxel at scale 2 .*every 2\. voxel"):
        metrics.ms_ssim(ct, sct, mask)
