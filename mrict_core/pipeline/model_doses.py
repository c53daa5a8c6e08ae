"""Doses of the test patients on the synthetic CTs of any models and of the trivial baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mrict_core import metrics
from mrict_core.data.cache.store import SliceStore
from mrict_core.data.images.resample import itk_image
from mrict_core.data.images.volumes import load_volume
from mrict_core.data.masks import check_mask
from mrict_core.dose import engine
from mrict_core.dose.study import DoseSettings, Say, Scans
from mrict_core.errors import MrictError, UnavailableError
from mrict_core.evaluation import Predictions, baseline_predictions, read_metrics
from mrict_core.evaluation.dose_table import MAE, DoseResults
from mrict_core.evaluation.records import plain
from mrict_core.files import hash_array, read_json, write_csv, write_json
from mrict_core.paths import Workspace, shown
from mrict_core.pipeline.dose_files import on_grid_of
from mrict_core.pipeline.dose_runs import NOTE, Done, Progress, dose_all, table
from mrict_core.pipeline.evaluate import predictions_of
from mrict_core.pipeline.preparation import open_data
from mrict_core.reporting import style
from mrict_core.reporting.dose_figures import range_figure
from mrict_core.reporting.dose_page import DVH, PLAN
from mrict_core.training.runs import Report

FOLDER, SUMMARY = "dose", "summary.json"  # of the reports
MEANS, RANKS, RANGES = "means.csv", "ranks.csv", "ranges.png"
BASELINES = ("baseline_water_body", "baseline_mean_ct")
Record = Mapping[str, Any]


@dataclass(frozen=True)
class PatientDose:
    """A test patient with the stored predictions of several models: its CT and mask are the scored files."""

    name: str
    store: SliceStore
    predictions: Mapping[str, Predictions]
    target: str = ""  # data sets have no structures: test targets
    organs: Mapping[str, str] = field(default_factory=dict)

    def hashes(self) -> dict[str, str]:
        """Return a hash of CT, mask and every synthetic CT."""
        sources = self.store.meta(self.name)["sources"]
        found = {role: sources[role]["hash"] for role in ("ct", "mask")}
        return found | {f"sct {name}": hash_array(own.slices(self.name)) for name, own in self.predictions.items()}

    def read(self) -> tuple[Scans, list[str]]:
        """Return the images; the body is the data set's mask, and what a model does not cover counts as air.

        Raises MrictError for a file that changed since it was prepared.
        """
        self.store.check_unchanged(self.name)
        ct, mask = (load_volume(self.store.source(self.name, role)) for role in ("ct", "mask"))
        like = itk_image(ct)
        scts = {
            name: on_grid_of(like, own.volume(self.name).astype(np.float32)) for name, own in self.predictions.items()
        }
        share = self.store.cropped().get(self.name)
        notes = [f"{share:.0%} of the mask lies outside the models’ canvas: air on every synthetic CT"] if share else []
        return Scans(like, on_grid_of(like, check_mask(mask.array, mask.path).astype(np.uint8)), scts), notes


def dose_missing() -> str:
    """Return why no dose can be computed here, with the remedy; "" if it can."""
    try:
        engine.version()
    except UnavailableError as error:
        return str(error)
    return ""


def with_baselines(records: Sequence[Record], baselines: Sequence[Record]) -> list[Record]:
    """Return records with the baselines that doses are compared with."""
    return [*records, *(record for record in baselines if record["name"] in BASELINES)]


def evaluate_dose(
    space: Workspace,
    records: Sequence[Record],
    settings: DoseSettings = DoseSettings(),
    *,
    label: str = "",
    device: str = "auto",
    progress: Progress | None = None,
    say: Say = lambda _: None,
    report: Report = print,
) -> DoseResults:
    """Compute the doses of every test patient for scored models and baselines; write and return them.

    `reports/dose` has a folder for each patient (doses, record, page), dose.csv, the means by modality, the ranks, the
    picture of ranges, and summary.json. A plan is made once for each patient and modality. A patient whose images,
    plans and code have not changed is kept. Models whose doses are there already stay in the comparison. Of several
    seeds the first is taken. Raises UnavailableError without pyRadPlan.
    """
    engine.version()
    store, split = open_data(space)
    records = _with_former(space, records)
    predictions = _predictions(space, records, device, report)
    cases = [PatientDose(patient, store, predictions) for patient in split.test]
    folder = space.reports / FOLDER
    done = dose_all(cases, {}, folder, settings, renew=True, progress=progress, say=say)
    write_json(folder / SUMMARY, plain(_summary(space, records, settings, done)))
    found = read_doses(space, records)
    if found is None:
        reasons = "; ".join(f"{one.case}: {one.reason}" for one in done)
        raise MrictError(f"{shown(folder)}: no dose could be computed ({reasons}); correct that and run it again")
    write_csv(folder / MEANS, found.means)
    write_csv(folder / RANKS, found.ranks)
    if picture := range_figure(found.beams, label or space.profile):
        style.save(picture, folder / RANGES)
    return found


def read_doses(space: Workspace, records: Sequence[Record]) -> DoseResults | None:
    """Return the doses that were computed for these models and baselines; None if there are none.

    Doses of other data are not used; a model that was scored again since has a remark instead.
    """
    path = space.reports / FOLDER / SUMMARY
    if not path.is_file():
        return None
    found = read_json(path)
    try:
        known = {record["name"]: record for record in records if _data(record) == found["data"]}
        current = [name for name, own in known.items() if found["weights"].get(name) == _weights(own)]
        rows = pd.DataFrame(found["rows"], columns=["case", "model", "modality", *metrics.keys("dose")])
        remarks = [*found["remarks"], *_outdated(found["weights"], known, current)]
        own = rows[rows["model"].isin(current)].astype(dict.fromkeys(metrics.keys("dose"), float))
        beams = {name: _finite(found["beams"].get(name, [])) for name in current}
        settings, note = found["settings"], found["note"]
    except (KeyError, TypeError, AttributeError):
        raise MrictError(
            f"{shown(path)}: not a summary of doses; delete it and run evaluate with --dose again"
        ) from None
    if own.empty:
        return None
    current = sorted(current, key=lambda name: _mean_mae(known[name]))
    maes = {name: {row["patient"]: row[MAE] for row in known[name]["patients"]} for name in current}
    kinds = {name: known[name]["kind"] for name in current}
    return DoseResults(note, settings, own, maes, kinds, {name: beams[name] for name in current}, remarks)


def _outdated(weights: Mapping[str, str], known: Mapping[str, Record], current: Sequence[str]) -> list[str]:
    names = [name for name in weights if name in known and name not in current]
    return [f"{name}: doses of other weights, left out; run evaluate {name} with --dose" for name in names]


def _finite(beams: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Return beams with NaN for the nulls of json."""
    return [{key: float("nan") if value is None else value for key, value in beam.items()} for beam in beams]


def _with_former(space: Workspace, records: Sequence[Record]) -> list[Record]:
    """Return these records, and the scored ones whose doses are there already: a patient has one record of all."""
    path, names = space.reports / FOLDER / SUMMARY, {record["name"] for record in records}
    former = read_json(path).get("weights", {}) if path.is_file() else {}
    data = _data(records[0])
    return [
        *records,
        *(r for r in read_metrics(space.metrics) if r["name"] in set(former) - names and _data(r) == data),
    ]


def _predictions(space: Workspace, records: Sequence[Record], device: str, report: Report) -> dict[str, Predictions]:
    store, split = open_data(space)
    baselines = baseline_predictions(store, split.train)
    return {
        record["name"]: baselines[record["name"]]
        if record["kind"] == "baseline"
        else predictions_of(space, record, device, report)
        for record in records
    }


def _summary(
    space: Workspace, records: Sequence[Record], settings: DoseSettings, done: Sequence[Done]
) -> dict[str, Any]:
    names = [record["name"] for record in records]
    rows = table([one for one in done if one.record])
    remarks = [f"{one.case}: failed, {one.reason}" for one in done if one.reason]
    remarks += [f"{one.case}: {note}" for one in done for note in one.record.get("notes", ())]
    plans = [(one.case, plan) for one in done for plan in one.record.get("plans", ())]
    remarks += [f"{case}, {plan['plan']}: not averaged, {fault}" for case, plan in plans for fault in plan["faults"]]
    return {
        "note": NOTE,
        "profile": space.profile,
        "settings": asdict(settings),
        "data": _data(records[0]),
        "weights": {record["name"]: _weights(record) for record in records},
        "rows": rows.to_dict(orient="records"),
        "beams": {
            name: [
                {"patient": case} | beam
                for case, plan in plans
                if not plan["faults"]
                for beam in plan["models"][name]["beams"]
            ]
            for name in names
        },
        "remarks": remarks,
        "cards": {key: metrics.metric(key).card() for key in metrics.keys("dose")},
        "versions": done[0].record.get("versions", {}) if done else {},
    }


def _data(record: Record) -> list[str]:
    return [record["context"]["store_key"], record["context"]["split_hash"]]


def _weights(record: Record) -> str:
    """Return the hash of the weights whose synthetic CTs are used, of several seeds the first; "" of a baseline."""
    return record["context"].get("checkpoint_hash", "").split(" / ")[0]


def _mean_mae(record: Record) -> float:
    mean = record["summary"]["all"][MAE]["mean"]
    return float("inf") if mean is None else mean


def folder_of(space: Workspace) -> Path:
    """Return the folder of a workspace's doses."""
    return space.reports / FOLDER


def pictures_of(space: Workspace, model: str, patient: str = "") -> dict[str, list[Path]]:
    """Return a patient's pictures, by default the first's with doses: {"plan": isodoses of a model, "dvh": all}."""
    names = {row["case"] for row in read_json(folder_of(space) / SUMMARY)["rows"]}
    folder = folder_of(space) / (patient or min(names))
    return {"plan": sorted(folder.glob(f"*/{PLAN.format(model)}")), "dvh": sorted(folder.glob(f"*/{DVH}"))}
