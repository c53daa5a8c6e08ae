"""Calibration of the SD of samples on validation patients: split conformal prediction (Lei et al. 2018).

    factor = the 90 % quantile of |sCT - CT| / SD over the validation voxels of a class, over 1.645

The interval sCT ± 1.645 · factor · SD then holds 90 % of exchangeable voxels. Voxels of one patient are alike, so for a
new patient the share scatters around 90 %. A class is that of the synthetic CT, `metrics.uncertainty.CLASSES`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mrict_core.errors import MrictError
from mrict_core.metrics.uncertainty import CLASSES, HALF_WIDTH, LEVEL, class_of, floored

if TYPE_CHECKING:
    from mrict_core.data.cache.store import SliceStore
    from mrict_core.evaluation.predictions import StoredPredictions

FEWEST = 200  # voxels of a class; with fewer it gets the factor of all


def conformal_factor(error: np.ndarray, sd: np.ndarray) -> float:
    """Return the factor of the SD whose 90 % interval holds for a next exchangeable value.  # two of (n,), n >= 9

    The quantile is that of rank ceil(0.9 (n + 1)), from below. Infinite if more than a tenth of the SDs are 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(error > 0, error / floored(sd), 0.0)
    rank = math.ceil(LEVEL * (ratios.size + 1))
    if rank > ratios.size:
        raise MrictError(f"{ratios.size} voxels to calibrate an uncertainty with, expected at least 9; add patients")
    return float(np.partition(ratios, rank - 1)[rank - 1] / HALF_WIDTH)


def fitted_factors(
    store: SliceStore, patients: Sequence[str], predictions: StoredPredictions
) -> tuple[dict[str, float], str]:
    """Return {class: factor} from the masks of validation patients, and a line that says them."""
    errors, sds, classes = [], [], []
    for patient in patients:
        slices, hu = store.slices(patient), predictions.slices(patient)
        inside = np.asarray(slices.mask) > 0
        errors.append(np.abs(np.asarray(slices.ct, np.float32) - hu)[inside])
        sds.append(predictions.raw_sd(patient)[inside])
        classes.append(class_of(hu[inside]))
    error, sd, of = np.concatenate(errors), np.concatenate(sds), np.concatenate(classes)
    factors, few = {}, []
    for k, name in enumerate(CLASSES):
        own = of == k
        if np.count_nonzero(own) < FEWEST:
            own = np.ones_like(own)
            few.append(name)
        factors[name] = round(conformal_factor(error[own], sd[own]), 4)
    if not all(math.isfinite(factor) for factor in factors.values()):
        raise MrictError("the samples of more than a tenth of the validation voxels are all equal; train it longer")
    line = "SD of samples times " + ", ".join(f"{value:.2f} ({name})" for name, value in factors.items())
    return factors, line + (f"; too few voxels of {', '.join(few)}: the factor of all" if few else "")
