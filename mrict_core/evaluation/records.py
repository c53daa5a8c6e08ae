"""The records behind the tables: per-patient scores, their statistics and cards, as json and csv files."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mrict_core import metrics
from mrict_core.errors import MrictError
from mrict_core.evaluation.scores import COLUMNS, METRICS, Scores
from mrict_core.metrics import statistics
from mrict_core.paths import shown
from mrict_core.runtime import csv_text, hash_of, read_json, write_csv, write_json, write_text

KINDS = ("variant", "baseline", "control")
REQUIRED = ("name", "kind", "label", "summary", "patients", "cards", "context")
PROVENANCE = ("profile", "protocol", "split_hash", "checkpoint_hash", "code_hash")  # of the context, on every card
CARDS_FILE = "cards.csv"


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """Return {"all": {metric: {mean, sd, median, low, high, n}}, "centres": {centre: the same}} of a frame of scores.

    low and high bound the 95 % patient bootstrap of the mean. SD has ddof 1; it and the interval are None for one
    patient. Values that are not finite count neither in the statistics nor in n; statistics of nothing are None.
    """
    by_centre = {str(centre): _statistics(part) for centre, part in frame.groupby("centre", sort=True)}
    return {"all": _statistics(frame), "centres": by_centre}


def _statistics(frame: pd.DataFrame) -> dict[str, dict[str, float | int | None]]:
    values = frame[list(METRICS)].to_numpy(dtype=np.float64)
    return {name: dataclasses.asdict(s) for name, s in zip(METRICS, statistics.summarise(values), strict=True)}


def metrics_record(
    name: str,
    scores: Scores,
    *,
    label: str,
    kind: str = "variant",
    context: Mapping[str, Any],
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the json content of one variant's, baseline's or control's scores.

    `label` is the profile's, shown with every number. `context` says how the numbers came about: data set, protocol,
    split hash, checkpoint hash, feature weights, versions, seed …; its `stopped` (why training ended early, a collapse
    say) becomes the record's note. `more` adds entries of its own (the predecessor's protocol, feature metrics).
    Values that are not finite become null.
    """
    if kind not in KINDS:
        raise MrictError(f"record '{name}': kind '{kind}' is not known; allowed: {', '.join(KINDS)}")
    frame = scores.frame
    summary = summarise(frame)
    names = [*METRICS, *(["ssim_2d"] if (frame["ssim_dimensionality"] == "2D").any() else [])]
    counts = {metric: summary["all"].get(metric, summary["all"]["ssim"])["n"] for metric in names}
    return plain(
        {
            "name": name,
            "kind": kind,
            "label": label,
            "note": context.get("stopped") or "",
            "n": len(frame),
            "summary": summary,
            "patients": frame.to_dict(orient="records"),
            "details": scores.details,
            "cards": {metric: number_card(metric, counts[metric], context) for metric in names},
            "context": dict(context),
            **(more or {}),
        }
    )


def number_card(metric: str, n: int, context: Mapping[str, Any]) -> dict[str, Any]:
    """Return the card of one number: the metric's definition, how many patients it stands on, and where it is from."""
    return metrics.card(metric).as_dict() | {"n": n} | {key: context.get(key, "") for key in PROVENANCE}


def write_metrics(folder: Path, record: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write `record` to folder/<name>.json and its per-patient rows to folder/<name>.csv, each atomically.

    Every row of the csv carries its provenance, so that it can be pasted anywhere; folder/cards.csv defines the
    columns of all of them, and `cards` is its hash.
    """
    folder, definitions = Path(folder), cards_table()
    text, path = csv_text(definitions), folder / CARDS_FILE
    if not path.is_file() or path.read_text(encoding="utf-8") != text:  # the same for every record: written once
        write_text(path, text)
    frame = pd.DataFrame(record["patients"], columns=list(COLUMNS))
    for key in PROVENANCE:
        frame[key] = record["context"].get(key, "")
    frame["cards"] = hash_of(definitions.to_dict(orient="records"))
    csv = write_csv(folder / f"{record['name']}.csv", frame, float_format="%.6f")
    return write_json(folder / f"{record['name']}.json", dict(record)), csv


def cards_table() -> pd.DataFrame:
    """Return every metric card as a row."""
    return pd.DataFrame([card.as_dict() for card in metrics.CARDS.values()])


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return every record of a folder in the order of names; an empty list where nothing was evaluated yet.

    Those of an earlier version may lack some of today's metrics; see `is_current`.
    """
    return [_read(path) for path in sorted(Path(folder).glob("*.json"))]


def is_current(record: Mapping[str, Any]) -> bool:
    """Return whether a record holds all of today's metrics."""
    return set(METRICS) <= set(record["summary"].get("all", {}))


def read_record(folder: Path, name: str) -> dict[str, Any] | None:
    """Return the record of one variant, baseline or control, None where there is none."""
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


def plain(value: Any) -> Any:
    """Return `value` as valid json: numpy scalars and arrays become Python's, numbers that are not finite null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
