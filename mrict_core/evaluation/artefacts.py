"""What generators do wrong, made from a true CT by known operations: which metric sees which fault?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import ndimage

from mrict_core import metrics
from mrict_core.evaluation.controls import shifted, unseen
from mrict_core.hu import BLACK_HU

if TYPE_CHECKING:
    from mrict_core.data.cache.store import SliceStore

CHECKERBOARD_HU = 100.0  # of every pixel, up and down in turn
DRIFT_HU = 150.0  # from -150 HU in the lowest slice to +150 HU in the highest
BLUR_PX = 1.5  # SD of the Gaussian
JUDGES = (
    *("mae_hu", "psnr_db", "ssim", "me_hu", "mae_bone_hu", "dice_bone_250"),
    *("wepl_mae_mm", "continuity", "mae_shift_hu"),
)


def _collapsed(ct: np.ndarray) -> np.ndarray:
    return np.broadcast_to(ct[len(ct) // 2], ct.shape)


def _checkerboard(ct: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(ct.shape[1:])
    return ct + CHECKERBOARD_HU * np.where((rows + columns) % 2, 1, -1)


def _drifted(ct: np.ndarray) -> np.ndarray:
    return ct + np.linspace(-DRIFT_HU, DRIFT_HU, len(ct))[:, None, None]


def _blurred(ct: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(ct, (0, BLUR_PX, BLUR_PX))


ARTEFACTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # CT in HU, (N, S, S) => the same with a fault
    "mode collapse": _collapsed,  # the middle slice everywhere: one output for every input
    "checkerboard": _checkerboard,  # uneven overlap of transposed convolutions
    "HU drift": _drifted,  # a level of its own for every slice
    "blur": _blurred,  # the mean of several possible images
    "shift": shifted,  # by one pixel along the rows
    "left-right flip": lambda ct: ct[..., ::-1],
}


def make_artefacts(store: SliceStore, patient: str) -> dict[str, np.ndarray]:
    """Return {name: a patient's CT with the fault}, (N, S, S) float32 HU on the cache's canvas."""
    ct = np.asarray(store.slices(patient).ct, np.float32)
    return {name: np.asarray(make(ct), np.float32) for name, make in ARTEFACTS.items()}


def judge_artefacts(store: SliceStore, patient: str) -> pd.DataFrame:
    """Return one row per fault: artefact, kind, the metrics in `JUDGES`, "seen by" and "unseen by".

    As for the controls, a metric sees a fault if its distance from the perfect value is at least 5 % of a black
    image's.
    """
    real, mask, _ = store.reference(patient)
    axis = store.meta(patient)["order"]["axes"][0]

    def scores(hu: np.ndarray) -> dict[str, float]:
        case = metrics.Case(real.array, store.to_volume(patient, hu), mask, real.affine, axis)
        return metrics.values(JUDGES, case)

    black = scores(np.full(store.slices(patient).ct.shape, BLACK_HU, np.float32))
    rows = []
    for name, image in make_artefacts(store, patient).items():
        found = scores(image)
        names: dict[bool, list[str]] = {True: [], False: []}  # by whether the fault is unseen
        for key, value in found.items():
            far = metrics.metric(key).distance
            if np.isfinite([value, black[key]]).all():
                names[unseen(value, black[key], far)].append(metrics.heading(key))
        rows.append(
            {
                "artefact": name,
                "kind": "control",
                **found,
                "seen by": ", ".join(names[False]),
                "unseen by": ", ".join(names[True]),
            }
        )
    return pd.DataFrame(rows)
