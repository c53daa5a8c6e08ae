"""Control images: images not made by a model, and how each metric scores them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mrict_core import metrics
from mrict_core.evaluation.predictions import Predict, Predictions
from mrict_core.hu import BIAS_HU, BLACK_HU

if TYPE_CHECKING:
    from mrict_core.data.cache.store import SliceStore

COPY = "control_copy_of_mr"
UNSEEN = 0.05  # of a black image's error
Make = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (MR as the window's HU, CT in HU), (N, H, W) => HU


def shifted(ct: np.ndarray) -> np.ndarray:
    """Return slices, (..., H, W), shifted by one pixel along the rows; the first column is repeated."""
    return np.concatenate([ct[..., :1], ct[..., :-1]], axis=-1)


CONTROLS: dict[str, Make] = {
    "control_black": lambda mr, ct: np.full_like(ct, BLACK_HU),
    COPY: lambda mr, ct: mr,
    "control_bias_150": lambda mr, ct: ct + np.float32(BIAS_HU),
    "control_shift_1": lambda mr, ct: shifted(ct),
}


def unseen(value: float, black: float, far: Callable[[float], float]) -> bool:
    """Return whether a score's distance from the perfect value is below 5 % of a black image's."""
    return far(value) < UNSEEN * far(black)


def control_predictions(store: SliceStore) -> dict[str, Predictions]:
    """Return {name: predictions}: black (-1000 HU), the MR read as HU, the true CT + 150 HU, the true CT + 1 pixel.

    The last two are made from the true CT, so controls are never ranked. A CBCT read as HU is a baseline instead.
    """

    def predictor(make: Make) -> Predict:
        def predict(store: SliceStore, patient: str) -> np.ndarray:
            slices = store.slices(patient)
            return make(store.window.to_hu(np.asarray(slices.mr, np.float32)), np.asarray(slices.ct, np.float32))

        return predict

    chosen = {name: make for name, make in CONTROLS.items() if not (store.modality.window and name == COPY)}
    return {name: Predictions(store, predictor(make)) for name, make in chosen.items()}


def blindness(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row per metric: scores of the best variant and of each control, and what the metric does not see.

    A fault is unseen if the control's distance from the perfect value is below 5 % of a black image's (for squared
    metrics, of its root); black and the copy of the MR are rewarded if they score better than more than half of the
    variants.
    """
    variants = [r for r in records if r["kind"] == "variant"]
    controls = {r["name"]: r for r in records if r["kind"] == "control"}
    rows: list[dict[str, Any]] = []
    by_mae: dict[str, int] = {}
    for metric in metrics.keys("controls"):  # masked MAE first
        far = metrics.metric(metric).distance
        values = {name: _mean(record, metric) for name, record in controls.items()}
        models = [v for r in variants if (v := _mean(r, metric)) is not None]
        beaten = {n: sum(far(v) < far(m) for m in models) for n, v in values.items() if v is not None}
        by_mae = by_mae or beaten
        rewarded = {n: k for n, k in beaten.items() if len(models) / 2 < k > by_mae.get(n, 0)}
        remarks = [*_unseen(values, far), *_rewarded(rewarded, len(models))]
        best = min(models, key=far) if models else None
        rows.append({"metric": metric, "best variant": best, **values, "does not see": "; ".join(remarks)})
    frame = pd.DataFrame(rows, columns=["metric", "best variant", *controls, "does not see"])
    return frame.astype(dict.fromkeys(frame.columns[1:-1], float))


def _mean(record: Mapping[str, Any], metric: str) -> float | None:
    return record["summary"]["all"][metric]["mean"]


def _unseen(values: Mapping[str, float | None], far: Callable[[float], float]) -> list[str]:
    black = values.get("control_black")
    found = {name: values.get(name) for name in ("control_bias_150", "control_shift_1")}
    return [
        f"{_short(name)} ({100 * far(value) / far(black):.0f} % of a black image's error)"
        for name, value in found.items()
        if value is not None and black is not None and unseen(value, black, far)
    ]


def _rewarded(beaten: Mapping[str, int], models: int) -> list[str]:
    names = [name for name in ("control_black", "control_copy_of_mr") if name in beaten]
    return [f"rewards {_short(name)}: better than {beaten[name]} of {models} variants" for name in names]


def _short(name: str) -> str:
    return {
        "control_black": "a black image",
        "control_copy_of_mr": "a copy of the MR",
        "control_bias_150": f"{BIAS_HU:g} HU of bias",
        "control_shift_1": "a shift by one pixel",
    }[name]
