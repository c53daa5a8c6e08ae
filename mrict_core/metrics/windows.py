"""Moments under a uniform window, plane by plane: the basis of every structural similarity in this suite.

A running sum along the slowest axis keeps only a few planes in memory; in-plane sums are OpenCV's box filter. All sums
are float64. Only the mask's bounding box plus a window is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mrict_core.machine import cpu_count

WINDOW = 7
PAD = WINDOW // 2
K1, K2 = 0.01, 0.03
Planes = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
# (plane of real, of fake, of the mask) => the two planes to compare, float64
MapValues = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
# (mean real, mean fake, sum of variances, covariance), each (n,) at the masked voxels => the map's values there


@dataclass(frozen=True)
class MapMean:
    """A map's sum over the masked voxels that have a full window, and their number."""

    total: float
    count: int

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else float("nan")


def ssim_map(width: float) -> MapValues:
    """Return the map of Wang et al. 2004 for intensities that span `width`: luminance times contrast-structure."""
    c1, c2 = (K1 * width) ** 2, (K2 * width) ** 2

    def values(ux: np.ndarray, uy: np.ndarray, variances: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        product = ux * uy
        return (2 * product + c1) * (2 * covariance + c2) / ((ux * ux + uy * uy + c1) * (variances + c2))

    return values


def map_mean(
    real: np.ndarray, fake: np.ndarray, inside: np.ndarray, values: MapValues, planes: Planes, depth: int = WINDOW
) -> MapMean:
    """Return the mean of a map inside a mask, away from the faces by half a window (the mask is not eroded).

    real, fake: volumes of one shape (3-D); inside: bool, the same shape. depth: planes of the window, WINDOW for a
    cube, 1 for a square in every plane of axis 0.
    """
    if depth > 1:  # planes in memory order are read fastest; a cube's map does not depend on the order of the axes
        order = np.argsort([-abs(stride) for stride in real.strides], kind="stable")
        real, fake, inside = (volume.transpose(order) for volume in (real, fake, inside))
    half = depth // 2
    margins = (half, PAD, PAD)
    box = _box(inside, margins)
    if box is None:
        return MapMean(0.0, 0)
    real, fake, inside = (volume[box] for volume in (real, fake, inside))
    count = len(inside) - 2 * half
    workers = min(cpu_count(), count)
    edges = np.linspace(0, count, workers + 1).astype(int)
    parts = [slice(start, stop + 2 * half) for start, stop in pairwise(edges)]

    def run(part: slice) -> MapMean:
        return _walk(real[part], fake[part], inside[part], values, planes, depth)

    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(run, parts))
    return MapMean(sum(part.total for part in found), sum(part.count for part in found))


def _box(inside: np.ndarray, margins: tuple[int, int, int]) -> tuple[slice, slice, slice] | None:
    """Return the smallest box with the windows of all masked voxels that have a full window; None without any."""
    interior = tuple(slice(m, length - m) for m, length in zip(margins, inside.shape, strict=True))
    core = inside[interior]
    if not core.any():
        return None
    box = []
    for axis, margin in enumerate(margins):
        used = np.flatnonzero(core.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(int(used[0]), int(used[-1]) + 1 + 2 * margin))  # core index i is volume index i + margin
    return tuple(box)


def _walk(
    real: np.ndarray, fake: np.ndarray, inside: np.ndarray, values: MapValues, planes: Planes, depth: int
) -> MapMean:
    """Return the map's sum over one slab; its first and last depth // 2 planes are only part of windows."""
    total, count, half = 0.0, 0, depth // 2
    size = depth * WINDOW * WINDOW
    core = (slice(PAD, -PAD), slice(PAD, -PAD))
    for place, sums in enumerate(_running_sums(real, fake, inside, planes, depth), start=half):
        mask = inside[place][core]
        if not mask.any():
            continue
        sum_x, sum_y, sum_squares, sum_xy = (plane[core][mask] for plane in sums)
        mean_x, mean_y = sum_x / size, sum_y / size
        # sample variances: divided by size - 1
        variances = (sum_squares - size * (mean_x * mean_x + mean_y * mean_y)) / (size - 1)
        covariance = (sum_xy - size * mean_x * mean_y) / (size - 1)
        total += float(values(mean_x, mean_y, variances, covariance).sum())
        count += mean_x.size
    return MapMean(total, count)


def _running_sums(
    real: np.ndarray, fake: np.ndarray, inside: np.ndarray, planes: Planes, depth: int
) -> Iterator[list[np.ndarray]]:
    """Yield for every full window the sums of x, y, x² + y² and xy, in reused arrays."""
    ring: list[list[np.ndarray]] = []
    running: list[np.ndarray] = []
    for k in range(len(real)):
        own = _plane_sums(*planes(real[k], fake[k], inside[k]))
        if not running:
            running = [np.zeros_like(part) for part in own]
        for total, part in zip(running, own, strict=True):
            total += part
        ring.append(own)
        if len(ring) < depth:
            continue
        yield running
        for total, part in zip(running, ring.pop(0), strict=True):
            total -= part


def _plane_sums(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    import cv2

    # Pixels at the border have no full window and are not used.
    return [
        cv2.boxFilter(part, cv2.CV_64F, (WINDOW, WINDOW), normalize=False, borderType=cv2.BORDER_CONSTANT)
        for part in (x, y, x * x + y * y, x * y)
    ]
