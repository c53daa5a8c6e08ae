"""Synthetic data of a report of the default suite's size, for tests of the page."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd

from mrict_core import evaluation, metrics
from mrict_core.evaluation.controls import blindness
from mrict_core.evaluation.dose_table import DoseResults
from mrict_core.metrics.feature_distances import FeatureScore
from mrict_core.reporting.page import BrowserPatient, PageData

PATIENTS = ("1BA004", "1BB005", "1BC003")
MANY = tuple(f"1B{'ABC'[k % 3]}{k:03d}" for k in range(1, 31))
SPANS = dict.fromkeys(("lower", "higher", "none"), (0.2, 0.9)) | {"zero": (-30, 30), "one": (0.5, 1.5)}
CONTEXT = {
    "profile": "demo",
    "protocol": "patient",
    "split_hash": "5b11",
    "checkpoint_hash": "c0de",
    "code_hash": "fade",
}


def record(
    name: str, mae: float, kind: str = "variant", *, patients: Sequence[str] = PATIENTS, **changed: object
) -> dict:
    rng = np.random.default_rng(abs(hash(name)) % 2**32 if not name.isascii() else sum(map(ord, name)))
    rows = []
    for number, patient in enumerate(patients):
        row = {name: float(rng.uniform(*SPANS[metrics.metric(name).better])) for name in metrics.recorded()}
        row |= {"patient": patient, "centre": patient[2], "n_slices": 28, "n_voxels": 50_000, "flags": ""}
        row |= {"mae_hu": mae + 5 * number, "ssim_dimensionality": "3D", "n_air": 1, "n_soft": 2, "n_bone": 3}
        rows.append(row | changed)
    edges = [float(e) for e in range(-1000, 1700, 100)]
    centres = (np.array(edges[:-1]) + 50).tolist()
    curves = [
        {"patient": p, "count": [1] * len(centres), "mean_hu": centres, "sd_hu": [50.0] * len(centres)}
        for p in patients
    ]
    angles = [float(a) for a in range(0, 180, 15)]
    beams = [{"patient": p, "ct_mm": [180.0] * 12, "error_mm": rng.normal(0, 3, 12).tolist()} for p in patients]
    details = {
        "calibration": {"edges_hu": edges, "patients": curves},
        "wepl": {"angles_deg": angles, "patients": beams},
    }
    scores = evaluation.Scores(pd.DataFrame(rows, columns=list(evaluation.columns())), details)
    context = CONTEXT | {"stopped": ""}
    features = [FeatureScore("lpips", 0.2, 0.1, 0.3, 84, 3, "lpips_squeeze_v0.1", "435c", "", "").as_dict()]
    features.append(FeatureScore("fid", reason="no weights here").as_dict())
    return evaluation.metrics_record(
        name, scores, label="demo", kind=kind, context=context, more={"features": features}
    )


def browser_patient(patient: str, variants: list[str], count: int = 28, side: int = 64) -> BrowserPatient:
    rng = np.random.default_rng(sum(map(ord, patient)))
    y, x = np.mgrid[:side, :side] - side / 2
    radius = np.hypot(y / 0.42, x / 0.36)[None] / side + np.linspace(-0.1, 0.1, count)[:, None, None]
    ct = np.select([radius < 0.85, radius < 1], [40.0, 900.0], -1024.0) + (radius < 1) * rng.normal(0, 10, radius.shape)
    return BrowserPatient(
        patient=patient,
        centre=patient[2],
        z=np.arange(count) + 3,
        spacing_mm=(5.0, 3.6, 3.6),
        mr=np.where(radius < 1, rng.uniform(-0.2, 0.9, radius.shape), -1.0),
        ct=ct,
        mask=radius < 1.05,
        scts={name: ct + rng.normal(20, 80, radius.shape) for name in variants},
        sides="RLAPIS",
    )


def dose_results(
    names: Sequence[str] = ("mk0", "mk1", "baseline_0"), patients: Sequence[str] = PATIENTS
) -> DoseResults:
    """Return doses of models that get better by dose while their MAE gets worse; photons have no range."""
    rows, ranges = [], ("range_mm", "range_mae_mm")
    for modality in ("photons", "protons"):
        for place, name in enumerate(names):
            for patient in patients[:2]:
                row = dict.fromkeys(metrics.keys("dose"), (place + 1) / 2) | {"dose_mae": 3.0 - place}
                row |= {"dvh": float("nan")} | (dict.fromkeys(ranges, float("nan")) if modality == "photons" else {})
                rows.append({"case": patient, "model": name, "modality": modality} | row)
    beams = [
        {"patient": p, "gantry_deg": 60.0, "range_mm": -1.0 - k, "wepl_mm": 1.1 + k} for k, p in enumerate(patients)
    ]
    return DoseResults(
        note="generic machine, not commissioned; research only, not for clinical use",
        settings={"dose_gy": 2.0, "grid_mm": 3.0},
        rows=pd.DataFrame(rows),
        maes={name: dict.fromkeys(patients, 100.0 + 12 * place) for place, name in enumerate(names)},
        kinds={name: "baseline" if name.startswith("baseline") else "variant" for name in names},
        beams=dict.fromkeys(names, beams),
        remarks=[f"{patients[2]}: failed, no test target fits"],
    )


def page_data(count: int = 19, slices: int = 28, side: int = 64, patients: Sequence[str] = PATIENTS) -> PageData:
    names = [f"mk{k}" for k in range(count)]
    variants = [record(name, 100.0 + 12 * k, patients=patients) for k, name in enumerate(names)]
    baselines = [record(f"baseline_{k}", 190.0 + 9 * k, "baseline", patients=patients) for k in range(3)]
    controls = [
        record(f"control_{k}", 150.0, "control", patients=patients)
        for k in ("black", "copy_of_mr", "bias_150", "shift_1")
    ]
    records = sorted([*variants, *baselines], key=lambda r: r["summary"]["all"]["mae_hu"]["mean"])
    epochs = pd.DataFrame({"epoch": [1, 2, 3], "val_mae_hu": [300.0, 200.0, 210.0], "is_best": [True, True, False]})
    facts = [
        {"name": n, "family": "mk", "parent": names[k - 1] if k else None, "init_from": None, "why": f"why {n}?"}
        | {"changes": [("lr", "1", "2")], "epochs": 3}
        for k, n in enumerate(names)
    ]
    return PageData(
        title="MRICT: a test",
        label="demo",
        intro="Some phantom patients.",
        board=evaluation.leaderboard(records),
        records=records,
        controls=controls,
        missing={"mk99": "not evaluated"},
        histories=dict.fromkeys(names, epochs),
        variants=facts,
        comparisons=evaluation.pairwise_table(records),
        centres=evaluation.centre_table(records),
        leave_out=evaluation.leave_out_table(records),
        predecessor=pd.DataFrame(
            [
                {"variant": "mk1", "readme": "1", "why": "another split"}
                | {f"{w}_{m}": 0.5 for w in ("printed", "ours", "corrected") for m in ("mse", "ssim", "fid", "vgg")}
                | {"mae_hu": 120.0}
            ]
        ),
        blindness=blindness([*records, *controls]),
        dose=dose_results(),
        features=[{"variant": r["name"], **score} for r in records for score in r["features"]],
        corrections=[("by slice", "by patient")],
        browser=[(p, partial(browser_patient, p, [r["name"] for r in records], slices, side)) for p in patients],
        provenance={"made": "today", "versions": {"torch": "2"}},
    )
