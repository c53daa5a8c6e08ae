"""The records behind the tables: statistics over patients, json and csv files, the leaderboard."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mrict_core import metrics
from mrict_core.errors import MrictError
from mrict_core.evaluation.scores import COLUMNS, METRICS
from mrict_core.paths import shown
from mrict_core.runtime import read_json, write_csv, write_json

KINDS = ("variant", "baseline")
REQUIRED = ("name", "kind", "label", "summary", "patients", "cards", "context")


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """Return {"all": {metric: {mean, sd, median, n}}, "centres": {centre: the same}} of a frame of `score_patients`.

    SD has ddof 1 and is None for one patient; values that are not finite count neither in the statistics nor in n, and
    statistics of nothing are None.
    """
    by_centre = {str(centre): _statistics(part) for centre, part in frame.groupby("centre", sort=True)}
    return {"all": _statistics(frame), "centres": by_centre}


def _statistics(frame: pd.DataFrame) -> dict[str, dict[str, float | int | None]]:
    found: dict[str, dict[str, float | int | None]] = {}
    for metric in METRICS:
        values = frame[metric].to_numpy(dtype=np.float64)
        values = values[np.isfinite(values)]
        found[metric] = {
            "mean": float(values.mean()) if values.size else None,
            "sd": float(values.std(ddof=1)) if values.size > 1 else None,
            "median": float(np.median(values)) if values.size else None,
            "n": int(values.size),
        }
    return found


def metrics_record(
    name: str, frame: pd.DataFrame, *, label: str, kind: str = "variant", context: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the json content of one variant's or baseline's scores.

    `label` is the profile's, shown with every number. `context` says how the numbers came about: data set, protocol,
    split hash, checkpoint hash, feature weights, versions, seed …; its `stopped` (why training ended early, a collapse
    say) becomes the record's note. Values that are not finite become null.
    """
    if kind not in KINDS:
        raise MrictError(f"record '{name}': kind '{kind}' is not known; allowed: {', '.join(KINDS)}")
    cards = {metric: metrics.card(metric).as_dict() for metric in METRICS}
    if (frame["ssim_dimensionality"] == "2D").any():
        cards["ssim_2d"] = metrics.card("ssim_2d").as_dict()
    return {
        "name": name,
        "kind": kind,
        "label": label,
        "note": context.get("stopped") or "",
        "n": len(frame),
        "summary": summarise(frame),
        "patients": _plain(frame.to_dict(orient="records")),
        "cards": cards,
        "context": _plain(dict(context)),
    }


def write_metrics(folder: Path, record: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write `record` to folder/<name>.json and its per-patient rows to folder/<name>.csv, each atomically."""
    frame = pd.DataFrame(record["patients"], columns=list(COLUMNS))
    csv = write_csv(Path(folder) / f"{record['name']}.csv", frame, float_format="%.6f")
    return write_json(Path(folder) / f"{record['name']}.json", dict(record)), csv


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return every record of a folder in the order of names; an empty list where nothing was evaluated yet."""
    return [_read(path) for path in sorted(Path(folder).glob("*.json"))]


def read_record(folder: Path, name: str) -> dict[str, Any] | None:
    """Return the record of one variant or baseline, None where there is none."""
    path = Path(folder) / f"{name}.json"
    return _read(path) if path.is_file() else None


def _read(path: Path) -> dict[str, Any]:
    record = read_json(path)
    missing = set(REQUIRED) - set(record if isinstance(record, dict) else ())
    if not missing and not (isinstance(record["context"], dict) and isinstance(record["summary"], dict)):
        missing = {"context or summary"}
    if missing:
        raise MrictError(f"{shown(path)}: no metrics record, {', '.join(sorted(missing))} missing; delete the file")
    return record


def leaderboard(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row per record, ranked by mean masked MAE; records without one come last and unranked.

    `beats_baselines` is True where a variant's mean MAE is lower than that of every baseline, and missing for baselines
    and where no baseline was scored on the same patients; `note` then says so. Means and SD are over patients.
    """
    records = list(records)
    baselines = [record for record in records if record["kind"] == "baseline"]
    rows = []
    for record in records:
        beats, remark = _against(record, baselines)
        statistics = record["summary"]["all"]
        row = {"name": record["name"], "kind": record["kind"], "label": record["label"], "n": len(record["patients"])}
        for metric in METRICS:
            row[metric], row[f"{metric}_sd"] = statistics[metric]["mean"], statistics[metric]["sd"]
        ways = {patient["ssim_dimensionality"] for patient in record["patients"]}
        row["ssim_dimensionality"] = "+".join(sorted(ways))
        notes = [note for note in (record.get("note"), remark) if note]
        rows.append(row | {"beats_baselines": beats, "note": "; ".join(notes)})
    values = [column for metric in METRICS for column in (metric, f"{metric}_sd")]
    columns = ["name", "kind", "label", "n", *values, "ssim_dimensionality", "beats_baselines", "note"]
    frame = pd.DataFrame(rows, columns=columns).astype({"beats_baselines": "boolean", **dict.fromkeys(values, float)})
    frame = frame.sort_values(["mae_hu", "name"], na_position="last", ignore_index=True)
    ranks = np.arange(1, len(frame) + 1)
    frame.insert(0, "rank", pd.Series(ranks, dtype="Int64").mask(frame["mae_hu"].isna()))
    return frame


def _against(record: Mapping[str, Any], baselines: Sequence[Mapping[str, Any]]) -> tuple[bool | None, str]:
    """Return whether `record` beats every baseline of the same patients, and what to say where that is unknown."""
    if record["kind"] == "baseline":
        return None, ""
    same = [b for b in baselines if _patients(b) == _patients(record)]
    limits = [_mean_mae(b) for b in same if not math.isnan(_mean_mae(b))]
    if not limits:
        return None, "no baseline was scored on these patients"
    mae = _mean_mae(record)
    beats = bool(mae < min(limits))  # False for NaN
    return beats, "" if beats or math.isnan(mae) else "does not beat the trivial baselines"


def _patients(record: Mapping[str, Any]) -> set[str]:
    return {row["patient"] for row in record["patients"]}


def _mean_mae(record: Mapping[str, Any]) -> float:
    value = record["summary"]["all"]["mae_hu"]["mean"]
    return float("nan") if value is None else float(value)


def _plain(value: Any) -> Any:
    """Return `value` as valid json: numpy scalars become Python's, numbers that are not finite null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def centre_table(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the mean masked MAE (HU) of every record by centre, one column per centre, ranked by the overall mean."""
    rows = []
    for record in records:
        row = {"name": record["name"], "all": record["summary"]["all"]["mae_hu"]["mean"]}
        for centre, statistics in record["summary"]["centres"].items():
            row[f"centre {centre} (n={statistics['mae_hu']['n']})"] = statistics["mae_hu"]["mean"]
        rows.append(row)
    return pd.DataFrame(rows).sort_values("all", na_position="last", ignore_index=True)
