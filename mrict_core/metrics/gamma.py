"""Gamma index of two doses: is there, near each point, a dose close to the reference's?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

REACH = 1.5  # of the distance criterion: the search ends there, and larger values of gamma are unknown
STEPS = 10  # of the search for each distance criterion
CUT = 0.1  # of the prescription: points below it in the reference are not judged
ROUNDING = 1e-5  # doses are float32: a difference of exactly the criterion passes


@dataclass(frozen=True)
class Criterion:
    """Dose difference in percent of the prescription, and distance in mm."""

    percent: float
    distance_mm: float

    def __str__(self) -> str:
        return f"{self.percent:g} %/{self.distance_mm:g} mm"


def gamma_index(
    reference: np.ndarray,
    other: np.ndarray,
    spacing_mm: Sequence[float],
    dose_gy: float,
    criterion: Criterion,
    where: np.ndarray | None = None,
) -> np.ndarray:
    """Return gamma (Low et al., Medical Physics 25, 1998, 656) at the points of a dose grid, NaN elsewhere.

    reference, other: Gy, any number of axes, one shape, spacing_mm along each. Global: the dose criterion is a share of
    the prescription `dose_gy`. Judged are points of the reference above `CUT` of it, in `where` if given. `other` is
    interpolated linearly in steps of a tenth of the distance criterion; values are at most `REACH`, where the search
    ends. A point passes at gamma <= 1.
    """
    judged = reference > CUT * dose_gy
    if where is not None:
        judged &= where
    found = np.full(reference.shape, np.nan)
    found[judged] = _search(reference[judged], np.argwhere(judged).T, other, np.asarray(spacing_mm), dose_gy, criterion)
    return found


def _search(
    doses: np.ndarray,
    places: np.ndarray,
    other: np.ndarray,
    spacing_mm: np.ndarray,
    dose_gy: float,
    criterion: Criterion,
) -> np.ndarray:
    """Return gamma of points (axes, points), nearest offsets first, until no farther one can be better."""
    allowed = criterion.percent / 100 * dose_gy
    best = np.full(len(doses), REACH**2)
    open_points = np.arange(len(doses))
    for distance, offset in _offsets(other.ndim):
        if distance >= np.sqrt(best[open_points].max(initial=0.0)):
            break
        open_points = open_points[best[open_points] > distance**2]
        shift = offset * criterion.distance_mm / spacing_mm
        sampled = ndimage.map_coordinates(other, places[:, open_points] + shift[:, None], order=1, mode="nearest")
        here = distance**2 + ((sampled - doses[open_points]) / allowed) ** 2
        best[open_points] = np.minimum(best[open_points], here)
    return np.sqrt(best)


def _offsets(axes: int) -> list[tuple[float, np.ndarray]]:
    """Return (distance, offset) within `REACH`, in units of the distance criterion, the nearest first."""
    steps = np.arange(-int(REACH * STEPS), int(REACH * STEPS) + 1) / STEPS
    grid = np.stack(np.meshgrid(*[steps] * axes, indexing="ij"), -1).reshape(-1, axes)
    distances = np.linalg.norm(grid, axis=1)
    near = np.argsort(distances, kind="stable")
    return [(float(distances[i]), grid[i]) for i in near if distances[i] < REACH]


def pass_rate(gamma: np.ndarray) -> float:
    """Return the share of judged points with gamma <= 1, in percent; NaN without points."""
    judged = np.isfinite(gamma)
    return float(100 * (gamma[judged] <= 1 + ROUNDING).mean()) if judged.any() else float("nan")
