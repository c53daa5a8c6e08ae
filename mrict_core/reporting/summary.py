"""The tables of a run as markdown and csv, to paste elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mrict_core import metrics
from mrict_core.data.subjects import people_of
from mrict_core.evaluation import seeds_of, seeds_sd
from mrict_core.files import write_csv, write_text
from mrict_core.reporting.text_tables import markdown_table

Record = Mapping[str, Any]
GROUPS = ("synthrad2023", "clinical", "predecessor")  # panels whose definitions summary.md ends with
OVER_SEEDS = ("sd_over_seeds", "n_seeds")
CARD_FIELDS = tuple(field for field in metrics.CARD_LABELS if field != "absent")  # `absent` is given per record


def summary_table(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row per record and metric: mean, SD, median, 95 % interval, n, and the whole card of the number.

    With several seeds, `sd_over_seeds` and `n_seeds` follow the SD over patients.
    """
    rows = []
    for record in records:
        for metric in metrics.recorded():
            statistics = record["summary"]["all"][metric]
            card = metrics.metric(metric).card() | record["cards"].get(metric, {})
            row = {"name": record["name"], "kind": record["kind"], "label": record["label"], "metric": metric}
            provenance = {key: value for key, value in card.items() if key not in (*metrics.CARD_FIELDS, "n")}
            people = len(set(people_of(row["patient"] for row in record["patients"])))
            lacking = people - statistics["n"]
            row["absent"] = f"{lacking} of {people}: {card['absent']}" if lacking else ""
            row |= dict(zip(OVER_SEEDS, (seeds_sd(record, metric), len(seeds_of(record)) or None), strict=True))
            rows.append(row | statistics | {key: card[key] for key in CARD_FIELDS} | provenance)
        rows += [_feature_row(record, score) for score in record.get("features", [])]
    frame = pd.DataFrame(rows)
    several = any(len(seeds_of(record)) > 1 for record in records)
    return frame if several else frame.drop(columns=list(OVER_SEEDS), errors="ignore")


def panel_table(records: Sequence[Record]) -> pd.DataFrame:
    """Return the clinical panel: one row per record, best masked MAE first, the mean of every metric over patients;
    `n_bone` is the number of bone voxels of the reference over all patients."""
    rows, shown = [], ("mae_hu", *metrics.keys("clinical"))
    for record in records:
        means = {metric: record["summary"]["all"][metric]["mean"] for metric in shown}
        counts = [patient.get("n_bone") for patient in record["patients"]]
        bone = None if None in counts else sum(counts)  # not counted by an earlier version
        rows.append({"name": record["name"], "kind": record["kind"], **means, "n_bone": bone})
    columns = ["name", "kind", *shown, "n_bone"]
    types = dict.fromkeys(shown, float) | {"n_bone": "Int64"}
    frame = pd.DataFrame(rows, columns=columns).astype(types)
    return frame.sort_values(["mae_hu", "name"], na_position="last", ignore_index=True)


def _feature_row(record: Record, score: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a feature metric; an absent one has its reason."""
    card = metrics.metric(score["name"]).card()
    row = {"name": record["name"], "kind": record["kind"], "label": record["label"], "metric": score["name"]}
    row |= {"mean": score["value"], "low": score["low"], "high": score["high"], "n": score["n"]}
    row |= {key: card[key] for key in CARD_FIELDS}
    weights = f"{score['weights']} {score['weights_hash'][:12]}".strip() or card["weights"]
    remark = "; ".join(part for part in (score.get("reason"), score.get("warning"), card["note"]) if part)
    return row | {"weights": weights, "note": remark}


def write_summary(
    folder: Path, title: str, label: str, tables: Mapping[str, tuple[str, pd.DataFrame]], records: Sequence[Record]
) -> tuple[Path, Path]:
    """Write folder/summary.md (rounded tables with a sentence each) and folder/summary.csv (unrounded); return both.

    tables: {heading: (sentence, table)} in order; an empty table is marked as missing.
    """
    parts = [f"# {title} ({label})"]
    for heading, (sentence, table) in tables.items():
        parts += [f"## {heading}", sentence, markdown_table(table) if len(table) else "*missing*"]
    parts.append("## How the numbers are defined")
    for panel in GROUPS:
        parts += [f"### {metrics.PANELS[panel]}", metrics.definitions(metrics.keys(panel))]
    csv = write_csv(Path(folder) / "summary.csv", summary_table(records))
    return write_text(Path(folder) / "summary.md", "\n\n".join(parts) + "\n"), csv
