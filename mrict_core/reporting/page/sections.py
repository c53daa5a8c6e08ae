"""The sections that a report should have, in order. Each is made from the data, or says why it is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mrict_core import metrics
from mrict_core.evaluation.scores import CLINICAL, MAIN, METRICS, PREDECESSOR
from mrict_core.reporting.page import plots, slices
from mrict_core.reporting.page.data import PageData
from mrict_core.reporting.tables import DIGITS, HEADINGS, NOTHING

MINUS = "−"
CONTROL_HEADINGS = {
    "control_black": "black",
    "control_copy_of_mr": "copy of the MR",
    "control_bias_150": "CT + 150 HU",
    "control_shift_1": "CT 1 px aside",
}
TESTED_SHOWN = 40  # pairs in the table of comparisons; the csv has them all


class Missing(Exception):
    """Raised in place of a section's content: the reason stands in the page."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table: what is shown, what it sorts by, and whose card it has."""

    text: str
    sort: float | str | None = None
    metric: str = ""
    name: str = ""  # of the record the number belongs to
    kind: str = ""  # a class for its look
    small: str = ""  # a second line


@dataclass(frozen=True)
class Table:
    """A sortable table. `metrics` names the card behind each column, "" where there is none."""

    caption: str
    headings: list[str]
    metrics: list[str]
    rows: list[list[Cell]]
    kinds: list[str]  # of each row: variant, baseline, control or ""


@dataclass(frozen=True)
class Section:
    """A section of the page: its content, or why it is missing."""

    id: str
    title: str
    lead: str
    content: Mapping[str, Any]
    missing: str = ""


def number(value: Any, metric: str) -> str:
    """Return a number with its metric's digits, a dash for none."""
    if value is None or pd.isna(value):
        return NOTHING
    return f"{float(value):.{DIGITS.get(metric, 3)}f}".replace("-", MINUS)


def spread(statistics: Mapping[str, Any], metric: str) -> str:
    """Return "mean ± SD"."""
    text = number(statistics["mean"], metric)
    return text if statistics["sd"] is None else f"{text} ± {number(statistics['sd'], metric)}"


def interval(statistics: Mapping[str, Any], metric: str) -> str:
    """Return "[low, high]", a dash where there is none."""
    if statistics["low"] is None:
        return NOTHING
    return f"[{number(statistics['low'], metric)}, {number(statistics['high'], metric)}]"


def _whole(statistics: Mapping[str, Any], metric: str) -> tuple[str, str]:
    return spread(statistics, metric), ""


def _brief(statistics: Mapping[str, Any], metric: str) -> tuple[str, str]:
    """Return what the leaderboard has room for: of the MAE all, of PSNR and SSIM the SD below, else the mean."""
    if metric == "mae_hu":
        return spread(statistics, metric), interval(statistics, metric).replace(NOTHING, "")
    mean, *rest = spread(statistics, metric).split(" ± ")
    return mean, f"± {rest[0]}" if rest and metric in MAIN else ""


def heading(metric: str) -> str:
    """Return a column's heading; metrics without one of their own are named as in the csv."""
    return HEADINGS.get(metric, metric)


def table_of(frame: pd.DataFrame, caption: str, columns: Mapping[str, str], *, metric: str = "") -> Table:
    """Return a table of a frame: {column: heading}; numbers get the digits of `metric` or of their own column."""
    rows = []
    for record in frame[list(columns)].to_dict(orient="records"):
        cells = []
        for column, value in record.items():
            numeric = pd.api.types.is_number(value) and not isinstance(value, bool)
            if not numeric or pd.isna(value):
                text = NOTHING if value is None or value is pd.NA or value != value else _word(value)
                cells.append(Cell(text, text))
            elif pd.api.types.is_integer(value):
                cells.append(Cell(str(value), float(value)))
            else:
                own = column if column in DIGITS else metric
                cells.append(Cell(number(value, own), float(value)))
        rows.append(cells)
    kinds = [str(kind) for kind in frame["kind"]] if "kind" in frame else [""] * len(frame)
    return Table(caption, list(columns.values()), [""] * len(columns), rows, kinds)


def _word(value: Any) -> str:
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _summary_table(data: PageData, names: Sequence[str], caption: str, extra: bool = False) -> Table:
    """Return one row per record, one column per metric: mean ± SD, every number with its card."""
    board = data.board.set_index("name")
    headings, cards = ["rank", "name"], ["", ""]
    headings += [heading(name) for name in names]
    cards += list(names)
    if extra:
        headings += ["beats baselines", "note"]
        cards += ["", ""]
    rows, kinds = [], []
    for record in data.records:
        own, statistics = board.loc[record["name"]], record["summary"]["all"]
        rank = None if pd.isna(own["rank"]) else float(own["rank"])
        row = [
            Cell(NOTHING if rank is None else f"{rank:.0f}", rank),
            Cell(record["name"], record["name"], kind="name"),
        ]
        for metric in names:
            found = statistics[metric]
            text, small = (_brief if extra else _whole)(found, metric)
            row.append(Cell(text, found["mean"], metric, record["name"], small=small))
        if extra:
            beats = own["beats_baselines"]
            word = NOTHING if pd.isna(beats) else "yes" if beats else "no"
            note = "; ".join(part for part in str(own["note"]).split("; ") if part and "trivial baselines" not in part)
            row += [Cell(word, word, kind=f"beats-{word}"), Cell(note, note)]
        rows.append(row)
        kinds.append(record["kind"])
    return Table(caption, headings, cards, rows, kinds)


def _leaderboard(data: PageData) -> dict[str, Any]:
    if not len(data.board):
        raise Missing("nothing was evaluated yet; run the notebooks")
    names = (*MAIN, "me_hu", "mae_bone_hu", "dice_bone_250", "wepl_mae_mm", "continuity")
    caption = (
        "Mean ± SD over held-out patients, of the MAE also the 95 % patient bootstrap of the mean; from the bias on "
        "columns are means, the clinical panel has their SD. Click a heading to sort, a number or an i for its card."
    )
    return {"tables": [_summary_table(data, names, caption, extra=True)], "charts_after": ["leaderboard"]}


def _slices(data: PageData) -> dict[str, Any]:
    if not data.browser:
        raise Missing(data.browser_note or "no test patient could be read")
    ranked = [r["name"] for r in data.records if r["kind"] == "variant"]
    encoded = slices.encode(data.browser, ranked)
    if not encoded.patients[0]["variants"]:
        raise Missing(data.browser_note or "no variant has a checkpoint to make slices with")
    notes = [*encoded.notes, *([data.browser_note] if data.browser_note else [])]
    return {"browser": encoded, "notes": notes, "step": slices.STEP_HU}


def _comparisons(data: PageData) -> dict[str, Any]:
    frame = data.comparisons
    if not len(frame):
        raise Missing("fewer than two models were scored on the same patients")
    best = data.records[0]["name"]
    against = frame[(frame["a"] == best) | (frame["b"] == best)]
    columns = {
        **{"a": "a", "b": "b", "n": "patients", "mean_difference_hu": "a − b (HU)", "low_hu": "95 % from"},
        **{"high_hu": "to", "p": "p", "p_holm": "p (Holm)", "verdict": "verdict"},
    }
    caption = f"{best} against every other model, paired by patient; p adjusted for all {len(frame)} pairs."
    return {"tables": [table_of(against.head(TESTED_SHOWN), caption, columns)]}


def _centres(data: PageData) -> dict[str, Any]:
    if not len(data.centres):
        raise Missing("no patient's centre is known")
    tables = [_by_centre(data.centres, "centre", "centre", "Masked MAE (HU) within each centre [95 % interval].")]
    if len(data.leave_out):
        caption = "Masked MAE (HU) scored without one centre's patients: how far a mean hangs on one centre."
        tables.append(_by_centre(data.leave_out, "left_out", "without", caption))
    if len(data.folds):
        folds = {"name": "name", "left_out": "trained without", "n": "patients", "mean_hu": "MAE there (HU)"}
        folds |= {"low_hu": "95 % from", "high_hu": "to", "best_baseline_hu": "best baseline (HU)"}
        caption = "Trained without a centre and scored on it: what a model does at a hospital it has never seen."
        tables.append(table_of(data.folds, caption, folds | {"beats_baselines": "beats it"}))
    note = (
        ""
        if len(data.folds)
        else ("Training without one centre was not run; python -m mrict_core leave-one-centre-out NAME does it.")
    )
    return {"charts": ["centres"], "tables": tables, "notes": [note] if note else []}


def _by_centre(frame: pd.DataFrame, column: str, word: str, caption: str) -> Table:
    """Return one row per model, in the frame's order of names, and one column per centre."""
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
    return Table(caption, headings, [""] * len(headings), rows, [""] * len(rows))


def _clinical(data: PageData) -> dict[str, Any]:
    if not data.records:
        raise Missing("nothing was evaluated yet")
    caption = "Mean ± SD over held-out patients. Bias (ME) is sCT − CT."
    return {
        "charts": ["calibration", "tissues", "dice", "path_length"],
        "tables": [_summary_table(data, ("mae_hu", *CLINICAL), caption)],
    }


def _controls(data: PageData) -> dict[str, Any]:
    frame = data.blindness
    if not len(data.controls) or not len(frame):
        raise Missing("the control images were not scored; run notebook 07")
    rows = []
    for record in frame.to_dict(orient="records"):
        metric = record.pop("metric")
        unseen = record.pop("does not see")
        cells = [Cell(number(value, metric), value) for value in record.values()]
        rows.append([Cell(heading(metric), heading(metric), metric), *cells, Cell(unseen or NOTHING, unseen)])
    middle = [CONTROL_HEADINGS.get(name, name) for name in frame.columns[1:-1]]
    headings = ["metric", *middle, "does not see"]
    caption = "Not seen: less than 5 % of what the metric says of a black image."
    return {"tables": [Table(caption, headings, [""] * len(headings), rows, ["control"] * len(rows))]}


def _predecessor(data: PageData) -> dict[str, Any]:
    frame = data.predecessor
    if not len(frame):
        raise Missing("no variant with a printed value was scored")
    columns = {"variant": "variant", "readme": "its README"}
    columns |= {
        f"{who}_{m}": f"{who} {m.upper()}" for m in ("mse", "ssim", "fid", "vgg") for who in ("printed", "ours")
    }
    columns |= {"corrected_mse": "corrected MSE", "corrected_ssim": "corrected SSIM", "mae_hu": "MAE (HU)"}
    caption = "Printed: the predecessor's README. Ours: the same procedure on our held-out patients. Then the twins."
    tables = [table_of(frame, caption, columns, metric="predecessor_mse")]
    tables.append(table_of(frame, "Why they differ.", {"variant": "variant", "why": "why"}))
    return {
        "tables": [*tables, _summary_table(data, PREDECESSOR, "The same numbers and their twins without augmentation.")]
    }


def _features(data: PageData) -> dict[str, Any]:
    if not data.features:
        raise Missing("no feature metric was asked for")
    rows, kinds = [], []
    kind_of = {r["name"]: r["kind"] for r in (*data.records, *data.controls)}
    absent = {s["reason"] for s in data.features if s["value"] is None}
    for score in data.features:
        if score["value"] is None:
            continue
        bounds = NOTHING if score["low"] is None else f"[{score['low']:.4f}, {score['high']:.4f}]"
        rows.append(
            [
                Cell(score["variant"], score["variant"]),
                Cell(score["name"].upper(), score["name"], score["name"]),
                Cell(f"{score['value']:.4f}", score["value"]),
                Cell(bounds, score["low"]),
                Cell(f"{score['n']} of {score['patients']} patients", score["n"]),
                Cell(f"{score['weights']} {score['weights_hash'][:12]}", score["weights"]),
                Cell(score["warning"] or NOTHING, score["warning"]),
            ]
        )
        kinds.append(kind_of.get(score["variant"], ""))
    notes = sorted(f"absent: {', '.join(_names(data, reason))}: {reason}" for reason in absent)
    if not rows:
        raise Missing("; ".join(notes))
    headings = ["model", "metric", "value", "95 % interval", "slices", "weights", "warning"]
    table = Table("Slices of the held-out patients; none of these ranks a model.", headings, [""] * 7, rows, kinds)
    return {"tables": [table], "notes": notes}


def _names(data: PageData, reason: str) -> list[str]:
    return sorted({s["name"].upper() for s in data.features if s["value"] is None and s["reason"] == reason})


def _training(data: PageData) -> dict[str, Any]:
    if plots.training(data.histories) is None:
        raise Missing("no training history was found beside the checkpoints")
    return {"charts": ["training"]}


def _models(data: PageData) -> dict[str, Any]:
    scored = [*data.records, *data.controls]
    if not scored:
        raise Missing("nothing was evaluated yet")
    facts = {variant["name"]: variant for variant in data.variants}
    return {"models": [_model(record, facts.get(record["name"])) for record in scored]}


def _model(record: Mapping[str, Any], facts: Mapping[str, Any] | None) -> dict[str, Any]:
    statistics = record["summary"]["all"]
    rows = []
    for metric in METRICS:
        s = statistics[metric]
        card = record["cards"].get(metric) or metrics.card(metric).as_dict()
        cells = [
            Cell(heading(metric), heading(metric), metric, record["name"]),
            Cell(number(s["mean"], metric), s["mean"]),
        ]
        cells += [Cell(number(s["sd"], metric), s["sd"]), Cell(number(s["median"], metric), s["median"])]
        cells += [Cell(interval(s, metric), s["low"]), Cell(str(s["n"]), s["n"]), Cell(card["unit"], card["unit"])]
        rows.append(cells)
    summary = Table(
        "", ["metric", "mean", "SD", "median", "95 % interval", "n", "unit"], [""] * 7, rows, [""] * len(rows)
    )
    shown = ("mae_hu", "psnr_db", "ssim", "me_hu", "mae_bone_hu", "dice_bone_250", "wepl_mae_mm", "continuity")
    patients = [
        [
            Cell(p["patient"], p["patient"]),
            Cell(p["centre"], p["centre"]),
            Cell(str(p["n_slices"]), p["n_slices"]),
            *(Cell(number(p.get(m), m), p.get(m), m, record["name"]) for m in shown),
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


def _lineage(data: PageData) -> dict[str, Any]:
    if not data.variants:
        raise Missing("the list of experiments was not given")
    mae = {r["name"]: number(r["summary"]["all"]["mae_hu"]["mean"], "mae_hu") for r in data.records}
    children: dict[str | None, list[dict[str, Any]]] = {}
    for variant in data.variants:
        children.setdefault(variant["parent"], []).append(variant)

    def branch(parent: str | None) -> list[dict[str, Any]]:
        found = children.get(parent, [])
        return [v | {"mae": mae.get(v["name"], ""), "children": branch(v["name"])} for v in found]

    return {"tree": branch(None)}


def _corrections(data: PageData) -> dict[str, Any]:
    if not data.corrections:
        raise Missing("the list of corrections was not given")
    rows = [[Cell(old, old), Cell(new, new)] for old, new in data.corrections]
    return {"tables": [Table("", ["the predecessor", "here"], ["", ""], rows, [""] * len(rows))]}


def _definitions(data: PageData) -> dict[str, Any]:
    return {"cards": [card.as_dict() | {"heading": heading(card.name)} for card in metrics.CARDS.values()]}


def _provenance(data: PageData) -> dict[str, Any]:
    if not data.provenance:
        raise Missing("where the numbers come from was not recorded")
    return {"provenance": data.provenance}


EXPECTED: tuple[tuple[str, str, str, Callable[[PageData], dict[str, Any]]], ...] = (
    (
        "leaderboard",
        "Leaderboard",
        "Which model is nearest to the true CT, on patients it has never seen? Grey rows are trivial predictors; a "
        "model that does not beat them has learned nothing worth praise.",
        _leaderboard,
    ),
    (
        "slices",
        "Slices",
        "Every slice of the held-out patients, not the best ones. Choose two models to compare.",
        _slices,
    ),
    (
        "comparisons",
        "More than chance?",
        "A difference of means can be luck. n patients can never give a p below 2/2ⁿ: three never get below 0.25, "
        "whatever the pictures say.",
        _comparisons,
    ),
    ("centres", "Centres", "A model can do well on average and badly at one hospital.", _centres),
    (
        "clinical",
        "Clinical panel",
        "Where the errors are: in air, soft tissue or bone; along beams (a surrogate for dose, not dose); from slice "
        "to slice; and how much of the error is misalignment.",
        _clinical,
    ),
    (
        "controls",
        "What each number does not see",
        "Images that no model made: black, a copy of the MR, the true CT + 150 HU, the true CT one pixel aside.",
        _controls,
    ),
    (
        "predecessor",
        "The predecessor’s numbers",
        "What its README printed, what its own procedure gives here, and what is left when its faults are taken out.",
        _predecessor,
    ),
    (
        "features",
        "Feature metrics",
        "FID, KID and LPIPS: how like CT slices look to a network trained on photographs.",
        _features,
    ),
    ("training", "Training", "The masked MAE on the validation patients, epoch by epoch.", _training),
    ("models", "Model by model", "Every number of every model, patient by patient, and where it comes from.", _models),
    ("lineage", "Lineage", "Who was derived from whom; numbers are masked MAE in HU where scored.", _lineage),
    ("corrections", "What was corrected", "The predecessor’s choices that made its numbers look better.", _corrections),
    ("definitions", "Definitions", "The card of every metric.", _definitions),
    ("provenance", "Provenance", "Which data, code, versions and checkpoints made this page.", _provenance),
)


def build(data: PageData) -> list[Section]:
    """Return every expected section, in order; those that cannot be made carry their reason."""
    found = []
    for id_, title, lead, make in EXPECTED:
        try:
            found.append(Section(id_, title, lead, make(data)))
        except Missing as reason:
            found.append(Section(id_, title, lead, {}, str(reason)))
    return found
