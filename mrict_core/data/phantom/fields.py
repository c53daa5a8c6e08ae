"""Voxel grids, and smooth random fields: sums of plane waves in patient space, independent of the grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Grid:
    """A voxel grid: `affine` (4, 4) maps indices to RAS+ millimetres, `shape` is (n0, n1, n2)."""

    affine: np.ndarray
    shape: tuple[int, int, int]

    @property
    def spacing_mm(self) -> np.ndarray:
        """Return the voxel size along the three array axes (mm)."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    def refined(self, factor: int) -> Grid:
        """Return the grid with every voxel split into `factor` along each axis."""
        affine = self.affine.copy()
        affine[:3, :3] /= factor
        affine[:3, 3] -= affine[:3, :3] @ np.full(3, (factor - 1) / 2)
        return Grid(affine, tuple(n * factor for n in self.shape))

    def part(self, box: Box) -> Grid:
        """Return the grid of the sub-array `box`."""
        start = np.array([s.start for s in box])
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ start
        return Grid(affine, tuple(s.stop - s.start for s in box))

    def box_of(self, corners_mm: np.ndarray) -> Box | None:
        """Return the smallest index box around the points (N, 3) in RAS+ mm; None outside the grid."""
        index = np.linalg.solve(self.affine[:3, :3], (corners_mm - self.affine[:3, 3]).T)
        low = np.maximum(np.floor(index.min(1)).astype(int), 0)
        high = np.minimum(np.ceil(index.max(1)).astype(int) + 1, self.shape)
        if np.any(high <= low):
            return None
        return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))

    def axes(self, row: np.ndarray) -> list[np.ndarray]:
        """Return three broadcastable arrays whose sum is `row @ position` at every voxel."""
        slopes = row @ self.affine[:3, :3]
        parts = [slopes[n] * np.arange(self.shape[n]) for n in range(3)]
        parts[0] = parts[0] + row @ self.affine[:3, 3]
        return [p.reshape([-1 if n == m else 1 for m in range(3)]) for n, p in enumerate(parts)]


class WaveField:
    """A stationary Gaussian-like random field: `count` plane waves of random direction, wavelength (mm) and phase.

    `along` stretches the structures along z by that factor.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        wavelengths_mm: tuple[float, float],
        rms: float,
        count: int = 16,
        along: float = 1.0,
    ):
        direction = rng.standard_normal((count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        wavelength = rng.uniform(*wavelengths_mm, size=(count, 1))
        self.wave = 2 * np.pi * direction / wavelength / (1, 1, along)  # rad/mm
        self.phase = rng.uniform(0, 2 * np.pi, count)
        self.amplitude = rms * np.sqrt(2 / count)

    @property
    def rms_slope(self) -> float:
        """Return the root mean square of the field's directional derivative across its level sets (units per mm)."""
        return float(self.amplitude * np.sqrt(0.5 * (self.wave**2).sum()))

    def on(self, grid: Grid) -> np.ndarray:
        """Return the field on `grid`, float32 (n0, n1, n2).

        cos(a + b + c) is the real part of a product of three one-axis exponentials, so the sum over waves is one
        contraction. `einsum` without BLAS keeps the bits independent of the number of threads.
        """
        phases = self.wave @ grid.affine[:3, :3]  # (K, 3) rad per voxel step
        first, second, third = (np.exp(1j * np.outer(np.arange(n), phases[:, a])) for a, n in enumerate(grid.shape))
        first = first * (self.amplitude * np.exp(1j * (self.wave @ grid.affine[:3, 3] + self.phase)))
        plane = first[:, None, :] * second[None, :, :]
        plane = np.concatenate([plane.real, -plane.imag], axis=-1).astype(np.float32)
        line = np.concatenate([third.real, third.imag], axis=-1).astype(np.float32)
        return np.einsum("ijk,lk->ijl", plane, line, optimize=False)
