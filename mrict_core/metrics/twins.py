"""The corrected twins of the predecessor's numbers, on the same scale.

Against `predecessor_mse` and `predecessor_ssim`: inside the scoring mask instead of the whole slice, one fixed range
instead of each slice's own, every voxel of a case with the same weight. Slices (N, H, W) in HU; the window [-1000,
1000] HU is kept, so that a twin differs from its original in nothing else.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from mrict_core.errors import MrictError
from mrict_core.hu import PREDECESSOR
from mrict_core.metrics import windows
from mrict_core.metrics.metric import Metric
from mrict_core.metrics.predecessor import check_stacks, to_unit

UNIT_RANGE = 2.0  # of [-1, 1]


def corrected_mse(real_hu: np.ndarray, fake_hu: np.ndarray, mask: np.ndarray) -> float:
    """Return the mean squared error over the masked voxels of all slices; 1 unit is 1000 HU."""
    real, fake, inside = _checked(real_hu, fake_hu, mask)
    return float(np.square(real[inside].astype(np.float64) - fake[inside]).mean())


def corrected_ssim(real_hu: np.ndarray, fake_hu: np.ndarray, mask: np.ndarray) -> float:
    """Return the structural similarity over the masked voxels of all slices; NaN if none has a whole window.

    Per slice: outside the mask both are air (-1), uniform 7x7 window, sample covariance, K1 0.01, K2 0.03, data_range
    2. As in scikit-image's mean, the 3 pixels at a slice's edges, without a whole window, are excluded.
    """
    real, fake, inside = _checked(real_hu, fake_hu, mask)

    def planes(x: np.ndarray, y: np.ndarray, m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return tuple(np.where(m, plane, -1.0).astype(np.float64) for plane in (x, y))

    return windows.map_mean(real, fake, inside, windows.ssim_map(UNIT_RANGE), planes, depth=1).mean


def _checked(real_hu: np.ndarray, fake_hu: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    real, fake, inside = to_unit(real_hu), to_unit(fake_hu), np.asarray(mask) > 0
    check_stacks(real, fake)
    if inside.shape != real.shape or not inside.any():
        raise MrictError(
            f"the mask must have the slices' shape {real.shape} and at least one voxel; it has {inside.shape}"
        )
    return real, fake, inside


_RANGE = f"{PREDECESSOR} clipped and mapped to [-1, 1], the same for every slice"
_MASK = "the data set's own mask, mask > 0, on the canvas"
_row = partial(
    Metric,
    panels=("predecessor", "controls"),
    dimensionality="2D",
    aggregation="pooled over the masked voxels of a case's slices; mean over the cases; SD with ddof 1",
)

METRICS = (
    _row(
        *("corrected_mse", "corr. MSE", "corrected MSE", "1", 4, "lower"),
        range=_RANGE,
        mask=_MASK,
        note="predecessor_mse without the background; 1 unit is 1000 HU; no augmentation",
        value=lambda case: corrected_mse(*case.slices),
        error=lambda mse: mse**0.5,
    ),
    _row(
        *("corrected_ssim", "corr. SSIM", "corrected SSIM", "1", 4, "higher"),
        range=f"{_RANGE}; data_range 2",
        mask=f"{_MASK}; air outside it; without the 3 pixels at a slice's edges",
        note="predecessor_ssim without the background and with one range for all slices; no augmentation",
        value=lambda case: corrected_ssim(*case.slices),
    ),
)
