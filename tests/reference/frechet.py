"""The Fréchet distance of two sets of vectors by its definition, in float64 and at 60 digits."""

from __future__ import annotations

import mpmath  # comes with torch (sympy)
import numpy as np

DIGITS = 60


def frechet(real: np.ndarray, fake: np.ndarray) -> float:
    """Return |m1 - m2|² + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2) of (N, D) and (M, D), for more vectors than dimensions."""
    covariances = [np.cov(cloud.T) for cloud in (real, fake)]
    root = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)).real.sum()
    shift = np.square(real.mean(0) - fake.mean(0)).sum()
    return float(shift + sum(np.trace(s) for s in covariances) - 2 * root)


def exact_frechet(real: np.ndarray, fake: np.ndarray) -> float:
    """Return the same at 60 digits, for any number of vectors."""
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
