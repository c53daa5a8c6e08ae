"""The sections of a report, in order. Each is made from the data, or says why it is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mrict_core import metrics
from mrict_core.evaluation import seeds_of, shown_name
from mrict_core.hu import BIAS_HU
from mrict_core.metrics import NOTHING
from mrict_core.metrics.predecessor import NUMBERS
from mrict_core.paths import SUITE_COMMAND
from mrict_core.reporting.dose_text import dose_notes
from mrict_core.reporting.page import patient_files, plots, slices
from mrict_core.reporting.page.cells import (
    Cell,
    Table,
    by_centre,
    dose_table,
    interval,
    model,
    number,
    summary_table,
    table_of,
)
from mrict_core.reporting.page.data import PageData
from mrict_core.reporting.text_tables import FEWEST, absent_remarks, heading, remarks

CONTROL_HEADINGS = {
    "control_black": "black",
    "control_copy_of_mr": "copy of the MR",
    "control_bias_150": f"CT + {BIAS_HU:g} HU",
    "control_shift_1": "CT + 1 px",
}
TESTED_SHOWN = 40  # pairs in the table of comparisons; the csv has them all


class Missing(Exception):
    """Raised instead of a section's content; the page shows the reason."""


@dataclass(frozen=True)
class Section:
    """A section of the page: its content, or why it is missing."""

    id: str
    title: str
    lead: str
    content: Mapping[str, Any]
    missing: str = ""


def tested(data: PageData) -> int:
    """Return the number of held-out people."""
    return max((record["n"] for record in data.records), default=0)


def _leaderboard(data: PageData) -> dict[str, Any]:
    if not len(data.board):
        raise Missing(f"nothing has been evaluated; run {SUITE_COMMAND}")
    names = metrics.keys("leaderboard")
    how = "Values of the one held-out patient; one patient has no spread and no interval."
    if (n := tested(data)) > 1:
        bounds = ", for the MAE with the 95 % patient bootstrap interval of the mean" if n >= FEWEST else ""
        how = (
            f"Mean ± SD over {n} held-out patients{bounds}. From the bias on, columns are means; their SD is in the "
            "clinical panel."
        )
    caption = f"{how} The best value of a column is bold; a bias has none, as errors of both signs cancel."
    table = summary_table(data, names, caption, extra=True)
    hint = "Click a heading to sort, best first; click a number or an i for its definition."
    notes = remarks(data.records, names)
    return {"tables": [table], "charts_after": ["leaderboard"], "notes": notes, "hint": hint}


def _slices(data: PageData) -> dict[str, Any]:
    readers = dict(data.browser)
    if not readers:
        raise Missing(data.browser_note or "no test patient could be read")
    entries = patient_files.listed(data)
    inside = [entry for entry in entries if not entry["file"]]
    budget = slices.MAX_BYTES // len(inside)
    found = {
        entry["patient"]: slices.encode(readers[entry["patient"]](), patient_files.priority(data), budget)
        for entry in inside
    }
    first = found[inside[0]["patient"]]
    if not first.facts["names"]:
        raise Missing("; ".join(first.facts["notes"]) or "no model has a checkpoint to predict slices with")
    blocks = {f"{name}/{kind}": block for name, own in found.items() for kind, block in own.blocks.items()}
    return {
        "patients": [e | {"facts": found[e["patient"]].facts if not e["file"] else None} for e in entries],
        "blocks": blocks,
        "named": _named(inside),
        "beside": len(entries) - len(inside),
        "note": data.browser_note,
        "step": slices.STEP_HU,
        "hint": "Choose two models or baselines to compare.",
    }


def _named(inside: Sequence[Mapping[str, Any]]) -> str:
    """Return the patients inside the page in words."""
    return ", ".join(
        f"{entry['role']} {entry['patient']}".strip()
        + (f" ({number(entry['mae'], 'mae_hu')} HU)" if entry["mae"] is not None else "")
        for entry in inside
    )


def _comparisons(data: PageData) -> dict[str, Any]:
    frame = data.comparisons
    if not len(frame):
        raise Missing("fewer than two models have been scored on the same patients")
    best = data.records[0]["name"]
    against = frame[(frame["a"] == best) | (frame["b"] == best)]
    columns = {
        **{"a": "a", "b": "b", "n": "patients", "mean_difference_hu": "a − b (HU)", "low_hu": "95 % from"},
        **{"high_hu": "to", "p": "p", "p_holm": "p (Holm)", "verdict": "verdict"},
    }
    caption = f"{best} against every other model, paired by patient; p adjusted for all {len(frame)} pairs."
    n = tested(data)
    lead = "A difference of means can be chance. One patient allows no test."
    if n > 1:
        lead = (
            f"A difference of means can be chance. With {n} patients p cannot fall below {2 / 2**n:.3g}, however clear "
            "the images."
        )
    return {"tables": [table_of(against.head(TESTED_SHOWN), caption, columns)], "lead": lead}


def _centres(data: PageData) -> dict[str, Any]:
    if not len(data.centres):
        raise Missing("no patient's centre is known")
    tables = [by_centre(data.centres, "centre", "centre", "Masked MAE (HU) by centre")]
    if len(data.leave_out):
        caption = "Masked MAE (HU) without the patients of one centre: how much the mean depends on that centre"
        tables.append(by_centre(data.leave_out, "left_out", "without", caption))
    if len(data.folds):
        folds = {"name": "name", "left_out": "trained without", "n": "patients", "mean_hu": "MAE there (HU)"}
        folds |= {"low_hu": "95 % from", "high_hu": "to", "best_baseline_hu": "best baseline (HU)"}
        caption = "Trained without a centre and scored on it: how a model does at an unseen hospital."
        tables.append(table_of(data.folds, caption, folds | {"beats_baselines": "beats it"}))
    notes = []
    if not len(data.folds):
        notes = ["Training without one centre has not been run; use python -m mrict_core leave-one-centre-out NAME."]
    return {"charts": ["centres"], "tables": tables, "notes": notes}


def _clinical(data: PageData) -> dict[str, Any]:
    if not data.records:
        raise Missing("nothing has been evaluated")
    over = f"Mean ± SD over {n} held-out patients" if (n := tested(data)) > 1 else "Values of the one held-out patient"
    caption = f"{over}. Bias (ME) is the mean of sCT − CT."
    tables = [summary_table(data, ("mae_hu", *metrics.keys("clinical")), caption)]
    if any(record["context"].get("sd_factors") for record in data.records):
        sure = "Uncertainty of the models that draw samples; the others have none."
        tables.append(summary_table(data, ("mae_hu", *metrics.keys("uncertainty")), sure))
    return {
        "charts": ["calibration", "tissues", "dice", "path_length"],
        "tables": tables,
        "notes": absent_remarks(data.records, metrics.keys("clinical")),
    }


def _dose(data: PageData) -> dict[str, Any]:
    found = data.dose
    if found is None:
        raise Missing(
            "not computed; get it with python -m mrict_core evaluate NAME --dose (once before: pip install --no-deps "
            "-r requirements-dose.txt)"
        )
    tables = []
    for modality in found.modalities:
        tables.append(dose_table(found, modality))
        caption = f"{modality.capitalize()}: ranks, 1 is best. Signed changes are ranked by their size."
        ranks = found.of(modality, found.ranks)
        tables.append(table_of(ranks, caption, {column: column for column in ranks}))
    lead = (
        f"What changes in the dose of a plan made on the CT. {found.note.capitalize()}. Test targets, not lesions; not "
        "comparable with the tables of a challenge."
    )
    return {"lead": lead, "tables": tables, "charts_after": ["dose_ranges"], "notes": dose_notes(found)}


def _controls(data: PageData) -> dict[str, Any]:
    frame = data.blindness
    if not len(data.controls) or not len(frame):
        raise Missing("the control images have not been scored")
    rows = []
    for record in frame.to_dict(orient="records"):
        metric = record.pop("metric")
        unseen = record.pop("does not see")
        cells = [Cell(number(value, metric), value) for value in record.values()]
        rows.append([Cell(heading(metric), heading(metric), metric), *cells, Cell(unseen or NOTHING, unseen)])
    middle = [CONTROL_HEADINGS.get(name, name) for name in frame.columns[1:-1]]
    headings = ["metric", *middle, "does not see"]
    caption = "Not seen: an error below 5 % of that of a black image."
    return {"tables": [Table(caption, headings, [""] * len(headings), rows, ["control"] * len(rows))]}


def _predecessor(data: PageData) -> dict[str, Any]:
    frame = data.predecessor
    if not len(frame):
        raise Missing("no variant with a printed value has been scored")
    columns = {"variant": "variant", "readme": "its README"}
    for name in NUMBERS:
        columns |= {f"{who}_{name}": f"{name.upper()} {who}" for who in ("printed", "ours", "corrected")}
    columns["mae_hu"] = heading("mae_hu")
    caption = (
        "Printed: the predecessor's README. Ours: the same procedure on our held-out patients. Corrected: inside the "
        "mask, with one fixed range and no augmentation; FID over the whole window, VGG with ImageNet normalisation."
    )
    used = {n for r in data.records for n in (r.get("predecessor") or {}).get("networks", {}).values()}
    if others := sorted(used - {"inception_fid", "vgg16_relu3_3"}):
        caption += f" Our FID and VGG use {', '.join(others)}: not on the scale of the printed values."
    tables = [table_of(frame, caption, columns)]
    twins = "The same numbers and their corrected twins, all without augmentation."
    tables.append(table_of(frame, "Why they differ.", {"variant": "variant", "why": "why"}))
    return {"tables": [*tables, summary_table(data, metrics.keys("predecessor"), twins)]}


def _features(data: PageData) -> dict[str, Any]:
    if not data.features:
        raise Missing("no feature metric was requested")
    rows, kinds = [], []
    kind_of = {r["name"]: r["kind"] for r in (*data.records, *data.controls)}
    shown_of = {r["name"]: shown_name(r) for r in data.records}
    absent: dict[str, set[str]] = {}
    for score in data.features:
        if score["value"] is None:
            absent.setdefault(score["reason"], set()).add(heading(score["name"]))
            continue
        rows.append(
            [
                Cell(shown_of.get(score["variant"], score["variant"]), score["variant"]),
                Cell(heading(score["name"]), score["name"], score["name"]),
                Cell(number(score["value"], score["name"]), score["value"]),
                Cell(interval(score, score["name"]), score["low"]),
                Cell(f"{score['n']} of {score['patients']} patients", score["n"]),
                Cell(f"{score['weights']} {score['weights_hash'][:12]}", score["weights"]),
                Cell(score["warning"] or NOTHING, score["warning"]),
            ]
        )
        kinds.append(kind_of.get(score["variant"], ""))
    if not rows:
        raise Missing(f"no value of {', '.join(sorted(set().union(*absent.values())))}; summary.csv says why")
    notes = sorted(f"Absent: {', '.join(sorted(names))}: {reason}" for reason, names in absent.items())
    headings = ["model", "metric", "value", "95 % interval", "slices", "weights", "warning"]
    if all(row[3].text == NOTHING for row in rows):
        headings, rows = [h for h in headings if h != "95 % interval"], [[*row[:3], *row[4:]] for row in rows]
    caption = "Slices of the held-out patients. Models are not ranked by these metrics."
    table = Table(caption, headings, [""] * len(headings), rows, kinds)
    return {"tables": [table], "notes": notes}


def _training(data: PageData) -> dict[str, Any]:
    if plots.training(data.histories) is None:
        raise Missing("no training history was found with the checkpoints")
    return {"charts": ["training"]}


def _models(data: PageData) -> dict[str, Any]:
    scored = [*data.records, *data.controls]
    if not scored:
        raise Missing("nothing has been evaluated")
    facts = {variant["name"]: variant for variant in data.variants}
    return {"models": [model(record, facts.get(record["name"])) for record in scored]}


def _lineage(data: PageData) -> dict[str, Any]:
    if not data.variants:
        raise Missing("the list of experiments was not provided")
    mae = {r["name"]: r["summary"]["all"]["mae_hu"]["mean"] for r in data.records}
    several = {r["name"]: f", mean of {len(seeds_of(r))} seeds" for r in data.records if len(seeds_of(r)) > 1}
    children: dict[str | None, list[dict[str, Any]]] = {}
    for variant in data.variants:
        children.setdefault(variant["parent"], []).append(variant)

    def branch(parent: str | None) -> list[dict[str, Any]]:
        found = children.get(parent, [])
        return [v | {"mae": text(v["name"]), "children": branch(v["name"])} for v in found]

    def text(name: str) -> str:
        return f"{number(mae[name], 'mae_hu')} HU{several.get(name, '')}" if mae.get(name) is not None else ""

    return {"tree": branch(None)}


def _corrections(data: PageData) -> dict[str, Any]:
    if not data.corrections:
        raise Missing("the list of corrections was not provided")
    rows = [[Cell(old, old), Cell(new, new)] for old, new in data.corrections]
    return {"tables": [Table("", ["the predecessor", "here"], ["", ""], rows, [""] * len(rows))]}


def _definitions(data: PageData) -> dict[str, Any]:
    return {"cards": [row.card() | {"heading": row.heading} for row in metrics.TABLE.values()]}


def _provenance(data: PageData) -> dict[str, Any]:
    if not data.provenance:
        raise Missing("the origin of the numbers was not recorded")
    return {"provenance": data.provenance}


EXPECTED: tuple[tuple[str, str, str, Callable[[PageData], dict[str, Any]]], ...] = (
    (
        "leaderboard",
        "Leaderboard",
        "Which model is closest to the true CT, on patients it has never seen? Grey rows are trivial predictors; a "
        "model that does not beat them has learned nothing useful.",
        _leaderboard,
    ),
    (
        "slices",
        "Slices",
        "Every held-out patient, not a selection of the best.",
        _slices,
    ),
    (
        "comparisons",
        "More than chance?",
        "A difference of means can be chance.",
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
        "dose",
        "Dose",
        "What changes in the dose of a plan made on the CT.",
        _dose,
    ),
    (
        "controls",
        "What each number does not see",
        f"Control images: black, a copy of the MR, the true CT + {BIAS_HU:g} HU, the true CT shifted by one pixel.",
        _controls,
    ),
    (
        "predecessor",
        "The predecessor’s numbers",
        "What its README printed, what its own procedure gives here, and what remains once its faults are corrected.",
        _predecessor,
    ),
    (
        "features",
        "Feature metrics",
        "FID, KID, LPIPS and VGG: how CT-like the slices appear to a network trained on photographs.",
        _features,
    ),
    ("training", "Training", "The masked MAE on the validation patients by epoch.", _training),
    ("models", "Model by model", "Every number of every model, patient by patient, and its origin.", _models),
    ("lineage", "Lineage", "Which variant was derived from which; the numbers are the masked MAE in HU.", _lineage),
    (
        "corrections",
        "What was corrected",
        "Choices of the predecessor that made its numbers look better.",
        _corrections,
    ),
    ("definitions", "Definitions", "How every metric is defined.", _definitions),
    ("provenance", "Provenance", "The data, code, versions and checkpoints behind this page.", _provenance),
)


def build(data: PageData) -> list[Section]:
    """Return all sections in order; those that cannot be made carry the reason."""
    found = []
    for id_, title, lead, make in EXPECTED:
        if data.input.window:  # its copy is a baseline
            lead = lead.replace("a copy of the MR, ", "")
        try:
            found.append(Section(id_, title, lead, make(data)))
        except Missing as reason:
            found.append(Section(id_, title, lead, {}, str(reason)))
    return found


def missing(data: PageData, found: Sequence[Section]) -> list[tuple[str, str]]:
    """Return (what, why) of the parts and variants that are missing, those of one reason together."""
    reasons: dict[str, list[str]] = {}
    for name, reason in [
        *((section.title, section.missing) for section in found if section.missing),
        *data.missing.items(),
    ]:
        reasons.setdefault(reason, []).append(name)
    return [(", ".join(names), reason) for reason, names in reasons.items()]
