"""Does a model's uncertainty keep its word? For models that draw samples.

The SD is calibrated, see `evaluation.conformal`.
Volumes are HU, one 3-D shape; inside is mask > 0. The 90 % interval of a voxel is sCT ± 1.645 SD.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mrict_core.hu import AIR_BELOW_HU, BONE_ABOVE_HU
from mrict_core.metrics.metric import Metric

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mrict_core.metrics.case import Case

NAN = float("nan")
LEVEL = 0.9
HALF_WIDTH = 1.6448536269514722  # SD of a normal distribution on either side of its middle 90 %
REMOVED = np.linspace(0, 0.95, 20)  # shares of the voxels that a sparsification removes
LEAST_HU = 1.0  # of an SD: files hold whole HU
CLASSES = ("air", "soft", "bone")  # by the synthetic CT: of a new patient nothing else is known


def class_of(sct: np.ndarray) -> np.ndarray:
    """Return the position in `CLASSES` of each voxel of a synthetic CT in HU: the bounds of the clinical panel."""
    return np.where(sct < AIR_BELOW_HU, 0, np.where(sct <= BONE_ABOVE_HU, 1, 2))


def floored(sd: np.ndarray) -> np.ndarray:
    """Return the SD in HU, at least `LEAST_HU` where there is any: samples in air may all end at the window's floor."""
    return np.where(sd > 0, np.maximum(sd, np.float32(LEAST_HU)), np.float32(0))


def calibrated(sd: np.ndarray, sct: np.ndarray, factors: Mapping[str, float]) -> np.ndarray:
    """Return the SD times the factor of each voxel's class.  # two of one shape => float32"""
    return (floored(sd) * np.array([factors[name] for name in CLASSES], np.float32)[class_of(sct)]).astype(np.float32)


def coverage(error: np.ndarray, sd: np.ndarray) -> float:
    """Return the share of |error| that is at most 1.645 SD; NaN of no voxel."""
    return float(np.mean(error <= HALF_WIDTH * sd)) if error.size else NAN


@dataclass(frozen=True)
class Sparsification:
    """The MAE of the voxels that remain, as a share of the MAE of all, after removing a share (Ilg et al. 2018)."""

    removed: np.ndarray  # (20,)
    by_sd: np.ndarray  # the most uncertain ones first
    by_error: np.ndarray  # the wrongest ones first: the best possible

    @property
    def area(self) -> float:
        """Area between both curves, AUSE; 0 is perfect, and without any relation it is that of the best to 1."""
        return float(np.trapezoid(self.by_sd - self.by_error, self.removed))


def sparsification(error: np.ndarray, sd: np.ndarray) -> Sparsification:
    """Return the curves of |error| and SD, both (n,)."""
    error = np.asarray(error, np.float64)

    def remaining(ranked_by: np.ndarray) -> np.ndarray:
        sums = np.cumsum(error[np.argsort(ranked_by, kind="stable")])
        kept = np.maximum(1, np.round((1 - REMOVED) * error.size)).astype(int)
        return sums[kept - 1] / kept / max(error.mean(), np.finfo(float).tiny)

    return Sparsification(REMOVED, remaining(sd), remaining(error))


def inside_of(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return |sCT - CT| and the calibrated SD of the mask's voxels, (n,) each."""
    return np.abs(case.sct - case.ct)[case.inside], case.sd_hu[case.inside]


def spearman(error: np.ndarray, sd: np.ndarray) -> float:
    """Return the rank correlation of |error| and SD, (n,); NaN if one is constant."""
    from scipy.stats import rankdata

    a, b = (rankdata(values) for values in (error, sd))
    return float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else NAN


def curves(case: Case) -> dict[str, Any]:
    """Return the curves behind the numbers, ready for json; {} without an SD."""
    if case.sd_hu is None:
        return {}
    error, sd = inside_of(case)
    found, classes = sparsification(error, sd), class_of(case.sct[case.inside])
    shares = {name: coverage(error[classes == k], sd[classes == k]) for k, name in enumerate(CLASSES)}
    return {
        "sparsification": {
            "removed": found.removed.tolist(),
            "by_sd": found.by_sd.tolist(),
            "by_error": found.by_error.tolist(),
        },
        "coverage": {"level": LEVEL, "share": {"all": coverage(error, sd), **shares}},
    }


_row = partial(
    Metric,
    unit="1",
    digits=3,
    panels=("uncertainty",),
    range="HU without clipping",
    mask="the data set's own mask, mask > 0, on the original grid",
    dimensionality="3D",
    aggregation="one value per case; mean over the cases that have one; SD with ddof 1",
    absent="the model draws no samples, so it gives no SD",
)

METRICS = (
    _row(
        *("coverage_gap_90", "90 % coverage, gap (points)", "share of CT voxels in the 90 % interval, less 90 %"),
        unit="points",
        digits=1,
        better="zero",
        note="100 times the share of voxels with |sCT - CT| of at most 1.645 calibrated SD, less 90; above 0 the "
        "intervals are too wide, below too narrow. The SD over samples times a factor for each class of HU, fitted on "
        "the validation patients (split conformal prediction)",
        value=lambda case: NAN if case.sd_hu is None else 100 * (coverage(*inside_of(case)) - LEVEL),
    ),
    _row(
        *("ause", "AUSE", "area under the sparsification error curve"),
        better="lower",
        note="how far the SD ranks voxels from how the error itself would: removing voxels by SD, and by |sCT - CT|, "
        "the area between the relative MAEs of the rest, from 0 to 95 % removed (Ilg et al. 2018)",
        value=lambda case: NAN if case.sd_hu is None else sparsification(*inside_of(case)).area,
    ),
    _row(
        *("spearman_sd", "Spearman |error|, SD", "rank correlation of absolute error and SD"),
        better="higher",
        note="Spearman's rank correlation of |sCT - CT| and SD over the mask",
        value=lambda case: NAN if case.sd_hu is None else spearman(*inside_of(case)),
    ),
)
