"""MK7 to MK10 on the same phantoms, each with the same CPU time: error, sharpness, uncertainty.

Trainings and scores are those of the suite, in a workspace of their own for each budget and seed. A finished training
is reused and an interrupted one goes on, so the same command may be given again at any time.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

import numpy as np

from benchmarks.quality import SEEDS, Row, Study, trained
from mrict_core.data.splits import load_split, save_split
from mrict_core.evaluation.ensembles import mean_name
from mrict_core.evaluation.sample_scores import KINDS
from mrict_core.experiments import lineage
from mrict_core.experiments.profiles import get_profile
from mrict_core.machine import cpu_count, end_with_parent
from mrict_core.metrics.statistics import holm, wilcoxon_paired
from mrict_core.paths import workspace
from mrict_core.pipeline.evaluate import evaluate_baselines, evaluate_mean, evaluate_variant

TITLE = "MK7 to MK10: the same phantoms, the same time"
BASE, VOLUMES, GAN, FLOW = "mk7_1", "mk8_0", "mk10_0", "mk9_0"
STEPS = 1200  # of the base, whose CPU time every training has: the demo's
HOW = (
    "networks of profile demo, 20 phantoms of each of three centres, 12 of the 60 kept out; each training, ancestors "
    f"included, has the CPU time of {STEPS} steps of {BASE}; means over people, then over seeds; differences to the "
    "first row, Wilcoxon by person, Holm"
)
LONG = True  # hours
ROWS = (
    *(Row(name, of=name) for name in (BASE, VOLUMES, GAN, FLOW)),
    Row("mk9_ddpm", of="mk9_ddpm", once=True),  # its scores take longer than its training
)
MEANS = ((BASE, VOLUMES), (BASE, FLOW))
WATER = "baseline_water_body"
SCORES = ("mae_hu", "psnr_db", "ssim", "mae_bone_hu", "dice_bone_250", "spectrum_db")
SAMPLED = ("coverage_gap_90", "ause", "spearman_sd")  # of models that draw samples
PROFILE = dataclasses.replace(
    get_profile("demo"), name="generations", label="phantoms, equal time", phantom_patients_per_centre=20
)
QUICK = dataclasses.replace(PROFILE, name="generations_quick", phantom_patients_per_centre=3)

Scored = dict[str, dict[str, Any]]  # {row's name: {"people": {score: [value of each person]}, …}}


def scored(study: Study, seed: int) -> Scored:
    """Train and score every row with one seed; what exists is reused."""
    fold = f"seed{seed}"
    place, split = study.space.of_fold(fold), load_split(study.space.split_file)
    found: Scored = {}
    for row in study.rows:
        if row.once and seed != study.seeds[0]:
            continue
        # A chain's ancestor is a shorter training than the ancestor's own row: apart, they are not mistaken.
        own = fold if len(lineage(row.experiment)) == 1 else f"{fold}-{row.name}"
        save_split(study.space.of_fold(own).split_file, split)
        _, _, cost = trained(study, dataclasses.replace(row, images=own), seed)
        record, _ = evaluate_variant(
            row.experiment, study.profile, study.space.of_fold(own), device="cpu", report=_quiet
        )
        found[row.name] = cost | _of(record)
        for kind, scores in record.get("samples", {}).items():
            if kind != KINDS[-1]:  # that is the row itself
                found[f"{row.name}, {kind}"] = {"people": {name: [value] for name, value in scores.items()}}
    for names in MEANS:
        record, _ = evaluate_mean(names, study.profile, place, device="cpu", report=_quiet)
        found[mean_name(names)] = _of(record)
    found[WATER] = _of(next(r for r in evaluate_baselines(study.profile, place) if r["name"] == WATER))
    return found


def _quiet(line: str) -> None:
    """Swallow what trainings report: several run at once."""


def _of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return each person's scores."""
    people = record["patients"]
    values = {name: [person.get(name) for person in people] for name in (*SCORES, *SAMPLED)}
    return {"people": {name: own for name, own in values.items() if None not in own}}


def table(found: Mapping[int, Scored]) -> list[dict[str, Any]]:
    """Return a row of numbers for each predictor; found: scores by seed. Lists are not part of the printed table."""
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(name for one in found.values() for name in one):
        seeds = [one for one in found.values() if name in one]  # a row may have the first alone
        own, base = [one[name] for one in seeds], _people(seeds, BASE, "mae_hu")
        errors = [float(np.mean(one["people"]["mae_hu"])) for one in own]
        row = {"case": name, "seeds": len(own), "seeds_mae_hu": errors}
        row |= {score: _mean(seeds, name, score) for score in (*SCORES, *SAMPLED)}
        row["mae_hu_seeds_sd"] = statistics.stdev(errors) if len(errors) > 1 else None
        row |= {key: own[0].get(key) for key in ("steps", "cpu_s_per_step")}
        gaps = _people(seeds, name, "mae_hu") - base
        tested = gaps.size > 1 and name != BASE and len(own[0]["people"]["mae_hu"]) == base.size
        row["mean_difference_hu"] = float(gaps.mean()) if name != BASE else None
        row["p_holm"] = float(wilcoxon_paired(gaps)) if tested else None
        rows.append(row)
    tested = [row for row in rows if row["p_holm"] is not None]
    for row, p in zip(tested, holm(np.array([row["p_holm"] for row in tested])), strict=True):
        row["p_holm"] = float(p)
    return sorted(rows, key=lambda row: (row["case"] != BASE, row["mae_hu"]))


def _people(seeds: Sequence[Scored], name: str, score: str) -> np.ndarray:
    """Return a score of each person, the mean over the seeds."""
    return np.mean([one[name]["people"][score] for one in seeds], axis=0)


def _mean(seeds: Sequence[Scored], name: str, score: str) -> float | None:
    known = all(score in one[name]["people"] for one in seeds)
    return float(_people(seeds, name, score).mean()) if known else None


def notes(rows: list[dict[str, Any]]) -> list[str]:
    """Return in words which of the aims were met, from the table alone."""
    own = {row["case"]: row for row in rows}
    base, volumes, gan, flow = (own[name] for name in (BASE, VOLUMES, GAN, FLOW))
    mean, sample = own[mean_name(MEANS[0])], own[f"{FLOW}, one sample"]
    sharper = gan["spectrum_db"] < volumes["spectrum_db"] and gan["mae_hu"] <= 1.1 * volumes["mae_hu"]
    said = {
        f"{VOLUMES} within 5 HU of {BASE}": volumes["mae_hu"] <= base["mae_hu"] + 5,
        f"{mean['case']} better than either": mean["mae_hu"] < min(base["mae_hu"], volumes["mae_hu"]),
        f"{FLOW} within 5 % of {BASE}": flow["mae_hu"] <= 1.05 * base["mae_hu"],
        f"a sample of {FLOW} nearer to the CT's spectrum than {BASE}": sample["spectrum_db"] < base["spectrum_db"],
        "its 90 % intervals hold 86 to 94 %": abs(flow["coverage_gap_90"]) <= 4,
        f"{GAN} nearer to the CT's spectrum than {VOLUMES}, at most 10 % more error": sharper,
    }
    met, missed = ([what for what, holds in said.items() if holds == wanted] for wanted in (True, False))
    return [f"Met: {'; '.join(met) or 'none'}. Missed: {'; '.join(missed) or 'none'}."]


def run(quick: bool = False) -> Iterator[list[dict[str, Any]]]:
    """Yield the table after each finished seed, as far as it is known. One seed runs on each CPU of this process."""
    profile, steps, seeds = (QUICK, 200, SEEDS[:1]) if quick else (PROFILE, STEPS, SEEDS)
    study = Study("phantoms", profile, workspace(profile.name), ROWS, seeds, 1.0, "auto")
    study.prepare()
    study.measure()
    pace = study.pace(study.base, study.base.experiment)["step_s"]
    study = dataclasses.replace(study, minutes=steps * pace / 60)
    print(f"{study.minutes:.2g} minutes of CPU time for each training", flush=True)
    found: dict[int, Scored] = {}
    with ProcessPoolExecutor(cpu_count(), mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        jobs = {pool.submit(scored, study, seed): seed for seed in study.seeds}
        for job in as_completed(jobs):
            found[jobs[job]] = job.result()
            print(f"seed {jobs[job]}: done", flush=True)
            yield table(found)
