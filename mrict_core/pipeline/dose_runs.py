"""Doses of cases: one folder for each, with doses as NIfTI, a record and a page; a table of all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from mrict_core import metrics
from mrict_core.data.images.volumes import save_nifti
from mrict_core.dose import engine, sampling
from mrict_core.dose.study import DoseSettings, PlanDoses, Say, Scans, Study, study
from mrict_core.errors import MrictError
from mrict_core.evaluation.records import plain
from mrict_core.files import atomic_folder, code_hash, hash_of, read_json, sole_writer, write_csv, write_json
from mrict_core.machine import versions
from mrict_core.paths import shown
from mrict_core.pipeline.pair_sides import affine_of, array_of
from mrict_core.reporting.dose_page import write_dose_page
from mrict_core.shards import MARKS, Roll, Shard

RECORD = "dose.json"
TABLE = "dose.csv"
NOTE = "generic machine, not commissioned; research only, not for clinical use"
CODE = ("dose", "metrics/dose", "metrics/gamma", "metrics/path_length", "pairing/itk_grids")  # decide the values
Progress = Callable[[int, int, str], None]


class Case(Protocol):
    """What doses are computed of: files, or a test patient with its stored predictions."""

    @property
    def name(self) -> str: ...

    @property
    def target(self) -> str: ...  # a file, or a name in an RTSTRUCT; "": test targets

    @property
    def organs(self) -> Mapping[str, str]: ...

    def hashes(self) -> dict[str, str]:
        """Return a hash of the content of every image."""

    def read(self) -> tuple[Scans, list[str]]:
        """Return the images, and remarks on them."""


@dataclass(frozen=True)
class Done:
    """What became of a case: status "computed", "kept" or "failed"."""

    case: str
    status: str
    record: dict[str, Any]
    reason: str = ""


def dose_all(
    cases: Sequence[Case],
    problems: dict[str, str],
    output: Path,
    settings: DoseSettings,
    *,
    overwrite: bool = False,
    renew: bool = False,
    progress: Progress | None = None,
    say: Say = lambda _: None,
    shard: Shard | None = None,
) -> list[Done]:
    """Compute the doses of cases into `output`, one after another, and write its table.

    `problems`: {case: why it has no files}. A failed case does not stop the others; one that is there already is kept.
    renew: doses of other inputs, settings or code are replaced instead of refused. `shard`: only its part of the cases,
    and its part of the table. Raises UnavailableError without pyRadPlan.
    """
    engine.version()
    every: list[Case | Done] = [Done(name, "failed", {}, reason) for name, reason in problems.items()]
    every = sorted([*every, *cases], key=_name)
    roll = Roll([_name(one) for one in every], [asdict(settings), code_hash(*CODE), engine.version()])
    mine = [(number, one) for number, one in enumerate(every, 1) if shard is None or shard.has(number)]
    todo = [one for _, one in mine if not isinstance(one, Done)]
    done, count = [], 0
    with sole_writer(output, "computes doses into it", str(shard or "")):
        for number, one in mine:
            if isinstance(one, Done):
                done.append((number, one))
                continue
            try:
                record, kept = dose_case(one, output / one.name, settings, overwrite=overwrite, renew=renew, say=say)
                done.append((number, Done(one.name, "kept" if kept else "computed", record)))
            except MrictError as error:
                done.append((number, Done(one.name, "failed", {}, str(error))))
            count += 1
            if progress:
                progress(count, len(todo), one.name)
        file = shard.file(output / TABLE) if shard else output / TABLE
        write_csv(file, table([one for _, one in done], [roll.marks(number) for number, _ in done] if shard else None))
    return [one for _, one in done]


def _name(one: Case | Done) -> str:
    return one.case if isinstance(one, Done) else one.name


def dose_case(
    case: Case,
    folder: Path,
    settings: DoseSettings,
    *,
    overwrite: bool = False,
    renew: bool = False,
    say: Say = lambda _: None,
) -> tuple[dict[str, Any], bool]:
    """Write the doses of one case to a folder, all or nothing; return (record, whether it was there already)."""
    key = hash_of([case.hashes(), case.target, dict(case.organs), asdict(settings), code_hash(*CODE), engine.version()])
    if not overwrite and (kept := _kept(folder, key, renew)):
        return kept, True
    _may_replace(folder)
    scans, notes = case.read()
    found = study(scans, settings, say)
    record = _record(case, settings, scans, found, notes) | {"key": key}
    with atomic_folder(folder, may_replace=_may_replace) as place:
        for plan in found.plans:
            _write_doses(place / plan.name.replace(" ", "_"), plan, scans)
        write_json(place / RECORD, plain(record))
        write_dose_page(place / "index.html", case.name, scans, found, record)
    return record, False


def _record(case: Case, settings: DoseSettings, scans: Scans, found: Study, notes: Sequence[str]) -> dict[str, Any]:
    """Return what identifies a case's doses, and its measures by model and modality."""
    return {
        "case": case.name,
        "note": NOTE,
        "inputs": {role: {"hash": value} for role, value in case.hashes().items()},
        "settings": asdict(settings),
        "plans": [_plan_record(plan) for plan in found.plans],
        "measures": {
            model: {
                modality: {key: found.measure(model, modality, key) for key in metrics.keys("dose")}
                for modality in settings.modalities
            }
            for model in scans.scts
        },
        "notes": [*notes, *found.notes],
        "cards": {key: metrics.metric(key).card() for key in metrics.keys("dose")},
        "versions": versions() | {engine.PACKAGE: engine.version()},
    }


def _plan_record(plan: PlanDoses) -> dict[str, Any]:
    settings, sphere = plan.plan.settings, plan.target.sphere
    return {
        "plan": plan.name,
        "modality": settings.modality,
        "machine": f"{settings.modality} Generic",
        "gantry_deg": settings.angles,
        "dose_gy": settings.dose_gy,
        "grid_mm": settings.grid_mm,
        "bixel_mm": settings.bixel_mm,
        "beamlets": len(plan.plan.weights),
        "iterations": plan.plan.iterations,
        "converged": plan.plan.converged,
        "target": asdict(sphere) | {"what": "test target, not a lesion"} if sphere else plan.target.name,
        "faults": plan.faults,
        "on_ct": plan.on_ct,
        "models": plan.models,
    }


def _write_doses(folder: Path, plan: PlanDoses, scans: Scans) -> None:
    """Write doses in Gy per fraction on the CT's grid: of the CT, of every sCT, and the differences sCT - CT."""
    folder.mkdir()
    affine = affine_of(scans.ct)
    on_ct = array_of(sampling.dose_on(plan.ct_dose, scans.body))
    save_nifti(folder / "ct_dose.nii.gz", on_ct, affine, dtype=np.float32)
    if plan.target.sphere:
        save_nifti(folder / "test_target.nii.gz", array_of(plan.target.mask), affine, dtype=np.uint8)
    for model, image in plan.sct_doses.items():
        on_sct = array_of(sampling.dose_on(image, scans.body))
        stem = "sct" if len(plan.sct_doses) == 1 else f"sct_{model}"
        save_nifti(folder / f"{stem}_dose.nii.gz", on_sct, affine, dtype=np.float32)
        save_nifti(folder / f"{stem}_difference.nii.gz", on_sct - on_ct, affine, dtype=np.float32)


def _kept(folder: Path, key: str, renew: bool) -> dict[str, Any] | None:
    """Return the record of a folder that holds these doses; None if it holds others to renew, else raise."""
    if not folder.exists():
        return None
    _may_replace(folder)
    with contextlib.suppress(MrictError) if renew else contextlib.nullcontext():  # a damaged record is renewed, too
        record = read_json(folder / RECORD)
        if isinstance(record, dict) and record.get("key") == key:
            return record
    if renew:
        return None
    raise MrictError(
        f"{shown(folder)}: holds doses of other files, settings or versions; expected these or none; give another "
        "--output, or --overwrite"
    )


def _may_replace(folder: Path) -> None:
    """Raise unless a folder, if it exists, was made here."""
    if folder.exists() and not (folder / RECORD).is_file():
        raise MrictError(
            f"{shown(folder)}: exists and was not made by this command (no {RECORD}); expected no such folder; move "
            "it, or give another --output"
        )


def table(done: Sequence[Done], marks: Sequence[dict[str, Any]] | None = None) -> pd.DataFrame:
    """Return a row for every case, model and modality; a failed case has one with its reason.

    marks: of each case, further columns (`shards.MARKS`).
    """
    keys = metrics.keys("dose")
    columns = ["case", "model", "modality", "status", *keys, "plans", "not averaged", "reason"]
    rows = [row | mark for one, mark in zip_longest(done, marks or (), fillvalue={}) for row in _rows(one)]
    frame = pd.DataFrame(rows, columns=[*columns, *(MARKS if marks is not None else ())])
    return frame.astype(dict.fromkeys(keys, float) | {"plans": "Int64"})


def _rows(one: Done) -> list[dict[str, Any]]:
    measures = one.record.get("measures", {})
    if not measures:
        return [{"case": one.case, "status": one.status, "reason": one.reason}]
    faults = [f"{plan['plan']}: {fault}" for plan in one.record.get("plans", ()) for fault in plan["faults"]]
    return [
        {
            "case": one.case,
            "model": model,
            "modality": modality,
            "status": one.status,
            **values,
            "plans": sum(plan["modality"] == modality for plan in one.record["plans"]),
            "not averaged": "; ".join(fault for fault in faults if fault.startswith(modality)),
            "reason": "",
        }
        for model, by_modality in measures.items()
        for modality, values in by_modality.items()
    ]
