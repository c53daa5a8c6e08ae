"""Scores of held-out patients.

3-D scores are taken on the original grid, against the CT read again from its file, inside the data set's own mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mrict_core import metrics
from mrict_core.errors import MrictError

if TYPE_CHECKING:
    from mrict_core.data.store import SliceStore

Predict = Callable[["SliceStore", str], np.ndarray]  # (store, patient) => (N, S, S) HU, the patient's slices in order
Progress = Callable[[int, int, str], None]  # patients done, patients in all, the patient just finished
METRICS = ("mae_hu", "psnr_db", "ssim", "predecessor_mse", "predecessor_ssim")
COLUMNS = (
    "patient",
    "centre",
    "n_slices",
    "n_voxels",
    "mae_hu",
    "psnr_db",
    "ssim",
    "ssim_dimensionality",
    "predecessor_mse",
    "predecessor_ssim",
)


def score_patients(
    store: SliceStore,
    patients: Sequence[str],
    predict: Predict,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return one row per patient with the columns `COLUMNS`.

    `predict` gives the patient's synthetic CT slices in HU on the store's canvas. Volumes are held one patient at a
    time.
    """
    rows = []
    for patient in patients:
        rows.append(_score(store, patient, predict))
        if progress:
            progress(len(rows), len(patients), patient)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _score(store: SliceStore, patient: str, predict: Predict) -> dict[str, Any]:
    slices = store.slices(patient)
    fake = np.asarray(predict(store, patient), dtype=np.float32)
    if fake.shape != slices.ct.shape:
        raise MrictError(f"patient {patient}: the prediction has shape {fake.shape}, the slices {slices.ct.shape}")
    if not np.isfinite(fake).all():
        raise MrictError(f"patient {patient}: the synthetic CT holds NaN or infinite values; the model has diverged")
    real, mask, _ = store.reference(patient)
    volume = store.to_volume(patient, fake)
    ssim = metrics.ssim(real.array, volume, mask)
    old = metrics.predecessor_scores(np.asarray(slices.ct, dtype=np.float32), fake)
    return {
        "patient": patient,
        "centre": store.centre(patient),
        "n_slices": len(fake),
        "n_voxels": int(np.count_nonzero(mask)),
        "mae_hu": metrics.mae_hu(real.array, volume, mask),
        "psnr_db": metrics.psnr_db(real.array, volume, mask),
        "ssim": ssim.value,
        "ssim_dimensionality": ssim.dimensionality,
        "predecessor_mse": old["mse"],
        "predecessor_ssim": old["ssim"],
    }
