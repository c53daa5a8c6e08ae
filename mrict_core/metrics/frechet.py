"""The Fréchet distance of two clouds of feature vectors, through the smaller of N and D.

|m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2), with the means m and the sample covariances S of N vectors in D
dimensions (Dowson and Landau 1982; Heusel et al. 2017). With S = R^T R the last trace is the sum of the singular values
of R1 R2^T, because their squares are the nonzero eigenvalues of S1 S2. With fewer vectors than dimensions that matrix
is N x N, not D x D, and rounding errors of the D - N zeros do not enter the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mrict_core.errors import MrictError


@dataclass(frozen=True)
class Cloud:
    """Moments of one cloud."""

    mean: np.ndarray  # (D,) float64
    root: np.ndarray  # (min(N, D), D) float64; root.T @ root is the sample covariance

    @classmethod
    def of(cls, vectors: np.ndarray) -> Cloud:
        """Return the moments of vectors, (N, D) with N of 2 or more."""
        count, length = vectors.shape
        if count < 2:
            raise MrictError(f"the Fréchet distance needs at least 2 slices, got {count}; score more slices")
        vectors = vectors.astype(np.float64)
        mean = vectors.mean(axis=0)
        root = (vectors - mean) / np.sqrt(count - 1)
        return cls(mean, root if count <= length else np.linalg.qr(root, mode="r"))

    @property
    def total_variance(self) -> float:
        return float(np.square(self.root).sum())


def frechet_distance(real: Cloud, fake: Cloud) -> float:
    """Return the Fréchet distance of two clouds, at least 0."""
    shift = float(np.square(real.mean - fake.mean).sum())
    overlap = float(np.linalg.svd(real.root @ fake.root.T, compute_uv=False).sum())
    return max(0.0, shift + real.total_variance + fake.total_variance - 2 * overlap)  # rounding may leave -1e-15


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the vectors of all parts, (N, D); `Cloud.of` refuses an empty result."""
    return np.concatenate(parts) if parts else np.empty((0, 1))
