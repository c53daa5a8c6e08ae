"""Does bfloat16 learn equally well? One demo training per seed and precision, on the embedded phantoms."""

from __future__ import annotations

import dataclasses
from typing import Any

from benchmarks.pipeline import scratch
from mrict_core.experiments import get
from mrict_core.experiments.profiles import get_profile
from mrict_core.training.loop import train
from mrict_core.training.run import TrainSettings

TITLE = "Training in float32 and in bfloat16: masked MAE of the validation patients (demo)"
VARIANT = "mk6_1_0"


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return one row per seed: the last epoch's MAE in both precisions, their difference, both curves, seconds."""
    profile = dataclasses.replace(get_profile("smoke" if quick else "demo"), epochs_min=2 if quick else 10)
    profile = dataclasses.replace(profile, epochs_max=profile.epochs_min)
    variant = dataclasses.replace(get(VARIANT), init_from=None, epochs=profile.epochs_min)
    rows = []
    with scratch(profile.name) as space:
        for seed in (42,) if quick else (42, 43):
            curves, seconds = {}, {}
            for precision in ("float32", "bfloat16"):
                settings = TrainSettings(seed=seed, device="cpu", precision=precision)
                history = train(variant, profile, space, settings, report=lambda line: None, retrain=True).history
                curves[precision] = history["val_mae_hu"].tolist()
                seconds[precision] = float(history["seconds"].sum())
            last = {name: curve[-1] for name, curve in curves.items()}
            rows.append(
                {
                    "case": f"{profile.label}, {VARIANT} from fresh weights, {len(history)} epochs, seed {seed}",
                    **{f"mae_hu_{name}": value for name, value in last.items()},
                    "difference_percent": 100 * (last["bfloat16"] / last["float32"] - 1),
                    **{f"seconds_{name}": value for name, value in seconds.items()},
                    **{f"curve_{name}": curve for name, curve in curves.items()},
                }
            )
    return rows
