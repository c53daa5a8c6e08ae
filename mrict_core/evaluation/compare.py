"""Compare two runs: the changes between two folders of reports, with intervals and tests."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mrict_core import metrics
from mrict_core.errors import MrictError, unknown_name
from mrict_core.evaluation.leaderboards import ALPHA
from mrict_core.evaluation.records import read_metrics, seeds_of
from mrict_core.metrics import statistics
from mrict_core.paths import shown

COLUMNS = ("name", "metric", "n", "mean_a", "mean_b", "difference", "low", "high", "p", "p_holm", "verdict")
REFERENCE = ("centre", "n_voxels", "n_air", "n_soft", "n_bone")  # facts of a patient that depend on CT and mask only
TOLERANCE = 1e-6  # relative; smaller differences count as equal
Record = Mapping[str, Any]


@dataclass(frozen=True)
class RunComparison:
    """The differences between run a and run b."""

    changes: pd.DataFrame  # one row per record and metric, over the common patients, difference = b - a
    patients: pd.DataFrame  # one row per record: patients in common, only_a, only_b, other_images; seeds
    context: pd.DataFrame  # one row per fact that differs: name, fact, a, b
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    def as_json(self) -> str:
        """Return everything as json; unknown values are null."""
        parts = {"changes": self.changes, "patients": self.patients, "context": self.context}
        tables = {
            name: json.loads(frame.to_json(orient="records", double_precision=15)) for name, frame in parts.items()
        }
        return json.dumps(tables | {"only_a": self.only_a, "only_b": self.only_b}, indent=2, ensure_ascii=False)


def read_run(folder: Path | str) -> dict[str, Record]:
    """Return {name: record} of a folder of reports (or of its `metrics` folder)."""
    folder = Path(folder).expanduser()
    inside = folder / "metrics" if (folder / "metrics").is_dir() else folder
    if not inside.is_dir():
        raise MrictError(f"{shown(folder)}: no such folder; give a folder of reports, with metrics/ in it")
    records = {record["name"]: record for record in read_metrics(inside)}
    if not records:
        raise MrictError(f"{shown(inside)}: no metrics (*.json); give the reports of an evaluated run")
    return records


def compare_runs(run_a: Path | str, run_b: Path | str, names: Sequence[str] = ()) -> RunComparison:
    """Compare two runs record by record over their common patients; names: metrics, by default the panel "compare".

    Paired bootstrap and Wilcoxon test; p values are Holm-adjusted over the whole table. Patients of the same name with
    a different reference (centre, voxels of the mask and of its tissues) are different patients. A metric without a
    value in one run keeps a row that says so. Raises MrictError if no patient is in both runs.
    """
    names = [metrics.metric(name).key for name in names or metrics.keys("compare")]
    a, b = read_run(run_a), read_run(run_b)
    common = [name for name in a if name in b]
    if not common:
        raise MrictError(
            f"{shown(run_a)} and {shown(run_b)} have no variant in common: {', '.join(a)} against {', '.join(b)}"
        )
    patients = [_patients(name, a[name], b[name]) for name in common]
    if not any(row["common"] for row in patients):
        same = (
            " (patients of the same name have different images)" if any(row["other_images"] for row in patients) else ""
        )
        raise MrictError(
            f"{shown(run_a)} and {shown(run_b)} have no patient in common{same}; "
            "a comparison needs the same patients: evaluate both on the same test patients"
        )
    compared = [row for row in patients if row["common"]]
    rows = [_change(r["name"], m, a[r["name"]], b[r["name"]], r["common"]) for r in compared for m in names]
    if not any(row["n"] for row in rows):
        raise unknown_name("metric of both runs", ",".join(names), a[compared[0]["name"]]["summary"]["all"])
    changes = pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(COLUMNS[3:-1], float))
    tested = changes["p"].notna()
    changes.loc[tested, "p_holm"] = statistics.holm(changes.loc[tested, "p"].to_numpy(float))
    changes["verdict"] = [_verdict(row, tested.sum()) for row in changes.to_dict(orient="records")]
    return RunComparison(
        changes,
        pd.DataFrame(patients),
        _context(a, b, common),
        tuple(sorted(a.keys() - b.keys())),
        tuple(sorted(b.keys() - a.keys())),
    )


def _patients(name: str, a: Record, b: Record) -> dict[str, Any]:
    """Return the patients of both runs and those left out; equal names need an equal reference."""
    left, right = ({p["patient"]: p for p in r["patients"]} for r in (a, b))
    shared = left.keys() & right.keys()
    other = sorted(patient for patient in shared if not _same_reference(left[patient], right[patient]))
    return {
        "name": name,
        "common": sorted(shared - {*other}),
        "only_a": sorted(left.keys() - shared),
        "only_b": sorted(right.keys() - shared),
        "other_images": other,
        "seeds_a": seeds_of(a),
        "seeds_b": seeds_of(b),
    }


def _same_reference(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    return all(left[key] == right[key] for key in REFERENCE if None not in (left.get(key), right.get(key)))


def _change(name: str, metric: str, a: Record, b: Record, common: Sequence[str]) -> dict[str, Any]:
    left, right = (_values(record, metric, common) for record in (a, b))
    both = [patient for patient in common if patient in left and patient in right]
    row: dict[str, Any] = {"name": name, "metric": metric, "n": len(both), "verdict": ""}
    if not both:
        lacking = [run for run, values in (("a", left), ("b", right)) if not values]
        return row | {"verdict": f"no value in {' and '.join(lacking) or 'both of any patient'}"}
    differences = np.array([right[patient] - left[patient] for patient in both])
    low, high = statistics.bootstrap_mean(differences)
    return row | {
        "mean_a": float(np.mean([left[patient] for patient in both])),
        "mean_b": float(np.mean([right[patient] for patient in both])),
        "difference": float(differences.mean()),
        "low": float(low),
        "high": float(high),
        "p": float(statistics.wilcoxon_paired(differences)),
    }


def _values(record: Record, metric: str, patients: Sequence[str]) -> dict[str, float]:
    return {p["patient"]: p[metric] for p in record["patients"] if p["patient"] in patients and _known(p.get(metric))}


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _verdict(row: Mapping[str, Any], comparisons: int) -> str:
    """Return what the difference b - a means, by the interval and then by the corrected test."""
    if row["verdict"]:
        return row["verdict"]
    if abs(row["difference"]) <= TOLERANCE * max(abs(row["mean_a"]), 1e-12):
        return "the same"
    if not row["low"] * row["high"] > 0:  # the interval contains 0, or is missing
        return "no difference shown"
    metric = metrics.metric(row["metric"])
    closer = metric.order(row["mean_b"]) < metric.order(row["mean_a"])
    word = "differs" if metric.better == "none" else "b is better" if closer else "b is worse"
    if not row["p_holm"] < ALPHA:
        few = min(1.0, statistics.smallest_p(row["n"]) * comparisons) >= ALPHA
        return f"{word} by the interval; {'too few patients for the test' if few else 'not by the test'}"
    return word


def _context(a: Mapping[str, Record], b: Mapping[str, Record], common: Sequence[str]) -> pd.DataFrame:
    """Return the facts that differ; a fact that differs equally in all records has one row, named "all"."""
    facts = {name: (_flat(a[name]["context"]), _flat(b[name]["context"])) for name in common}
    rows = []
    for fact in sorted({key for pair in facts.values() for part in pair for key in part}):
        pairs = {name: (left.get(fact, ""), right.get(fact, "")) for name, (left, right) in facts.items()}
        differing = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
        if len(differing) > 1 and len(set(differing.values())) == 1:
            differing = {
                "all" if len(differing) == len(common) else ", ".join(differing): next(iter(differing.values()))
            }
        rows += [{"name": name, "fact": fact, "a": left, "b": right} for name, (left, right) in differing.items()]
    return pd.DataFrame(rows, columns=["name", "fact", "a", "b"])


def _flat(context: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in context.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = str(value)
    return found
