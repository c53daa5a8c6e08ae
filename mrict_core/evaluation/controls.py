"""Control images: what no model made, and what each metric makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from mrict_core import metrics
from mrict_core.data.intensity import HuWindow
from mrict_core.evaluation.predecessor import UNIT, Translation
from mrict_core.evaluation.scores import Predict

if TYPE_CHECKING:
    from mrict_core.data.store import SliceStore

BLACK_HU = -1000.0
BIAS_HU = 150.0
JUDGED = (  # what the blindness table looks at, in order
    *("mae_hu", "psnr_db", "ssim", "predecessor_mse", "predecessor_ssim", "corrected_mse", "corrected_ssim"),
    *("me_hu", "mae_bone_hu", "dice_bone_250", "wepl_mae_mm", "continuity", "mae_shift_hu"),
)
Make = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (MR as the window's HU, CT in HU), (N, H, W) => HU


def _shifted(_: np.ndarray, ct: np.ndarray) -> np.ndarray:
    """Move by one pixel along the rows; the first column is repeated."""
    return np.concatenate([ct[..., :1], ct[..., :-1]], axis=-1)


CONTROLS: dict[str, Make] = {
    "control_black": lambda mr, ct: np.full_like(ct, BLACK_HU),
    "control_copy_of_mr": lambda mr, ct: mr,
    "control_bias_150": lambda mr, ct: ct + np.float32(BIAS_HU),
    "control_shift_1": _shifted,
}


def control_predictors(store: SliceStore) -> dict[str, Predict]:
    """Return {name: predictor}: black (-1000 HU), the MR read as HU, the true CT + 150 HU, the true CT one pixel aside.

    The last two are made of the true CT: no model, and never ranked.
    """
    window = store.window

    def predictor(make: Make) -> Predict:
        def predict(store: SliceStore, patient: str) -> np.ndarray:
            slices = store.slices(patient)
            return make(window.to_hu(np.asarray(slices.mr, np.float32)), np.asarray(slices.ct, np.float32))

        return predict

    return {name: predictor(make) for name, make in CONTROLS.items()}


def control_translation(name: str, window: HuWindow) -> Translation:
    """Return a control as the predecessor's validation asks for it; `window` is what the store's [-1, 1] means."""

    def run(real_A: torch.Tensor, real_B: torch.Tensor) -> torch.Tensor:
        mr, ct = (part[:, 0].numpy() for part in (window.to_hu(real_A), UNIT.to_hu(real_B)))
        return torch.from_numpy(UNIT.to_unit(CONTROLS[name](mr, ct)))[:, None]

    return run


def blindness(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row per metric: what each control scores, what the best variant scores, and what the metric misses.

    `misses` follows from the numbers: the controls that score better than more than half of the variants, with how many
    they beat.
    """
    variants = [r for r in records if r["kind"] == "variant"]
    controls = [r for r in records if r["kind"] == "control"]
    rows = []
    for metric in JUDGED:
        worth = _worth(metric)
        models = [v for r in variants if (v := r["summary"]["all"][metric]["mean"]) is not None]
        row: dict[str, Any] = {"metric": metric, "best variant": max(models, key=worth) if models else None}
        misses = []
        for control in controls:
            value = control["summary"]["all"][metric]["mean"]
            row[control["name"]] = value
            beaten = sum(worth(value) > worth(model) for model in models) if value is not None else 0
            if models and beaten > len(models) / 2:
                short = control["name"].removeprefix("control_").replace("_", " ")
                misses.append(f"{short} beats {beaten} of {len(models)} variants")
        rows.append(row | {"misses": "; ".join(misses)})
    frame = pd.DataFrame(rows, columns=["metric", "best variant", *(c["name"] for c in controls), "misses"])
    return frame.astype(dict.fromkeys(frame.columns[1:-1], float))


def _worth(metric: str) -> Callable[[float], float]:
    """Return a function that is larger the better a value is."""
    return {
        "lower": lambda value: -value,
        "higher": lambda value: value,
        "zero": lambda value: -abs(value),
        "one": lambda value: -abs(value - 1),
    }[metrics.card(metric).better]
