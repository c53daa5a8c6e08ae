"""Two runs side by side: what changed between two folders of reports, with intervals and tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mrict_core import metrics
from mrict_core.errors import MrictError, unknown_name
from mrict_core.evaluation.records import read_metrics
from mrict_core.evaluation.tables import ALPHA
from mrict_core.metrics import statistics
from mrict_core.paths import shown

DEFAULT = ("mae_hu", "psnr_db", "ssim", "mae_bone_hu", "wepl_mae_mm")
COLUMNS = (
    *("name", "metric", "n_a", "n_b", "mean_a", "mean_b", "difference", "low", "high"),
    *("paired", "p", "p_holm", "verdict"),
)
TOLERANCE = 1e-6  # relative: below it two runs gave the same numbers
Record = Mapping[str, Any]


@dataclass(frozen=True)
class RunComparison:
    """What differs between run a and run b."""

    changes: pd.DataFrame  # one row per record and metric, difference = b - a
    context: pd.DataFrame  # one row per fact that differs: name, fact, a, b
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    def as_json(self) -> str:
        """Return everything as json; what is not known is null."""
        parts = {"changes": self.changes, "context": self.context}
        tables = {
            name: json.loads(frame.to_json(orient="records", double_precision=15)) for name, frame in parts.items()
        }
        return json.dumps(tables | {"only_a": self.only_a, "only_b": self.only_b}, indent=2, ensure_ascii=False)


def read_run(folder: Path | str) -> dict[str, Record]:
    """Return {name: record} of a folder of reports (or of its `metrics` folder)."""
    folder = Path(folder).expanduser()
    inside = folder / "metrics" if (folder / "metrics").is_dir() else folder
    if not inside.is_dir():
        raise MrictError(f"{shown(folder)}: no such folder; give a folder of reports, the one that holds metrics/")
    records = {record["name"]: record for record in read_metrics(inside)}
    if not records:
        raise MrictError(f"{shown(inside)}: holds no metrics (*.json); give a folder of reports of an evaluated run")
    return records


def compare_runs(run_a: Path | str, run_b: Path | str, names: Sequence[str] = DEFAULT) -> RunComparison:
    """Compare two runs record by record.

    The same patients of the same data are compared pair by pair (bootstrap of the differences, Wilcoxon); otherwise the
    means of two groups are (bootstrap of their difference, no test). p values are Holm-adjusted over the whole table.
    A metric that one of the two lacks is left out.
    """
    for name in names:
        metrics.card(name)
    a, b = read_run(run_a), read_run(run_b)
    common = [name for name in a if name in b]
    if not common:
        raise MrictError(
            f"{shown(run_a)} and {shown(run_b)} have no variant in common: {', '.join(a)} against {', '.join(b)}"
        )
    rows = [row for name in common for metric in names if (row := _change(name, metric, a[name], b[name]))]
    if not rows:
        raise unknown_name("metric of both runs", ",".join(names), a[common[0]]["summary"]["all"])
    changes = pd.DataFrame(rows, columns=list(COLUMNS))
    tested = changes["p"].notna()
    changes.loc[tested, "p_holm"] = statistics.holm(changes.loc[tested, "p"].to_numpy(float))
    changes["verdict"] = [_verdict(row) for row in changes.to_dict(orient="records")]
    return RunComparison(
        changes, _context(a, b, common), tuple(sorted(a.keys() - b.keys())), tuple(sorted(b.keys() - a.keys()))
    )


def _change(name: str, metric: str, a: Record, b: Record) -> dict[str, Any] | None:
    left, right = (_values(record, metric) for record in (a, b))
    if not left or not right:
        return None
    row: dict[str, Any] = {"name": name, "metric": metric, "n_a": len(left), "n_b": len(right)}
    row |= {"mean_a": float(np.mean([*left.values()])), "mean_b": float(np.mean([*right.values()]))}
    row |= {"difference": row["mean_b"] - row["mean_a"], "p": np.nan, "p_holm": np.nan}
    row["paired"] = left.keys() == right.keys() and _same_data(a, b)
    if row["paired"]:
        differences = np.array([right[p] - left[p] for p in sorted(left)])
        low, high = statistics.bootstrap_mean(differences)
        row["p"] = float(statistics.wilcoxon_paired(differences))
    else:
        low, high = statistics.bootstrap_difference(np.array([*right.values()]), np.array([*left.values()]))
    return row | {"low": float(low), "high": float(high)}


def _values(record: Record, metric: str) -> dict[str, float]:
    return {p["patient"]: p[metric] for p in record["patients"] if p.get(metric) is not None}


def _same_data(a: Record, b: Record) -> bool:
    """Return whether equal patient names mean the same patients: phantoms and folders have names of their own."""
    return all(a["context"].get(key) == b["context"].get(key) for key in ("data", "region", "test_data_hash"))


def _verdict(row: Mapping[str, Any]) -> str:
    """Say what the difference b - a means, by the interval first and by the corrected test where there is one."""
    if abs(row["difference"]) <= TOLERANCE * max(abs(row["mean_a"]), 1e-12):
        return "the same"
    if not row["low"] * row["high"] > 0:  # the interval holds 0, or there is none
        return "not told apart"
    better = {"lower": row["mean_b"] < row["mean_a"], "higher": row["mean_b"] > row["mean_a"]}
    better["zero"] = abs(row["mean_b"]) < abs(row["mean_a"])
    better["one"] = abs(row["mean_b"] - 1) < abs(row["mean_a"] - 1)
    word = {True: "b is better", False: "b is worse"}.get(better.get(metrics.card(row["metric"]).better), "differs")
    if row["paired"] and not row["p_holm"] < ALPHA:
        return f"{word} by the interval; too few patients for the test"
    return word


def _context(a: Mapping[str, Record], b: Mapping[str, Record], common: Sequence[str]) -> pd.DataFrame:
    """Return the facts that differ; a fact that differs alike in all records stands once, under the name "all"."""
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
