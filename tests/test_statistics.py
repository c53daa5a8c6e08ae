"""Statistics on distributions and tables with known answers."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrict_core.errors import MrictError
from mrict_core.metrics import statistics


def test_summary_by_hand():
    values = np.array([[80.0, np.nan], [100.0, 3.0], [150.0, np.inf]])
    mae, other = statistics.summarise(values)
    assert (mae.mean, mae.median, mae.n) == (110.0, 100.0, 3)
    assert mae.sd == pytest.approx(36.0555, abs=1e-4)
    assert 80.0 <= mae.low < 110.0 < mae.high <= 150.0
    assert other == statistics.Summary(mean=3.0, sd=None, median=3.0, low=None, high=None, n=1)
    (empty,) = statistics.summarise(np.array([[np.nan]]))
    assert empty == statistics.Summary(None, None, None, None, None, 0)


def test_the_interval_of_three_patients_equals_the_full_enumeration():
    values = np.array([80.0, 100.0, 150.0])
    means = [np.mean(draw) for draw in itertools.product(values, repeat=3)]  # all 27 equally likely resamples
    low, high = statistics.bootstrap_mean(values, resamples=50_000)
    assert low == pytest.approx(np.percentile(means, 2.5, method="inverted_cdf"), abs=1e-9)
    assert high == pytest.approx(np.percentile(means, 97.5, method="inverted_cdf"), abs=1e-9)


def test_the_interval_of_many_patients_is_the_normal_one_and_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    one = rng.normal(50, 10, 2000)
    low, high = statistics.bootstrap_mean(one)
    half = 1.96 * one.std(ddof=1) / math.sqrt(one.size)
    assert (low, high) == pytest.approx((one.mean() - half, one.mean() + half), abs=0.05 * half)
    many = rng.normal(50, 10, (600, 40))
    low, high = statistics.bootstrap_mean(many, resamples=999)
    assert 0.91 < ((low <= 50) & (high >= 50)).mean() < 0.97


def test_columns_are_independent_of_their_neighbours_and_of_gaps_elsewhere():
    rng = np.random.default_rng(2)
    table = rng.normal(size=(12, 4))
    holes = table.copy()
    holes[3, 2] = np.nan
    alone = [statistics.summarise(holes[:, [k]])[0] for k in range(4)]
    for together, single in zip(statistics.summarise(holes), alone, strict=True):
        assert dataclasses.astuple(together) == pytest.approx(dataclasses.astuple(single), rel=1e-12)
    assert statistics.summarise(holes, seed=1)[0].low != alone[0].low


def exact_wilcoxon(differences: np.ndarray) -> float:
    """Every assignment of signs to the ranks, counted."""
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    observed = ranks[differences > 0].sum()
    centre = ranks.sum() / 2
    sums = [np.dot(ranks, signs) for signs in itertools.product((0, 1), repeat=len(ranks))]
    return float(np.mean([abs(s - centre) >= abs(observed - centre) for s in sums]))


@pytest.mark.parametrize("n", [3, 5, 9])
def test_wilcoxon_equals_the_enumeration(n):
    rng = np.random.default_rng(n)
    rows = rng.normal(0.4, 1, (7, n))
    assert statistics.wilcoxon_paired(rows) == pytest.approx([exact_wilcoxon(row) for row in rows])


def test_wilcoxon_without_evidence_and_at_its_best():
    assert statistics.wilcoxon_paired(np.zeros((2, 6))).tolist() == [1.0, 1.0]
    assert float(statistics.wilcoxon_paired(np.array([1.0, 2.0, 3.0]))) == statistics.smallest_p(3) == 0.25
    assert float(statistics.wilcoxon_paired(np.arange(1.0, 9.0))) == statistics.smallest_p(8) == 2 / 2**8
    mixed = np.stack([np.zeros(8), np.arange(1.0, 9.0)])
    assert statistics.wilcoxon_paired(mixed).tolist() == [1.0, 2 / 2**8]


def test_wilcoxon_under_the_null_is_uniform():
    p = statistics.wilcoxon_paired(np.random.default_rng(5).normal(size=(3000, 25)))
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.012)


def test_holm_by_hand():
    # Holm 1979: the smallest times m, the next times m - 1, never below the one before
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.9]).tolist() == [1.0, 1.0]
    assert statistics.holm([]).size == 0
    for bad in ([-0.1], [1.5], [float("nan")], [[0.1]]):
        with pytest.raises(MrictError, match="between 0 and 1"):
            statistics.holm(bad)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_no_correction_and_bonferroni_and_keeps_the_order(p):
    p = np.array(p)
    adjusted = statistics.holm(p)
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(1, p * len(p)) + 1e-12).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()


def test_a_wrong_shape_is_named():
    with pytest.raises(MrictError, match=r"shape \(3,\)"):
        statistics.summarise(np.zeros(3))
