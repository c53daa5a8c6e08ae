"""The Fréchet distance of fewer vectors than dimensions, where torchmetrics' rounding shows: against exact values."""

from __future__ import annotations

import mpmath  # comes with torch (sympy)
import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from mrict_core.metrics.frechet import Cloud, frechet_distance

DIGITS = 60


def by_definition(real: np.ndarray, fake: np.ndarray) -> float:
    """|m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2) at 60 digits, through the eigenvalues of S1 S2."""
    basis, _ = np.linalg.qr(np.concatenate([real, fake]).T)  # no distance changes in a basis of all vectors
    means, covariances = [], []
    with mpmath.workdps(DIGITS):
        for cloud in (real, fake):
            rows = mpmath.matrix((cloud @ basis).tolist())
            mean = mpmath.matrix([mpmath.fsum(rows[:, j]) / rows.rows for j in range(rows.cols)])
            centred = mpmath.matrix(rows.rows, rows.cols)
            for i in range(rows.rows):
                centred[i, :] = rows[i, :] - mean.T
            means.append(mean)
            covariances.append(centred.T * centred / (rows.rows - 1))
        values = mpmath.eig(covariances[0] * covariances[1], left=False, right=False)
        traces = mpmath.fsum(s[i, i] for s in covariances for i in range(s.rows))
        shift = mpmath.norm(means[0] - means[1]) ** 2
        return float(shift + traces - 2 * mpmath.fsum(mpmath.re(mpmath.sqrt(value)) for value in values))


def by_torchmetrics(real: np.ndarray, fake: np.ndarray) -> float:
    class Given(nn.Module):
        num_features = real.shape[1]

        def forward(self, vectors: torch.Tensor) -> torch.Tensor:
            return vectors

    metric = FrechetInceptionDistance(feature=Given()).set_dtype(torch.float64)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(fake), real=False)
    return metric.compute().item()


def clouds(count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    real = rng.normal(size=(count, length)) * np.geomspace(1, 1e-3, length) + 1
    return real, 0.9 * real + 0.01 * rng.normal(size=(count, length))


@pytest.mark.parametrize(("count", "length"), [(7, 3), (7, 200), (10, 64)])
def test_it_is_the_definitions_value(count, length):
    real, fake = clouds(count, length)
    expected = by_definition(real, fake)
    assert frechet_distance(Cloud.of(real), Cloud.of(fake)) == pytest.approx(expected, rel=1e-10)


def test_what_differs_from_torchmetrics_is_torchmetrics_rounding():
    """It adds the roots of D - N eigenvalues that are 0 but for rounding, and ends up far further off than ours."""
    real, fake = clouds(8, 400)
    expected = by_definition(real, fake)
    ours, theirs = frechet_distance(Cloud.of(real), Cloud.of(fake)), by_torchmetrics(real, fake)
    assert theirs == pytest.approx(expected, rel=1e-3)
    assert abs(theirs - expected) > 100 * abs(ours - expected)


@pytest.mark.parametrize("count", [5, 40, 200])
def test_a_scaled_cloud(count):
    """Y = c X + t has the covariance c^2 S, so the distance is |(c - 1) m + t|^2 + (c - 1)^2 tr S, whatever N and D."""
    rng = np.random.default_rng(count)
    real, shift, c = rng.normal(size=(count, 64)) + 3, rng.normal(size=64), 1.3
    mean, trace = real.mean(axis=0), real.var(axis=0, ddof=1).sum()
    expected = np.square((c - 1) * mean + shift).sum() + (c - 1) ** 2 * trace
    assert frechet_distance(Cloud.of(real), Cloud.of(c * real + shift)) == pytest.approx(expected, rel=1e-11)
