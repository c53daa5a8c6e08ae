"""Tables over records: leaderboard, centres and pairwise tests."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mrict_core import metrics
from mrict_core.data.subjects import people_of
from mrict_core.evaluation.records import by_person, seeds_of
from mrict_core.metrics import statistics

Record = Mapping[str, Any]
ALPHA = 0.05


def leaderboard(records: Iterable[Record]) -> pd.DataFrame:
    """Return one row per record, ranked by mean masked MAE; records without one come last and unranked.

    `beats_baselines` is True if a variant's mean MAE is lower than that of every baseline; it is missing for baselines,
    and with a `note` if no baseline was scored on the same patients. Means and SD are over patients, `mae_hu_low` and
    `mae_hu_high` are the 95 % patient bootstrap. With several seeds, `seeds` lists them and `<metric>_seeds_sd` is the
    SD of the seeds' means.
    """
    records, shown = list(records), metrics.keys("leaderboard")
    baselines = [record for record in records if record["kind"] == "baseline"]
    several = any(len(seeds_of(record)) > 1 for record in records)
    rows = []
    for record in records:
        beats, remark = _against(record, baselines)
        statistics_of = record["summary"]["all"]
        row = {
            "name": record["name"],
            "kind": record["kind"],
            "label": record["label"],
            "n": len(set(people_of(_patients(record)))),
        }
        row["seeds"] = ", ".join(map(str, seeds_of(record)))
        for metric in shown:
            row[metric], row[f"{metric}_sd"] = statistics_of[metric]["mean"], statistics_of[metric]["sd"]
            row[f"{metric}_seeds_sd"] = seeds_sd(record, metric)
        row |= {"mae_hu_low": statistics_of["mae_hu"]["low"], "mae_hu_high": statistics_of["mae_hu"]["high"]}
        ways = {patient["ssim_dimensionality"] for patient in record["patients"]}
        row["ssim_dimensionality"] = "+".join(sorted(ways))
        flagged = sorted({patient["flags"] for patient in record["patients"] if patient.get("flags")})
        notes = [note for note in (record.get("note"), remark, *flagged) if note]
        rows.append(row | {"beats_baselines": beats, "note": "; ".join(notes)})
    ends = ("", "_sd", "_seeds_sd") if several else ("", "_sd")
    values = [f"{metric}{end}" for metric in shown for end in ends]
    values[len(ends) : len(ends)] = ["mae_hu_low", "mae_hu_high"]
    columns = ["name", "kind", "label", "n", *(["seeds"] if several else []), *values]
    columns += ["ssim_dimensionality", "beats_baselines", "note"]
    frame = pd.DataFrame(rows, columns=columns).astype({"beats_baselines": "boolean", **dict.fromkeys(values, float)})
    frame = frame.sort_values(["mae_hu", "name"], na_position="last", ignore_index=True)
    ranks = np.arange(1, len(frame) + 1)
    frame.insert(0, "rank", pd.Series(ranks, dtype="Int64").mask(frame["mae_hu"].isna()))
    return frame


def seeds_sd(record: Record, metric: str) -> float | None:
    """Return the SD of the seeds' means, None for fewer than two seeds."""
    return record.get("seeds", {}).get("summary", {}).get(metric, {}).get("sd")


def _against(record: Record, baselines: Sequence[Record]) -> tuple[bool | None, str]:
    """Return whether `record` beats every baseline of the same patients, and a note if it does not or is unknown."""
    if record["kind"] == "baseline":
        return None, ""
    same = [b for b in baselines if _patients(b) == _patients(record)]
    limits = [_mean_mae(b) for b in same if not math.isnan(_mean_mae(b))]
    if not limits:
        return None, "no baseline was scored on these patients"
    mae = _mean_mae(record)
    beats = bool(mae < min(limits))  # False for NaN
    return beats, "" if beats or math.isnan(mae) else "does not beat the trivial baselines"


def _patients(record: Record) -> set[str]:
    return {row["patient"] for row in record["patients"]}


def _mean_mae(record: Record) -> float:
    value = record["summary"]["all"]["mae_hu"]["mean"]
    return float("nan") if value is None else float(value)


def _order(record: Record, metric: str) -> float:
    """Return a record's sort value, the best first; NaN without a value."""
    value = record["summary"]["all"][metric]["mean"]
    return math.nan if value is None else metrics.metric(metric).order(value)


def centre_table(records: Iterable[Record], metric: str = "mae_hu") -> pd.DataFrame:
    """Return one row per record and centre: name, centre, n, mean_hu, low_hu, high_hu, best name first.

    The interval is the 95 % patient bootstrap within the centre, missing for a single patient.
    """
    rows = []
    for record in records:
        for centre, found in record["summary"]["centres"].items():
            s = found[metric]
            row = {"name": record["name"], "centre": centre, "n": s["n"], "mean_hu": s["mean"]}
            rows.append(row | {"low_hu": s["low"], "high_hu": s["high"], "overall": _order(record, metric)})
    columns = ["name", "centre", "n", "mean_hu", "low_hu", "high_hu", "overall"]
    frame = pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[3:], float))
    return frame.sort_values(["overall", "name", "centre"], na_position="last", ignore_index=True).drop(
        columns="overall"
    )


def leave_out_table(records: Iterable[Record], metric: str = "mae_hu") -> pd.DataFrame:
    """Return how much the mean depends on one centre: one row per record and centre left out of the *scoring*.

    Columns name, left_out, n, mean_hu (over the patients of the other centres) and rank among the records. Nothing is
    retrained; for a model's performance at a new centre see `pipeline.leave_one_centre_out`.
    """
    rows = []
    for record in records:
        for left_out in sorted({p["centre"] for p in record["patients"]}):
            rest = by_person([p for p in record["patients"] if p["centre"] != left_out], metric)
            mean = float(np.mean(list(rest.values()))) if rest else math.nan
            rows.append({"name": record["name"], "left_out": left_out, "n": len(rest), "mean_hu": mean})
    frame = pd.DataFrame(rows, columns=["name", "left_out", "n", "mean_hu"])
    order = frame["mean_hu"].map(metrics.metric(metric).order, na_action="ignore")
    frame["rank"] = order.groupby(frame["left_out"]).rank(method="min").astype("Int64")
    return frame.sort_values(["left_out", "rank", "name"], na_position="last", ignore_index=True)


def pairwise_table(records: Sequence[Record], metric: str = "mae_hu") -> pd.DataFrame:
    """Return one row per pair of records scored on the same patients, better mean first.

    Columns a, b, n, mean_difference_hu (a - b, per patient), its 95 % patient bootstrap low_hu and high_hu, p of the
    paired Wilcoxon signed-rank test, p_holm adjusted for all pairs of the table, and a verdict. With several seeds a
    patient's value is the mean over them.
    """
    order = sorted(records, key=lambda r: (math.isnan(_order(r, metric)), _order(r, metric), r["name"]))
    values = [by_person(record["patients"], metric) for record in order]
    pairs, differences = [], []
    for first in range(len(order)):
        for second in range(first + 1, len(order)):
            if values[first].keys() != values[second].keys() or not values[first]:
                continue
            pairs.append((order[first]["name"], order[second]["name"]))
            differences.append([values[first][p] - values[second][p] for p in sorted(values[first])])
    columns = ["a", "b", "n", "mean_difference_hu", "low_hu", "high_hu", "p", "p_holm", "verdict"]
    rows = pd.DataFrame(pairs, columns=["a", "b"])
    rows["n"] = [len(d) for d in differences]
    parts = [_tested(np.array([differences[i] for i in group])) for group in rows.groupby("n").indices.values()]
    for group, part in zip(rows.groupby("n").indices.values(), parts, strict=True):
        rows.loc[group, list(part.columns)] = part.to_numpy()
    if rows.empty:
        return pd.DataFrame(columns=columns)
    rows["p_holm"] = statistics.holm(rows["p"].to_numpy())
    rows["verdict"] = [verdict(row.p_holm, row.n, len(rows)) for row in rows.itertuples()]
    return rows[columns]


def _tested(differences: np.ndarray) -> pd.DataFrame:
    """Return mean, interval and p of paired differences, (pairs, n)."""
    low, high = statistics.bootstrap_mean(differences)
    columns = {"mean_difference_hu": differences.mean(axis=1), "low_hu": low, "high_hu": high}
    return pd.DataFrame(columns | {"p": statistics.wilcoxon_paired(differences)})


def verdict(p_holm: float, n: int, comparisons: int) -> str:
    """Return the verdict of a corrected p value with n patients."""
    smallest = min(1.0, statistics.smallest_p(n) * comparisons)
    if p_holm < ALPHA:
        return "different"
    if smallest >= ALPHA:
        return f"undecidable with {n} patients and {comparisons} comparison{'s' * (comparisons != 1)}"
    return "no difference shown"
