"""From records to the report: tables, the page and the summary of one workspace."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mrict_core import metrics
from mrict_core.data.cache.store import SliceStore
from mrict_core.data.images.orders import OPPOSITE, PLANES, sides
from mrict_core.data.splits import Split
from mrict_core.data.subjects import people_of
from mrict_core.errors import MrictError
from mrict_core.evaluation import (
    baseline_predictions,
    centre_table,
    leaderboard,
    leave_out_table,
    pairwise_table,
    slices_remark,
)
from mrict_core.evaluation.controls import blindness
from mrict_core.evaluation.ensembles import members_of
from mrict_core.evaluation.predictions import Predictions
from mrict_core.evaluation.records import CARDS_FILE, cards_table
from mrict_core.experiments import Experiment, all_variants, users
from mrict_core.experiments.listing import changes
from mrict_core.experiments.profiles import Profile
from mrict_core.files import read_csv, write_csv, write_text
from mrict_core.legacy.corrections import CORRECTIONS
from mrict_core.legacy.protocol import predecessor_table
from mrict_core.machine import versions
from mrict_core.modalities import MR, Modality
from mrict_core.paths import Workspace
from mrict_core.pipeline.evaluate import current_records, evaluate_baselines, evaluate_controls, predictions_of
from mrict_core.pipeline.folds import read_folds
from mrict_core.pipeline.model_doses import read_doses
from mrict_core.pipeline.preparation import open_data
from mrict_core.reporting.conclusion import CONCLUSION, conclusion
from mrict_core.reporting.dose_text import dose_notes
from mrict_core.reporting.page import BrowserPatient, PageData, write_page
from mrict_core.reporting.style import counted
from mrict_core.reporting.summary import write_summary
from mrict_core.reporting.text_tables import FEWEST, remarks, with_provenance, write_leaderboard
from mrict_core.training.runs import TrainingRun, all_of_record

TITLE = "MRICT: synthetic CT from MRI"


def title_of(modality: Modality) -> str:
    """Return the title of a report on models of an input."""
    return TITLE if modality == MR else TITLE.replace("from MRI", f"from {modality.word}")


def write_report(profile: Profile, space: Workspace, names: str = "", *, device: str = "auto") -> dict[str, Path]:
    """Write the report of a workspace; return {what: path}.

    Tables (leaderboard, pairwise tests, centres, predecessor, controls) as csv, `conclusion.md` in words,
    `summary.md` and `summary.csv` to paste, and `index.html`. The page says what is missing and why.
    """
    data = collect(profile, space, names, device=device)
    paths: dict[str, Path] = {}
    context = data.records[0]["context"]
    paths["leaderboard_csv"], paths["leaderboard"] = write_leaderboard(
        space.reports, data.board, profile.label, context, remarks(data.records, metrics.keys("leaderboard"))
    )
    for name in ("comparisons", "centres", "leave_out", "predecessor"):
        paths[name] = write_csv(space.reports / f"{name}.csv", with_provenance(getattr(data, name), context))
    paths["controls"] = write_csv(space.reports / "controls.csv", with_provenance(data.blindness, context))
    paths["cards"] = write_csv(space.reports / CARDS_FILE, cards_table())
    words = space.input.words(conclusion(data.records))
    paths["conclusion"] = write_text(space.reports / CONCLUSION, words + "\n")
    paths["summary"], paths["summary_csv"] = write_summary(
        space.reports, data.title, profile.label, _sections(data, words), [*data.records, *data.controls]
    )
    paths["page"] = write_page(data, space.reports / "index.html")
    return paths


def collect(profile: Profile, space: Workspace, names: str = "", *, device: str = "auto") -> PageData:
    """Return everything that page and tables show."""
    store, split = open_data(space)
    variants, missing = current_records(space, names)
    baselines, controls = evaluate_baselines(profile, space), evaluate_controls(profile, space)
    records = [*variants, *baselines]
    board = leaderboard(records)
    ranked = list(board.loc[board["kind"] == "variant", "name"])
    by_name = {record["name"]: record for record in variants}
    runs = {name: all_of_record(space, by_name[name]) for name in ranked if not members_of(by_name[name])}
    predictors = {r["name"]: predictions_of(space, r, device) for r in variants} | baseline_predictions(
        store, split.train
    )
    predictors = {name: predictors[name] for name in board["name"] if name in predictors}  # best first
    return PageData(
        title=title_of(space.input),
        input=space.input,
        label=profile.label,
        intro=_intro(profile, space, store, split, len(variants)),
        board=board,
        records=sorted(records, key=lambda record: list(board["name"]).index(record["name"])),
        controls=controls,
        missing=missing,
        histories=_histories(runs),
        variants=_variant_facts(profile, [*all_variants(), *(one for one in users() if one.name in by_name)]),
        comparisons=pairwise_table(records),
        centres=centre_table(records),
        leave_out=leave_out_table(records),
        folds=read_folds(space),
        predecessor=predecessor_table([*variants, *controls]),
        blindness=blindness([*records, *controls]),
        dose=read_doses(space, records),
        features=[{"variant": r["name"], **score} for r in (*records, *controls) for score in r.get("features", [])],
        corrections=list(CORRECTIONS),
        browser=[(patient, partial(_browser_patient, store, patient, predictors)) for patient in split.test],
        browser_note=slices_remark(variants),
        provenance=_provenance(profile, space, variants),
    )


def _intro(profile: Profile, space: Workspace, store: SliceStore, split: Split, count: int) -> str:
    what, whose = ("digital phantom patient", "") if space.embedded else ("patient", f" of {space.data_name}")
    trained, chosen_on, tested = (len(set(people_of(part))) for part in (split.train, split.val, split.test))
    centres = ", ".join(sorted({store.centre(patient) for patient in store.patients}))
    return (
        f"{counted(count, 'variant')} and the trivial baselines, scored on "
        f"{counted(tested, f'held-out {what}')}{whose} "
        f"({', '.join(split.test) if len(split.test) <= 12 else f'{len(split.test)} ids in the tables'}). Trained on "
        f"{counted(trained, 'patient')}, checkpoints chosen on {chosen_on}; "
        f"{'centres' if ',' in centres else 'centre'} {centres}; profile "
        f"{profile.name}, protocol {store.protocol}, split {split.kind}. Unless its definition says otherwise, a "
        "number is computed in 3-D, in HU, inside the data set’s mask, per patient, and averaged over patients."
    )


def _histories(runs: Mapping[str, Sequence[TrainingRun]]) -> dict[str, pd.DataFrame]:
    """Return {variant (with its seed if there are several): one row per epoch}."""
    return {
        f"{name} (seed {run.seed})" if len(own) > 1 else name: read_csv(run.history)
        for name, own in runs.items()
        for run in own
        if run.history.is_file()
    }


def _variant_facts(profile: Profile, variants: Sequence[Experiment]) -> list[dict[str, Any]]:
    fields = ("name", "family", "parent", "init_from", "why")
    return [
        {field: getattr(v, field) for field in fields} | {"changes": changes(v), "epochs": profile.epochs(v)}
        for v in variants
    ]


def _browser_patient(store: SliceStore, patient: str, predictors: Mapping[str, Predictions]) -> BrowserPatient:
    """Return a test patient with every synthetic CT that can be had."""
    slices, plane = store.slices(patient), store.plane(patient)
    scts, notes = {}, []
    for name, predictions in predictors.items():
        try:
            scts[name] = predictions.slices(patient)
        except MrictError as error:
            notes.append(f"{name}: {error}")
    toward = PLANES[plane][0]  # of the slices
    return BrowserPatient(
        patient=patient,
        centre=store.centre(patient),
        z=np.asarray(slices.z),
        spacing_mm=tuple(map(float, store.meta(patient)["spacing_mm"])),
        mr=store.modality.greyed(np.asarray(slices.mr, np.float32)),
        ct=np.asarray(slices.ct, np.float32),
        mask=np.asarray(slices.mask) > 0,
        scts=scts,
        sides=sides(plane) + OPPOSITE[toward] + toward if store.protocol != "predecessor" else "",
        notes=tuple(notes),
    )


def _provenance(profile: Profile, space: Workspace, records: Sequence[dict]) -> dict[str, Any]:
    context = records[0]["context"]
    keys = ("data", "region", "protocol", "canvas_px", "split", "split_hash", "store_key", "test_data_hash")
    keys += ("input",) if "input" in context else ()
    return {
        "made": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "data": {key: context.get(key, "") for key in keys},
        "run": {"profile": profile.name, "workspace": space.results},
        "versions": versions(),
        "checkpoints": {
            r["name"]: {
                key: r["context"].get(key, "") for key in ("seed", "checkpoint_hash", "checkpoint_epoch", "code_hash")
            }
            for r in records
        },
    }


def _sections(data: PageData, words: str) -> dict[str, tuple[str, pd.DataFrame]]:
    """Return the tables of summary.md, each with a sentence on how to read it."""
    best, comparisons = data.records[0]["name"], data.comparisons
    against_best = comparisons[(comparisons["a"] == best) | (comparisons["b"] == best)]
    return {
        "Leaderboard": (
            "\n\n".join([data.intro, words, *remarks(data.records, metrics.keys("leaderboard"))]),
            data.board.drop(columns="label"),
        ),
        f"Is {best} better than the others?": (
            f"Paired per patient; p of the Wilcoxon signed-rank test, Holm-adjusted for all {len(comparisons)} pairs "
            "(comparisons.csv has them all).",
            against_best,
        ),
        "By centre": (
            f"Mean masked MAE by centre, from {FEWEST} patients on with its 95 % patient bootstrap interval.",
            data.centres,
        ),
        "Scoring without one centre": (
            "How much a mean depends on one centre: the same models, scored on the patients of the others.",
            data.leave_out,
        ),
        "Training without one centre": (
            "Trained without a centre and scored there, with `python -m mrict_core leave-one-centre-out NAME`.",
            data.folds,
        ),
        "The predecessor’s table": ("Printed; ours by its procedure; ours corrected.", data.predecessor),
        **_dose_sections(data),
        "Controls": ("Control images, and what each metric does not see in them.", data.blindness),
        "What was corrected": (
            "For details see docs/lineage.md.",
            pd.DataFrame(data.corrections, columns=["the predecessor", "here"]),
        ),
    }


def _dose_sections(data: PageData) -> dict[str, tuple[str, pd.DataFrame]]:
    """Return the tables of doses, by modality; none if there are no doses."""
    if (found := data.dose) is None:
        return {}
    cards = metrics.definitions(metrics.keys("dose"))
    said = "\n\n".join([f"{found.note.capitalize()}.", *dose_notes(found), cards])
    tables: dict[str, tuple[str, pd.DataFrame]] = {}
    for modality in found.modalities:
        tables[f"Dose, {modality}"] = (said, found.of(modality, found.means))
        tables[f"Ranks by dose, {modality}"] = (
            f"1 is best. {found.note.capitalize()}.",
            found.of(modality, found.ranks),
        )
        said = f"As above. {found.note.capitalize()}."
    return tables
