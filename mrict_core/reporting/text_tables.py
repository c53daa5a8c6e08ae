"""Tables as text and markdown, every metric with its own number of digits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mrict_core import metrics
from mrict_core.data.subjects import people_of
from mrict_core.evaluation.records import PROVENANCE, seeds_remark
from mrict_core.files import write_csv, write_text
from mrict_core.metrics import NOTHING
from mrict_core.paths import printable, some

if TYPE_CHECKING:
    from mrict_core.evaluation.compare import RunComparison

FEWEST = 5  # people; of fewer no interval is shown, and figures draw points without a box
P_VALUES = ("p", "p_holm")
SPREADS = ("_sd", "_seeds_sd", "_low", "_high")  # columns that join the one they are named after
OF_MAE = ("mean_hu", "low_hu", "high_hu", "mean_difference_hu", "best_baseline_hu")  # columns that hold it
HEADINGS = {  # of columns that are not metrics
    "ssim_dimensionality": "SSIM in",
    "beats_baselines": "beats baselines",
    "n_slices": "slices",
    "n_voxels": "voxels",
    "mean_hu": metrics.heading("mae_hu"),
    "low_hu": "95 % from",
    "high_hu": "to",
    "left_out": "without centre",
    "mean_difference_hu": "a − b (HU)",
    "p_holm": "p (Holm)",
    "best_baseline_hu": "best baseline (HU)",
}
OLD = "not computed by the version that scored it; evaluate again"
NAMES_SHOWN = 6  # in a remark
FACTS_SHOWN = 3  # records for which a differing fact is listed


def metric_of(column: str) -> metrics.Metric | None:
    """Return the metric of a column, None for other columns."""
    whose, _, number = column.partition("_")
    if whose in ("printed", "ours"):
        column = f"predecessor_{number}"
    elif whose == "corrected" and column not in metrics.TABLE:
        column = number
    return metrics.TABLE.get("mae_hu" if column in OF_MAE else column)


def heading(column: str) -> str:
    """Return a column's heading, by default its name in the csv."""
    return HEADINGS.get(column) or metrics.heading(column)


def best_places(values: Sequence[float | None], key: str) -> set[int]:
    """Return the places of a metric's best values, as printed; none of a single value, or for other columns.

    A bias has no best value: errors of both signs cancel, so a poor model's can be near 0.
    """
    metric = metrics.TABLE.get(key)
    known = {place: value for place, value in enumerate(values) if not (value is None or pd.isna(value))}
    if metric is None or metric.better in ("none", "zero") or len(known) < 2:
        return set()
    best = metric.text(min(known.values(), key=metric.order))
    return {place for place, value in known.items() if metric.text(value) == best}


def count_people(patients: Sequence[Mapping[str, Any]]) -> int:
    """Return how many people the patients of a record are: a person may have several images."""
    return len(set(people_of(row["patient"] for row in patients)))


def enough(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table without the intervals (`x_low`, `x_high`, `low_x`, `high_x`) of an `n` below `FEWEST`."""
    few = frame["n"] < FEWEST if "n" in frame else pd.Series(False, index=frame.index)
    bounds = [c for c in frame if str(c).startswith(("low_", "high_")) or str(c).endswith(("_low", "_high"))]
    return frame.assign(**{bound: frame[bound].mask(few) for bound in bounds})


def text_table(frame: pd.DataFrame) -> str:
    """Return `frame` as aligned text.

    Columns `x_sd`, `x_seeds_sd`, `x_low`, `x_high` join `x` as "mean ± SD (± SD over seeds) [low, high]".
    """
    headings, rows, numeric = cells(frame)
    widths = [max(len(cell) for cell in column) for column in zip(headings, *rows, strict=True)]
    lines = [headings, ["-" * width for width in widths], *rows]
    align = [f"{'>' if right else '<'}{width}" for width, right in zip(widths, numeric, strict=True)]
    return "\n".join("  ".join(map(format, line, align)).rstrip() for line in lines)


def markdown_table(frame: pd.DataFrame) -> str:
    """Return `frame` as a markdown table, rounded as in `text_table`."""
    headings, rows, numeric = cells(frame)
    rule = ["---:" if right else "---" for right in numeric]
    escaped = [[_markdown(cell) for cell in row] for row in (headings, *rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (escaped[0], rule, *escaped[1:]))


def _markdown(cell: str) -> str:
    """Escape a cell; "mean ± SD" does not wrap."""
    return cell.replace("|", "\\|").replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")


def remarks(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Return the remarks on a table of metrics: several seeds, and the reasons for dashes."""
    return [*filter(None, [seeds_remark(records)]), *absent_remarks(records, names)]


def absent_remarks(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Return the reasons for the dashes in a table, each with its metrics, models and patients."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for metric in names:
        for record in records:
            lacking = [row["patient"] for row in record["patients"] if row.get(metric) is None or pd.isna(row[metric])]
            if not lacking:
                continue
            everyone = len(lacking) == len(record["patients"]) > 1
            who = f"all {len(lacking)} patients" if everyone else some(lacking, NAMES_SHOWN)
            why = OLD if metric in record.get("lacks", ()) else metrics.metric(metric).absent
            found.setdefault((why, who), {}).setdefault(heading(metric), []).append(record["name"])
    remarks = []
    for (why, who), own in found.items():
        models = {tuple(names) for names in own.values()}
        partial = any(len(names) < len(records) for names in models)
        which = f" ({some(max(models, key=len), NAMES_SHOWN)})" if partial else ""
        remarks.append(f"Absent: {', '.join(own)} of {who}{which}: {why}.")
    return remarks


def write_leaderboard(
    folder: Path, frame: pd.DataFrame, label: str, context: Mapping[str, Any] | None = None, said: Sequence[str] = ()
) -> tuple[Path, Path]:
    """Write folder/leaderboard.csv (unrounded) and folder/leaderboard.md with the metrics' definitions; return both.

    `context` (of a record in the table) adds the columns of provenance; `said` are `remarks` above the table.
    """
    csv = write_csv(Path(folder) / "leaderboard.csv", with_provenance(frame, context or {}))
    shown = frame.drop(columns="label") if (frame["label"] == label).all() else frame
    parts = [
        f"# Leaderboard ({label})",
        "Held-out patients; mean ± SD over patients, for the MAE with the 95 % patient bootstrap interval of the mean "
        f"from {FEWEST} patients on; ranked by masked MAE. Rows of kind *baseline* are trivial predictors that a model "
        "must beat.",
        *said,
        markdown_table(shown),
        "## How the numbers are defined",
        metrics.definitions(_metrics_of(frame)),
    ]
    return csv, write_text(Path(folder) / "leaderboard.md", "\n\n".join(parts) + "\n")


def comparison_text(comparison: RunComparison) -> str:
    """Return what changed between two runs as text: facts, patients, numbers, then variants in only one run."""
    facts = _condensed(comparison.context)
    parts = ["Differences in how the numbers were obtained:"]
    parts += [text_table(facts) if len(facts) else "none in the records"]
    changes = comparison.changes.copy()
    bounds = zip(map(metrics.metric, changes["metric"]), changes["low"], changes["high"], strict=True)
    changes["95 % interval"] = [
        NOTHING if math.isnan(low) or math.isnan(high) else f"[{row.text(low)}, {row.text(high)}]"
        for row, low, high in bounds
    ]
    shown = ["name", "metric", "n", "mean_a", "mean_b", "difference", "95 % interval", "p_holm", "verdict"]
    parts += ["", *_patient_lines(comparison.patients)]
    parts += [
        "",
        "What changed (difference b − a, mean over the patients in both runs, 95 % patient bootstrap):",
        text_table(changes[shown]),
    ]
    for which, names in (("a", comparison.only_a), ("b", comparison.only_b)):
        if names:
            parts += ["", f"Only in {which}: {', '.join(names)}"]
    return "\n".join(parts)


def _patient_lines(patients: pd.DataFrame) -> list[str]:
    """Return the patients behind the numbers, equal records in one line, and the seeds if there are several."""
    lines: dict[str, list[str]] = {}
    for row in patients.to_dict(orient="records"):
        parts = [f"{len(row['common'])} in both runs"]
        for key, words in (
            ("only_a", "left out, only in a"),
            ("only_b", "left out, only in b"),
            ("other_images", "left out, same name but different images"),
        ):
            if row[key]:
                parts.append(f"{len(row[key])} {words}: {', '.join(row[key])}")
        if max(len(row["seeds_a"]), len(row["seeds_b"])) > 1:
            a, b = (", ".join(map(str, row[key])) or "none" for key in ("seeds_a", "seeds_b"))
            parts.append(f"values are means over seeds (a: {a}; b: {b}); intervals do not include their spread")
        lines.setdefault("; ".join(parts), []).append(row["name"])
    *few, (text, names) = sorted(lines.items(), key=lambda item: len(item[1]))
    rest = "the others" if few and len(names) > FACTS_SHOWN else ", ".join(names) if few else "all"
    return [f"Patients of {who}: {text}" for who, text in [*((", ".join(n), t) for t, n in few), (rest, text)]]


def _condensed(facts: pd.DataFrame) -> pd.DataFrame:
    """Return the facts with one row for a fact that differs in many records, in different ways (hashes)."""
    counts = facts.groupby("fact")["name"].transform("size")
    many = facts[counts > FACTS_SHOWN].groupby("fact").size().reset_index(name="name")
    many = many.assign(name=many["name"].map("{} records".format), a="differ", b="differ")
    return pd.concat([facts[counts <= FACTS_SHOWN], many[facts.columns]], ignore_index=True)


def with_provenance(frame: pd.DataFrame, context: Mapping[str, Any]) -> pd.DataFrame:
    """Return a table with profile, protocol, split and code in every row, so that a pasted row keeps its origin.

    cards.csv and summary.csv define the columns.
    """
    own = ("seed", "checkpoint_hash")  # of each record, not of the table
    keys = [key for key in PROVENANCE if key not in own and key in context and key not in frame]
    return frame.assign(**{key: context[key] for key in keys})


def _metrics_of(frame: pd.DataFrame) -> list[str]:
    """Return the metrics of the columns; SSIM in the one or two forms (2D, 3D) that were used."""
    ways = set(frame["ssim_dimensionality"]) if "ssim_dimensionality" in frame else {"3D"}
    names = [column for column in metrics.TABLE if column in frame]
    if any("2D" in way for way in ways):
        names.insert(names.index("ssim") + 1, "ssim_2d")
    if not any("3D" in way for way in ways):
        names.remove("ssim")
    return names


def cells(frame: pd.DataFrame) -> tuple[list[str], list[list[str]], list[bool]]:
    """Return headings, rows of text, and which columns are numbers (right-aligned); no interval of few people."""
    frame = enough(frame)
    joined = {f"{c}{end}" for c in frame.columns for end in SPREADS}
    columns = [c for c in frame.columns if c not in joined]
    texts = []
    for column in columns:
        rows = _metrics_behind(frame, column)
        values = [_text(value, metric) for value, metric in zip(frame[column], rows, strict=True)]
        for end, form in (("_sd", "{} ± {}"), ("_seeds_sd", "{} (± {} over seeds)")):
            if f"{column}{end}" in frame:
                spreads = zip(values, frame[f"{column}{end}"], rows, strict=True)
                values = [m if _none(m, sd) else form.format(m, _text(sd, metric)) for m, sd, metric in spreads]
        if {f"{column}_low", f"{column}_high"} <= set(frame.columns):
            bounds = zip(values, frame[f"{column}_low"], frame[f"{column}_high"], rows, strict=True)
            values = [
                mean if _none(low, high) else f"{mean} [{_text(low, metric)}, {_text(high, metric)}]"
                for mean, low, high, metric in bounds
            ]
        texts.append(values)
    headings = [heading(str(column)) for column in columns]
    numeric = [pd.api.types.is_numeric_dtype(frame[c]) and not pd.api.types.is_bool_dtype(frame[c]) for c in columns]
    return headings, [list(row) for row in zip(*texts, strict=True)], numeric


def _metrics_behind(frame: pd.DataFrame, column: str) -> list[metrics.Metric | None]:
    """Return the metric of each value in a column: the column's, or that of the row."""
    if (own := metric_of(column)) or column in P_VALUES or "metric" not in frame:
        return [own] * len(frame)
    return [metrics.TABLE.get(key) for key in frame["metric"]]


def _none(*values: Any) -> bool:
    return any(value == NOTHING or pd.isna(value) for value in values)


def _text(value: Any, metric: metrics.Metric | None) -> str:
    if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return NOTHING
    if isinstance(value, bool) or pd.api.types.is_bool(value):
        return "yes" if value else "no"
    if pd.api.types.is_float(value):
        return metric.text(value) if metric else f"{value:.4g}"
    return heading(value) if metric and value == metric.key else printable(" ".join(str(value).split()))
