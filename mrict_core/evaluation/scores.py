"""Scores of held-out patients.

Predictions are scored in whole HU, as stored in files. 3-D scores are computed on the original grid, against the CT
read from its file, inside the data set's own mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mrict_core import metrics
from mrict_core.data.checks.hu_values import MIN_MASK_VOXELS, sct_remarks
from mrict_core.evaluation.predictions import Predictions
from mrict_core.metrics import uncertainty
from mrict_core.metrics.clinical import TISSUES

if TYPE_CHECKING:
    from mrict_core.data.cache.store import SliceStore
    from mrict_core.metrics.feature_distances import FeatureCollector

Progress = Callable[[int, int, str], None]  # patients done, patients in all, the patient just finished


def columns() -> tuple[str, ...]:
    """Return the columns of a frame of scores: patient, every recorded metric, voxel counts and flags."""
    counts = (f"n_{tissue}" for tissue in TISSUES)
    facts = ("patient", "centre", "n_slices", "n_voxels")
    return (*facts, *metrics.recorded(), *counts, "ssim_dimensionality", "flags")


@dataclass(frozen=True)
class Scores:
    """`frame`: one row per patient, see `columns`; `details`: curves behind the numbers, ready for json."""

    frame: pd.DataFrame
    details: dict[str, Any]


def score_patients(
    store: SliceStore,
    patients: Sequence[str],
    predictions: Predictions,
    progress: Progress | None = None,
    features: FeatureCollector | None = None,
) -> Scores:
    """Score the synthetic CT of every patient, one at a time; `features` collects the same slices."""
    rows, details = [], []
    for patient in patients:
        fake = predictions.slices(patient).astype(np.float32)
        row, own = _score(store, patient, fake, predictions.sd(patient))
        rows.append(row)
        details.append({"patient": patient, **own})
        if features:
            slices = store.slices(patient)
            features.add(np.asarray(slices.ct, np.float32), fake, np.asarray(slices.mask) > 0)
        if progress:
            progress(len(rows), len(patients), patient)
    return Scores(pd.DataFrame(rows, columns=list(columns())), _by_kind(details))


def _score(
    store: SliceStore, patient: str, fake: np.ndarray, sd: np.ndarray | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    slices = store.slices(patient)
    real, mask, _ = store.reference(patient)
    volume = store.to_volume(patient, fake)
    through_plane = store.meta(patient)["order"]["axes"][0]
    remarks = sct_remarks(volume, mask)
    if (voxels := int(np.count_nonzero(mask))) < MIN_MASK_VOXELS:
        remarks.append(f"{patient}: the mask has only {voxels} voxels")
    on_canvas = (np.asarray(slices.ct, np.float32), fake, np.asarray(slices.mask) > 0)
    spread = None if sd is None else np.maximum(store.to_volume(patient, sd), 0)  # it has air where no slice is
    case = metrics.Case(real.array, volume, mask, real.affine, through_plane, on_canvas, sd_hu=spread)
    row = {
        "patient": patient,
        "centre": store.centre(patient),
        "n_slices": len(fake),
        "n_voxels": voxels,
        **metrics.values(metrics.recorded(), case),
        **metrics.counts(case),
        "ssim_dimensionality": metrics.structure(case).dimensionality,
        "flags": "; ".join(remarks),
    }
    return row, metrics.curves(case) | uncertainty.curves(case)


def _by_kind(details: list[dict[str, Any]]) -> dict[str, Any]:
    """Turn curves per patient into one entry per kind of curve; the axis shared by patients is stored once."""
    if not details:
        return {}
    shared = {"calibration": "edges_hu", "wepl": "angles_deg", "sparsification": "removed", "coverage": "level"}
    return {
        kind: {
            axis: details[0][kind][axis],
            "patients": [
                {"patient": one["patient"], **{k: v for k, v in one[kind].items() if k != axis}} for one in details
            ],
        }
        for kind, axis in shared.items()
        if kind in details[0]
    }
