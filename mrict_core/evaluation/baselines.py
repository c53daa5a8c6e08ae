"""Trivial predictors. A model that does not beat all of them has learned nothing useful.

They use what a model uses: the MR, its body mask and the *training* patients' CT. Outside the body mask all give air.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from mrict_core.errors import MrictError
from mrict_core.evaluation.predictions import Predictions
from mrict_core.hu import AIR_FLOOR_HU, WATER_HU

if TYPE_CHECKING:
    from mrict_core.data.cache.store import SliceStore

AXIAL_BINS = 16  # of the mean CT, from the lowest slice to the highest


def baseline_predictions(store: SliceStore, train_patients: Sequence[str]) -> dict[str, Predictions]:
    """Return {name: predictions}. Each is fitted on first use, one training patient at a time.

    - `baseline_water_body`: 0 HU in the body.
    - `baseline_mean_ct`: the voxelwise mean training CT on the canvas at the same relative axial position.
    - `baseline_rank_map`: the patient's MR, rank by rank, mapped to the histogram of the training CT inside the body.
    - `baseline_input`: a CBCT as it is; only where the input is in HU.

    The second and third are fitted on the training patients of the patient's own plane, or on all if it has none.
    """
    if not train_patients:
        raise MrictError("the baselines need at least one training patient; make a split that has one")

    def of_plane(plane: str) -> Sequence[str]:
        return [patient for patient in train_patients if store.plane(patient) == plane] or train_patients

    mean_ct = cache(lambda plane: _mean_ct(store, of_plane(plane)))
    distribution = cache(lambda plane: _ct_distribution(store, of_plane(plane)))

    def water_body(store: SliceStore, patient: str) -> np.ndarray:
        body = np.asarray(store.slices(patient).body) > 0
        return _in_body(np.full(body.shape, WATER_HU), body)

    def mean_training_ct(store: SliceStore, patient: str) -> np.ndarray:
        body = np.asarray(store.slices(patient).body) > 0
        return _in_body(mean_ct(store.plane(patient))[_axial_bins(len(body))], body)

    def rank_map(store: SliceStore, patient: str) -> np.ndarray:
        slices = store.slices(patient)
        body = np.asarray(slices.body) > 0
        mr = np.asarray(slices.mr, dtype=np.float32)
        hu = np.full(body.shape, AIR_FLOOR_HU, dtype=np.float32)
        hu[body] = np.interp(_ranks(mr[body]), *distribution(store.plane(patient)))
        return hu

    def as_it_is(store: SliceStore, patient: str) -> np.ndarray:
        slices = store.slices(patient)
        return _in_body(store.modality.window.to_hu(np.asarray(slices.mr)), np.asarray(slices.body) > 0)

    predictors = {
        "baseline_water_body": water_body,
        "baseline_mean_ct": mean_training_ct,
        "baseline_rank_map": rank_map,
    }
    if store.modality.window:
        predictors["baseline_input"] = as_it_is
    return {name: Predictions(store, predict) for name, predict in predictors.items()}


def _in_body(hu: np.ndarray, body: np.ndarray) -> np.ndarray:
    return np.where(body, hu, AIR_FLOOR_HU).astype(np.float32)


def _axial_bins(count: int) -> np.ndarray:
    """Return the axial bin of each of a patient's `count` slices, lowest slice first; a single one is central."""
    return ((np.arange(count) + 0.5) * AXIAL_BINS / count).astype(int)


def _mean_ct(store: SliceStore, patients: Sequence[str]) -> np.ndarray:
    """Return the mean CT of every axial bin, (AXIAL_BINS, S, S) HU; a bin without slices takes its neighbour's."""
    total = np.zeros((AXIAL_BINS, store.size, store.size))
    counts = np.zeros(AXIAL_BINS, dtype=int)
    for _, ct in _training_slices(store, patients):
        for index, image in zip(_axial_bins(len(ct)), ct, strict=True):
            total[index] += image
            counts[index] += 1
    filled = np.flatnonzero(counts)
    nearest = filled[np.abs(np.arange(AXIAL_BINS)[:, None] - filled).argmin(axis=1)]
    return (total[nearest] / counts[nearest, None, None]).astype(np.float32)


def _ct_distribution(store: SliceStore, patients: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the distribution of the training CT inside body and scoring mask: (cumulative fractions, their HU)."""
    histogram = np.zeros(1, dtype=np.int64)
    for inside, ct in _training_slices(store, patients):
        levels = np.clip(np.rint(ct[inside]) - AIR_FLOOR_HU, 0, None).astype(np.int64)
        found = np.bincount(levels, minlength=histogram.size)
        found[: histogram.size] += histogram
        histogram = found
    if not histogram.sum():
        raise MrictError("the training patients' body and scoring masks do not overlap; check their mask files")
    present = np.flatnonzero(histogram)
    counts = histogram[present]
    return (np.cumsum(counts) - counts / 2) / counts.sum(), (present + AIR_FLOOR_HU).astype(np.float64)


def _training_slices(store: SliceStore, patients: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (inside body and scoring mask, CT in HU) patient by patient."""
    for patient in patients:
        slices = store.slices(patient)
        inside = (np.asarray(slices.body) > 0) & (np.asarray(slices.mask) > 0)
        yield inside, np.asarray(slices.ct, dtype=np.float32)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return every value's mean rank as a fraction in (0, 1); equal values share a rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return ((np.cumsum(counts) - counts / 2) / values.size)[inverse]
