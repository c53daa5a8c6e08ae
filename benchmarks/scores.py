"""The three SynthRAD2023 metrics of one case: scikit-image over the whole volume against `metrics.score_case`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from reference import synthrad as plain

from benchmarks import measure
from mrict_core import metrics

TITLE = "SynthRAD2023 scores of one case"
SHAPES = {"full": (256, 256, 200), "quick": (96, 96, 64)}
RELATIVE = 1e-6  # tolerance of the values


def case(shape: tuple[int, int, int], kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return CT and sCT (HU, float32) of a shelled ellipsoid with noise, and a mask: its outline, or everything."""
    rng = np.random.default_rng(0)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    radius = np.sqrt((x / 0.7) ** 2 + (y / 0.85) ** 2 + (z / 1.2) ** 2)
    ct = np.where(radius < 1, np.where(radius > 0.9, 900, 40), -1000).astype(np.float32)
    ct += rng.normal(0, 20, shape).astype(np.float32)
    sct = ct + rng.normal(0, 80, shape).astype(np.float32)
    return ct, sct, np.ones(shape, bool) if kind == "everything" else radius < 1.03


def prepared(form: str, shape: tuple[int, int, int], kind: str) -> Callable[[], dict]:
    """Return a call that scores a case in one form."""
    ct, sct, mask = case(shape, kind)
    score = plain.scores if form == "plain" else metrics.score_case
    return lambda: score(ct, sct, mask)


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return one row per mask: times, peak memory, and whether the values agree."""
    shape = SHAPES["quick" if quick else "full"]
    rows = []
    for kind in ("head", "everything"):
        calls = {form: prepared(form, shape, kind) for form in ("plain", "lean")}
        values = {form: call() for form, call in calls.items()}
        gap = max(abs(values["lean"][name] / values["plain"][name] - 1) for name in ("mae_hu", "psnr_db", "ssim"))
        row = {"case": f"{'×'.join(map(str, shape))}, mask: {kind}"}
        row |= measure.alternating(calls["plain"], calls["lean"], repeats=3 if quick else 7)
        for form in calls:
            row[f"{form}_peak_mib"] = measure.peak_growth_mib(prepared, form, shape, kind)
        rows.append(row | {"largest_relative_difference": gap, "equal": bool(gap < RELATIVE)})
    return rows
