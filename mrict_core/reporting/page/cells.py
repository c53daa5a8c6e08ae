"""Tables of the page: cells with their sort value and metric card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mrict_core import metrics
from mrict_core.evaluation import seeds_of, seeds_sd
from mrict_core.evaluation.dose_table import MAE, DoseResults
from mrict_core.metrics import NOTHING
from mrict_core.reporting.page.data import PageData
from mrict_core.reporting.text_tables import FEWEST, best_places, enough, heading, metric_of

MINUS = "−"
BOUNDS = ("low_hu", "high_hu")
P_SHOWN = 0.001  # smaller values are shown as below this


@dataclass(frozen=True)
class Cell:
    """One cell of a table: its text, its sort value and the metric of its card."""

    text: str
    sort: float | str | None = None
    metric: str = ""
    name: str = ""  # of the record
    kind: str = ""  # css class
    small: str = ""  # a second line


@dataclass(frozen=True)
class Table:
    """A sortable table. `metrics` names the card of each column, "" for none."""

    caption: str
    headings: list[str]
    metrics: list[str]
    rows: list[list[Cell]]
    kinds: list[str]  # of each row: variant, baseline, control or ""


def number(value: Any, metric: str) -> str:
    """Return a number with its metric's digits, a dash for none."""
    return metrics.metric(metric).text(value).replace("-", MINUS)


def order(value: float | None, metric: str) -> float | None:
    """Return the sort value of a metric's cell, the best first."""
    return None if value is None else metrics.metric(metric).order(value)


def spread(statistics: Mapping[str, Any], metric: str) -> str:
    """Return "mean ± SD"."""
    text = number(statistics["mean"], metric)
    return text if statistics["sd"] is None else f"{text} ± {number(statistics['sd'], metric)}"


def interval(statistics: Mapping[str, Any], metric: str) -> str:
    """Return "[low, high]", a dash where there is none, or fewer than FEWEST people."""
    if statistics["low"] is None or statistics.get("patients", statistics["n"]) < FEWEST:  # n of features: slices
        return NOTHING
    return f"[{number(statistics['low'], metric)}, {number(statistics['high'], metric)}]"


def _brief(statistics: Mapping[str, Any], metric: str, over_seeds: str) -> tuple[str, str]:
    """Return (text, second line) of a leaderboard cell: MAE in full, PSNR and SSIM with SD, otherwise the mean."""
    if metric == "mae_hu":
        bounds = interval(statistics, metric).replace(NOTHING, "")
        return spread(statistics, metric), " ".join(filter(None, (bounds, over_seeds)))
    mean, *sd = spread(statistics, metric).split(" ± ")
    small = " ".join(filter(None, (*(f"± {value}" for value in sd), over_seeds)))
    return mean, small if metric in metrics.keys("synthrad2023") else ""


def _over_seeds(record: Mapping[str, Any], metric: str) -> str:
    """Return "± SD over seeds", "" for one seed."""
    sd = seeds_sd(record, metric)
    known = sd is not None and record["summary"]["all"][metric]["mean"] is not None
    return f"± {number(sd, metric)} over seeds" if known else ""


def table_of(frame: pd.DataFrame, caption: str, columns: Mapping[str, str]) -> Table:
    """Return a frame as a table; columns: {column: heading}; numbers have the digits of their column's metric.

    Intervals of fewer than FEWEST people are left out, and their columns if no other is left.
    """
    frame, rows = enough(frame), []
    columns = {c: heading for c, heading in columns.items() if c not in BOUNDS or frame[c].notna().any()}
    for record in frame[list(columns)].to_dict(orient="records"):
        cells = []
        for column, value in record.items():
            numeric = pd.api.types.is_number(value) and not isinstance(value, bool)
            if not numeric or pd.isna(value):
                text = NOTHING if value is None or value is pd.NA or value != value else _word(value)
                cells.append(Cell(text, text))
            elif column in ("p", "p_holm") and value < P_SHOWN:
                cells.append(Cell(f"< {P_SHOWN}", float(value)))
            elif pd.api.types.is_integer(value):
                cells.append(Cell(str(value), float(value)))
            else:
                own = metric_of(column)
                text = own.text(value) if own else f"{value:.3f}"
                cells.append(Cell(text.replace("-", MINUS), float(value)))
        rows.append(cells)
    kinds = [str(kind) for kind in frame["kind"]] if "kind" in frame else [""] * len(frame)
    return Table(caption, list(columns.values()), [""] * len(columns), rows, kinds)


def _word(value: Any) -> str:
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def summary_table(data: PageData, names: Sequence[str], caption: str, extra: bool = False) -> Table:
    """Return one row per record, one column per metric: mean ± SD, every number with its card."""
    board = data.board.set_index("name")
    several = "seeds" in board
    headings = ["rank", "name", *(["seeds"] if several else [])]
    cards = [""] * len(headings)
    headings += [heading(name) for name in names]
    cards += list(names)
    noted = extra and any(own_note(board.loc[record["name"]]) for record in data.records)
    if extra:
        headings += ["beats baselines", *(["note"] if noted else [])]
        cards += ["", *([""] if noted else [])]
    means = {metric: [record["summary"]["all"][metric]["mean"] for record in data.records] for metric in names}
    best = {metric: best_places(own, metric) for metric, own in means.items()}
    rows, kinds = [], []
    for place, record in enumerate(data.records):
        own, statistics = board.loc[record["name"]], record["summary"]["all"]
        rank = None if pd.isna(own["rank"]) else float(own["rank"])
        row = [
            Cell(NOTHING if rank is None else f"{rank:.0f}", rank),
            Cell(record["name"], record["name"], kind="name"),
            *([Cell(own["seeds"] or NOTHING, own["seeds"])] if several else []),
        ]
        for metric in names:
            found = statistics[metric]
            over_seeds = _over_seeds(record, metric)
            text, small = _brief(found, metric, over_seeds) if extra else (spread(found, metric), over_seeds)
            kind = "best" if place in best[metric] else ""
            row.append(Cell(text, order(found["mean"], metric), metric, record["name"], kind, small))
        if extra:
            beats = own["beats_baselines"]
            word = NOTHING if pd.isna(beats) else "yes" if beats else "no"
            row.append(Cell(word, word, kind=f"beats-{word}"))
            row += [Cell(own_note(own), own_note(own))] if noted else []
        rows.append(row)
        kinds.append(record["kind"])
    return Table(caption, headings, cards, rows, kinds)


def dose_table(found: DoseResults, modality: str) -> Table:
    """Return a modality's means over people, one row per model, every dose measure with its card."""
    frame = found.of(modality, found.means)
    keys = [key for key in (MAE, *metrics.keys("dose")) if key in frame]
    best = {key: best_places(list(frame[key]), key) for key in keys}
    rows = []
    for place, row in enumerate(frame.to_dict(orient="records")):
        name = row["name"]
        cells = [Cell(name, name, kind="name"), Cell(str(row["n"]), float(row["n"]))]
        for key in keys:
            value = None if pd.isna(row[key]) else float(row[key])
            kind = "best" if place in best[key] else ""
            cells.append(Cell(number(value, key), order(value, key), key, name, kind))
        rows.append(cells)
    settings = found.settings
    caption = (
        f"{modality.capitalize()}: means over people; one fraction of {settings['dose_gy']:g} Gy, dose grid "
        f"{settings['grid_mm']:g} mm."
    )
    headings = ["name", "people", *map(heading, keys)]
    return Table(caption, headings, ["", "", *keys], rows, [found.kinds[row["name"]] for _, row in frame.iterrows()])


def own_note(row: pd.Series) -> str:
    """Return a model's note without what the column "beats baselines" already says."""
    return "; ".join(part for part in str(row["note"]).split("; ") if part and "trivial baselines" not in part)


def by_centre(frame: pd.DataFrame, column: str, word: str, caption: str) -> Table:
    """Return one row per model, in the frame's order of names, and one column per centre, with intervals if any."""
    frame = enough(frame)
    bounded = "low_hu" in frame and frame["low_hu"].notna().any()
    centres = sorted(frame[column].unique())
    counts = frame.groupby(column)["n"].max()
    rows = []
    for name in dict.fromkeys(frame["name"]):
        cells = [Cell(name, name)]
        for centre in centres:
            found = frame[(frame["name"] == name) & (frame[column] == centre)].to_dict(orient="records")
            if not found:
                cells.append(Cell(NOTHING))
                continue
            text, bounds = number(found[0]["mean_hu"], "mae_hu"), (found[0].get("low_hu"), found[0].get("high_hu"))
            if not any(pd.isna(bound) for bound in bounds):
                text += f" [{number(bounds[0], 'mae_hu')}, {number(bounds[1], 'mae_hu')}]"
            cells.append(Cell(text, found[0]["mean_hu"]))
        rows.append(cells)
    headings = ["name", *(f"{word} {centre} (n = {counts[centre]})" for centre in centres)]
    return Table(
        f"{caption}{' [95 % interval]' if bounded else ''}.", headings, [""] * len(headings), rows, [""] * len(rows)
    )


def model(record: Mapping[str, Any], facts: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a model's details: all numbers, over patients and patient by patient, and their origin."""
    statistics, several, bounded = record["summary"]["all"], len(seeds_of(record)) > 1, record["n"] >= FEWEST
    rows = []
    for metric in metrics.recorded():
        s, unit = statistics[metric], metrics.metric(metric).unit
        cells = [Cell(heading(metric), heading(metric), metric, record["name"])]
        cells += [Cell(number(s[key], metric), s[key]) for key in ("mean", "sd")]
        if several:
            cells.append(Cell(number(seeds_sd(record, metric), metric), seeds_sd(record, metric)))
        cells.append(Cell(number(s["median"], metric), s["median"]))
        cells += [Cell(interval(s, metric), s["low"])] if bounded else []
        cells += [Cell(str(s["n"]), s["n"]), Cell(unit, unit)]
        rows.append(cells)
    names = ["metric", "mean", "SD", *(["SD over seeds"] if several else []), "median"]
    names += [*(["95 % interval"] if bounded else []), "n", "unit"]
    summary = Table("", names, [""] * len(names), rows, [""] * len(rows))
    shown = metrics.keys("leaderboard")
    patients = [
        [
            Cell(p["patient"], p["patient"]),
            Cell(p["centre"], p["centre"]),
            Cell(str(p["n_slices"]), p["n_slices"]),
            *(Cell(number(p.get(m), m), order(p.get(m), m), m, record["name"]) for m in shown),
            Cell(p.get("flags") or NOTHING, p.get("flags")),
        ]
        for p in record["patients"]
    ]
    headings = ["patient", "centre", "slices", *map(heading, shown), "flags"]
    one = Table("", headings, ["", "", "", *shown, ""], patients, [""] * len(patients))
    context = {k: v for k, v in record["context"].items() if not isinstance(v, Mapping) and v not in ("", None)}
    return {
        "name": record["name"],
        "kind": record["kind"],
        "note": record.get("note") or "",
        "mae": spread(statistics["mae_hu"], "mae_hu"),
        "facts": facts,
        "summary": summary,
        "patients": one,
        "context": context,
    }
