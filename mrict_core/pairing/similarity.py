"""Mutual information of two images on one grid: how much of one is known from the other."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from mrict_core.hu import PAIRING
from mrict_core.pairing.itk_grids import Grid, field_of_view, resample

BINS = 32


def binned(values: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Return values (any shape) as bins 0 … `bins` - 1, equally wide from the 0.5th to the 99.5th percentile."""
    low, high = np.percentile(values, (0.5, 99.5))
    return ((values - low) * (bins / max(high - low, 1e-9))).clip(0, bins - 1).astype(np.intp)


def mutual_information(first: np.ndarray, second: np.ndarray, bins: int = BINS) -> float:
    """Return the mutual information (nats) of two arrays of bins (integers 0 … `bins` - 1, one shape); 0 if empty."""
    if not first.size:
        return 0.0
    both = np.bincount((first * bins + second).ravel(), minlength=bins**2).reshape(bins, bins) / first.size
    apart = both.sum(1, keepdims=True) * both.sum(0, keepdims=True)
    seen = both > 0
    return float((both[seen] * np.log(both[seen] / apart[seen])).sum())


class Score:
    """What a pose is worth: the information that the CT has about the MR, over the whole body of the MR.

    A part of the body that the CT does not cover counts with none, so that a pose with a small overlap does not win by
    the little that it overlaps.
    """

    def __init__(self, mr: sitk.Image, ct: sitk.Image, mask: sitk.Image):
        """mr and mask (uint8, 1: counts) on one grid; ct clipped as for `register`."""
        self.ct, self.grid = ct, Grid.of(mr)
        self.inside = sitk.GetArrayViewFromImage(mask) > 0
        self.mr = binned(sitk.GetArrayViewFromImage(mr)[self.inside])

    def __call__(self, transform: sitk.Transform) -> float:
        """Return mutual information (nats) times the covered share, for a transform of MR points to CT points."""
        moved = sitk.GetArrayViewFromImage(resample(self.ct, self.grid, transform, fill=PAIRING.low))[self.inside]
        covered = sitk.GetArrayViewFromImage(field_of_view(self.ct, self.grid, transform))[self.inside] > 0
        ct = ((moved[covered] - PAIRING.low) * (BINS / PAIRING.width)).clip(0, BINS - 1).astype(np.intp)
        return mutual_information(self.mr[covered], ct) * float(covered.mean() if covered.size else 0)
