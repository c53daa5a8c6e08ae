"""Statistics over patients, from one value per patient and metric: intervals and tests, seeded and vectorised.

The patient is the unit, because slices of one patient are not independent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mrict_core.errors import MrictError

RESAMPLES = 9999
LEVEL = 0.95
SEED = 0


@dataclass(frozen=True)
class Summary:
    """Statistics of one metric over n patients; None with too few patients."""

    mean: float | None
    sd: float | None  # ddof 1
    median: float | None
    low: float | None  # of the bootstrap interval of the mean
    high: float | None
    n: int


def summarise(values: np.ndarray, *, resamples: int = RESAMPLES, seed: int = SEED) -> list[Summary]:
    """Return one summary per column of `values`, (patients, metrics) float; values that are not finite do not count.

    The interval is the 95 % percentile bootstrap of the mean over patients (Efron 1979). It needs two patients and is
    too narrow for fewer than about ten, because resampling adds no new patients.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2:
        raise MrictError(f"statistics need one row per patient and one column per metric; got shape {values.shape}")
    finite = np.isfinite(values)
    found: list[Summary | None] = [None] * values.shape[1]
    patterns, which = np.unique(finite, axis=1, return_inverse=True)
    for number, pattern in enumerate(patterns.T):  # columns with the same patients share their resamples
        columns = np.flatnonzero(which.ravel() == number)
        known = values[np.ix_(pattern, columns)]
        low, high = bootstrap_mean(known.T, resamples=resamples, seed=seed)
        for place, column in enumerate(columns):
            found[column] = _summary(known[:, place], low[place], high[place])
    return found


def _summary(known: np.ndarray, low: float, high: float) -> Summary:
    n = known.size
    return Summary(
        mean=float(known.mean()) if n else None,
        sd=float(known.std(ddof=1)) if n > 1 else None,
        median=float(np.median(known)) if n else None,
        low=float(low) if n > 1 else None,
        high=float(high) if n > 1 else None,
        n=n,
    )


def bootstrap_mean(
    samples: np.ndarray, *, resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[np.ndarray, np.ndarray]:
    """Return (low, high) of the 95 % percentile bootstrap of the mean, (..., n) => (...) twice; NaN where n < 2."""
    from scipy.stats import bootstrap

    samples = np.asarray(samples, np.float64)
    if samples.shape[-1] < 2:
        nothing = np.full(samples.shape[:-1], np.nan)
        return nothing, nothing
    found = bootstrap(
        (samples,),
        np.mean,
        axis=-1,
        n_resamples=resamples,
        batch=1000,  # bounds the memory
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return np.asarray(found.confidence_interval.low), np.asarray(found.confidence_interval.high)


def wilcoxon_paired(differences: np.ndarray) -> np.ndarray:
    """Return the two-sided p of the Wilcoxon signed-rank test along the last axis, (..., n) => (...).

    Zero differences are dropped (Wilcoxon 1945); all zero, or no patient, gives 1. Exact for few patients, the normal
    approximation for many, as SciPy chooses.
    """
    from scipy.stats import wilcoxon

    differences = np.asarray(differences, np.float64)
    rows = differences.reshape(-1, differences.shape[-1])
    p = np.ones(len(rows))
    some = (rows != 0).any(axis=1)
    if some.any():
        p[some] = wilcoxon(rows[some], axis=1).pvalue
    return p.reshape(differences.shape[:-1])


def smallest_p(n: int) -> float:
    """Return the smallest two-sided p of the signed-rank test with n patients: 2 / 2^n."""
    return min(1.0, 2.0 ** (1 - n))


def holm(p: np.ndarray) -> np.ndarray:
    """Return the p values adjusted for their number by Holm's step-down procedure (1979), (m,) => (m,)."""
    p = np.asarray(p, np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise MrictError(f"Holm's correction needs a list of p values between 0 and 1; got {p!r}")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
