"""Scores of held-out patients.

3-D scores are taken on the original grid, against the CT read again from its file, inside the data set's own mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mrict_core import metrics
from mrict_core.data.plausible import MIN_MASK_VOXELS, sct_remarks
from mrict_core.errors import MrictError
from mrict_core.metrics.clinical import TISSUES

if TYPE_CHECKING:
    from mrict_core.data.store import SliceStore

Predict = Callable[["SliceStore", str], np.ndarray]  # (store, patient) => (N, S, S) HU, the patient's slices in order
Progress = Callable[[int, int, str], None]  # patients done, patients in all, the patient just finished


def columns() -> tuple[str, ...]:
    """Return the columns of a frame of scores: the patient, every recorded metric, what they stand on."""
    counts = (f"n_{tissue}" for tissue in TISSUES)
    return (
        *("patient", "centre", "n_slices", "n_voxels"),
        *metrics.recorded(),
        *counts,
        "ssim_dimensionality",
        "flags",
    )


@dataclass(frozen=True)
class Scores:
    """`frame`: one row per patient, see `columns`; `details`: curves behind the numbers, ready for json."""

    frame: pd.DataFrame
    details: dict[str, Any]


def score_patients(
    store: SliceStore,
    patients: Sequence[str],
    predict: Predict,
    progress: Progress | None = None,
) -> Scores:
    """Score `predict` on every patient.

    `predict` gives the patient's synthetic CT slices in HU on the store's canvas. Volumes are held one patient at a
    time.
    """
    rows, details = [], []
    for patient in patients:
        row, own = _score(store, patient, predict)
        rows.append(row)
        details.append({"patient": patient, **own})
        if progress:
            progress(len(rows), len(patients), patient)
    return Scores(pd.DataFrame(rows, columns=list(columns())), _by_kind(details))


def _score(store: SliceStore, patient: str, predict: Predict) -> tuple[dict[str, Any], dict[str, Any]]:
    slices = store.slices(patient)
    fake = np.asarray(predict(store, patient), dtype=np.float32)
    if fake.shape != slices.ct.shape:
        raise MrictError(f"patient {patient}: the prediction has shape {fake.shape}, the slices {slices.ct.shape}")
    if not np.isfinite(fake).all():
        raise MrictError(f"patient {patient}: the synthetic CT holds NaN or infinite values; the model has diverged")
    real, mask, _ = store.reference(patient)
    volume = store.to_volume(patient, fake)
    through_plane = store.meta(patient)["order"]["axes"][0]
    remarks = sct_remarks(volume, mask)
    if (voxels := int(np.count_nonzero(mask))) < MIN_MASK_VOXELS:
        remarks.append(f"{patient}: the mask holds {voxels} voxels only")
    on_canvas = (np.asarray(slices.ct, np.float32), fake, np.asarray(slices.mask) > 0)
    case = metrics.Case(real.array, volume, mask, real.affine, through_plane, on_canvas)
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
    return row, metrics.curves(case)


def _by_kind(details: list[dict[str, Any]]) -> dict[str, Any]:
    """Turn one record per patient into one per kind of curve: what patients share stands once, before their list."""
    if not details:
        return {}
    shared = {"calibration": "edges_hu", "wepl": "angles_deg"}
    return {
        kind: {
            axis: details[0][kind][axis],
            "patients": [
                {"patient": one["patient"], **{k: v for k, v in one[kind].items() if k != axis}} for one in details
            ],
        }
        for kind, axis in shared.items()
    }
