"""The Fréchet distance of fewer vectors than dimensions, where torchmetrics' rounding shows: against exact values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference.frechet import exact_frechet
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from mrict_core.metrics.frechet import Cloud, frechet_distance


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
    expected = exact_frechet(real, fake)
    assert frechet_distance(Cloud.of(real), Cloud.of(fake)) == pytest.approx(expected, rel=1e-10)


def test_what_differs_from_torchmetrics_is_torchmetrics_rounding():
    """It adds the roots of D - N eigenvalues that are 0 except for rounding, and is much less accurate than ours."""
    real, fake = clouds(8, 400)
    expected = exact_frechet(real, fake)
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
