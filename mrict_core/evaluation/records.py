"""The records behind the tables: scores per patient, their statistics and cards, as json and csv."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mrict_core import metrics
from mrict_core.data.subjects import people_of
from mrict_core.errors import MrictError
from mrict_core.evaluation.scores import Scores, columns
from mrict_core.files import csv_text, hash_of, read_json, write_csv, write_json, write_text
from mrict_core.metrics import statistics
from mrict_core.metrics.predecessor import NUMBERS
from mrict_core.paths import shown

KINDS = ("variant", "baseline", "control")
REQUIRED = ("name", "kind", "label", "summary", "patients", "cards", "context")
PROVENANCE = ("profile", "protocol", "split_hash", "seed", "checkpoint_hash", "code_hash")  # of the context, on a card
SAME_DATA = ("profile", "store_key", "split_hash", "test_data_hash")  # of the context; equal for all seeds of a variant
CARDS_FILE = "cards.csv"


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """Return {"all": {metric: {mean, sd, median, low, high, n}}, "centres": {centre: the same}} of a frame of scores.

    low and high bound the 95 % patient bootstrap of the mean. SD (ddof 1) and interval are None for one patient. Values
    that are not finite do not count, in n either; statistics without values are None. A person with images in several
    folders counts once, with their mean.
    """
    by_centre = {str(centre): _statistics(part) for centre, part in frame.groupby("centre", sort=True)}
    return {"all": _statistics(frame), "centres": by_centre}


def by_person(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, float]:
    """Return {person: mean over the person's patients that have a value}."""
    values = pd.Series([row[metric] for row in rows], dtype=float)
    return values.groupby(people_of(row["patient"] for row in rows), sort=False).mean().dropna().to_dict()


def _statistics(frame: pd.DataFrame) -> dict[str, dict[str, float | int | None]]:
    names = metrics.recorded()
    people = frame[list(names)].astype(float).groupby(people_of(frame["patient"]), sort=False).mean()
    values = people.to_numpy(dtype=np.float64)
    return {name: dataclasses.asdict(s) for name, s in zip(names, statistics.summarise(values), strict=True)}


def metrics_record(
    name: str,
    scores: Scores,
    *,
    label: str,
    kind: str = "variant",
    context: Mapping[str, Any],
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the record of a variant, baseline or control, ready for json.

    `label` is the profile's, shown with every number. `context` is the origin of the numbers: data set, protocol, split
    hash, checkpoint hash, feature weights, versions, seed …; its `stopped` (why training ended early, e.g. a collapse)
    becomes the record's note. `more` adds entries (predecessor's protocol, feature metrics). Values that are not finite
    become null.
    """
    if kind not in KINDS:
        raise MrictError(f"record '{name}': kind '{kind}' is not known; allowed: {', '.join(KINDS)}")
    frame = scores.frame
    summary = summarise(frame)
    names = [*metrics.recorded(), *(["ssim_2d"] if (frame["ssim_dimensionality"] == "2D").any() else [])]
    counts = {metric: summary["all"].get(metric, summary["all"]["ssim"])["n"] for metric in names}
    return plain(
        {
            "name": name,
            "kind": kind,
            "label": label,
            "note": context.get("stopped") or "",
            "n": len(set(people_of(frame["patient"]))),
            "summary": summary,
            "patients": frame.to_dict(orient="records"),
            "details": scores.details,
            "cards": {metric: number_card(metric, counts[metric], context) for metric in names},
            "context": dict(context),
            **(more or {}),
        }
    )


def number_card(metric: str, n: int, context: Mapping[str, Any]) -> dict[str, Any]:
    """Return the card of one number: the metric's definition, the number of patients, and the provenance."""
    return metrics.metric(metric).card() | {"n": n} | {key: context.get(key, "") for key in PROVENANCE}


def combine_seeds(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the record of one variant from the records of its seeds, in the order of the seeds.

    A patient's metrics are means over the seeds, absent if one seed has no value; the statistics, SD included, are over
    these patients. `seeds` has the seeds (`values`), the checkpoints and {metric: {mean, sd, n, means}} of the seeds'
    `means` over patients: this SD (ddof 1, None for one seed) is the one over seeds. Curves keep one entry per patient
    and seed; context facts that differ are joined by " / ".

    Raises MrictError if the records differ in variant, data or patients, or a seed occurs twice.
    """
    records = sorted(records, key=lambda record: (record["context"]["seed"], record["context"]["checkpoint_hash"]))
    _check_seeds(records)
    first, values = records[0], [record["context"]["seed"] for record in records]
    means = {m: [record["summary"]["all"][m]["mean"] for record in records] for m in first["summary"]["all"]}
    seeds = {
        "values": values,
        "summary": {metric: _over_seeds(own) for metric, own in means.items()},
        "checkpoints": [record["context"]["checkpoint_hash"] for record in records],
    }
    if len(records) == 1:
        return {**first, "seeds": seeds}
    patients = [_mean_patient(rows, values) for rows in zip(*(record["patients"] for record in records), strict=True)]
    context = _joined([record["context"] for record in records])
    summary = summarise(pd.DataFrame(patients).astype(dict.fromkeys(metrics.recorded(), float)))
    counts = {metric: summary["all"].get(metric, summary["all"]["ssim"])["n"] for metric in first["cards"]}
    return plain(
        {
            **first,
            "note": _by_seed([record.get("note") or "" for record in records], values),
            "summary": summary,
            "patients": patients,
            "details": _all_curves(records, values),
            "cards": {metric: number_card(metric, n, context) for metric, n in counts.items()},
            "context": context,
            "predecessor": _mean_predecessor([record.get("predecessor") or {} for record in records]),
            "features": _mean_features([record.get("features", []) for record in records]),
            "seeds": seeds,
        }
    )


def seeds_of(record: Mapping[str, Any]) -> list[int]:
    """Return the seeds of a record; none for a baseline or a control."""
    own = record["context"].get("seed")
    return list(record["seeds"]["values"]) if record.get("seeds") else [] if own in (None, "") else [own]


def _check_seeds(records: Sequence[Mapping[str, Any]]) -> None:
    if not records:
        raise MrictError("no record of any seed to combine; evaluate the variant first")
    alike = {
        "name": [record["name"] for record in records],
        **{key: [record["context"].get(key) for record in records] for key in SAME_DATA},
        "patients": [[(p["patient"], p["centre"], p["n_voxels"]) for p in record["patients"]] for record in records],
    }
    differing = [what for what, found in alike.items() if any(value != found[0] for value in found)]
    name, values = records[0]["name"], [record["context"]["seed"] for record in records]
    if differing:
        raise MrictError(
            f"{name}: its seeds were scored differently: they differ in {', '.join(differing)}; evaluate again"
        )
    if len(set(values)) < len(values):
        raise MrictError(f"{name}: seeds {', '.join(map(str, values))} contain one twice; give one record per seed")


def seeds_remark(records: Iterable[Mapping[str, Any]]) -> str:
    """Return the remark on numbers from several seeds; "" if every model has one seed."""
    several: dict[str, list[str]] = {}
    for record in records:
        if len(seeds := seeds_of(record)) > 1:
            several.setdefault(", ".join(map(str, seeds)), []).append(record["name"])
    which = "; ".join(f"{', '.join(names)}: seeds {seeds}" for seeds, names in several.items())
    return which and (
        f"Several trainings ({which}): a patient's value is the mean over seeds, in all tables, figures and tests. The "
        "plain ± is the SD of these values over patients; the ± “over seeds” is the SD of the seeds' means. Intervals "
        "and p values include the spread over patients, not over seeds."
    )


def shown_name(record: Mapping[str, Any]) -> str:
    """Return a record's name for a figure, with the number of seeds if there are several."""
    seeds = seeds_of(record)
    return f"{record['name']} (mean of {len(seeds)} seeds)" if len(seeds) > 1 else record["name"]


def slices_remark(records: Iterable[Mapping[str, Any]]) -> str:
    """Return whose slices the images show if records combine several seeds; "" if none does."""
    firsts = [f"{record['name']}: seed {seeds_of(record)[0]}" for record in records if len(seeds_of(record)) > 1]
    return f"images are of the first of several seeds ({', '.join(firsts)})" if firsts else ""


def _over_seeds(means: Sequence[float | None]) -> dict[str, Any]:
    known = [mean for mean in means if mean is not None]
    sd = float(np.std(known, ddof=1)) if len(known) > 1 else None
    return {"mean": float(np.mean(known)) if known else None, "sd": sd, "n": len(known), "means": list(means)}


def _mean_patient(rows: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    """Return one patient's row over several seeds; a metric missing for one seed is absent."""
    flags = _by_seed([row.get("flags") or "" for row in rows], seeds)
    return {**rows[0], **{m: _mean([row.get(m) for row in rows]) for m in metrics.recorded()}, "flags": flags}


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values or not values else float(np.mean(values))


def _by_seed(notes: Sequence[str], seeds: Sequence[int]) -> str:
    """Return a note shared by all seeds once, else each note with its seed."""
    if len(set(notes)) == 1:
        return notes[0]
    return "; ".join(f"seed {seed}: {note}" for note, seed in zip(notes, seeds, strict=True) if note)


def _joined(values: Sequence[Any]) -> Any:
    """Return the common value; mappings key by key, and differing values joined in the order of the seeds."""
    if all(value == values[0] for value in values):
        return values[0]
    if all(isinstance(value, Mapping) for value in values):
        return {key: _joined([value.get(key, "") for value in values]) for key in values[0]}
    return " / ".join(map(str, values))


def _all_curves(records: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    return {
        kind: {
            **curves,
            "patients": [
                {**one, "seed": seed}
                for record, seed in zip(records, seeds, strict=True)
                for one in record["details"][kind]["patients"]
            ],
        }
        for kind, curves in records[0].get("details", {}).items()
    }


def _mean_predecessor(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    numbers = {metric: _mean([one.get(metric) for one in found]) for metric in NUMBERS}
    return {**_joined(found), **numbers}


def _mean_features(found: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return the mean over the seeds of every feature metric; intervals are in the seeds' records."""
    rows = []
    for score in found[0]:
        own = [other for scores in found for other in scores if other["name"] == score["name"]]
        value = _mean([other["value"] for other in own]) if len(own) == len(found) else None
        reasons = dict.fromkeys(other["reason"] for other in own if other.get("reason"))
        rows.append({**score, "value": value, "low": None, "high": None, "reason": "; ".join(reasons)})
    return rows


def write_metrics(folder: Path, record: Mapping[str, Any], stem: str = "") -> tuple[Path, Path]:
    """Write `record` to folder/<stem>.json and its patients to folder/<stem>.csv, each atomically; return both paths.

    `stem` is by default the record's name. Every row of the csv has its provenance, so that it can be pasted anywhere;
    folder/cards.csv defines the columns, and `cards` is its hash.
    """
    folder, definitions = Path(folder), cards_table()
    text, path = csv_text(definitions), folder / CARDS_FILE
    if not path.is_file() or path.read_text(encoding="utf-8") != text:  # the same for every record
        write_text(path, text)
    frame = pd.DataFrame(record["patients"], columns=list(columns()))
    for key in PROVENANCE:
        frame[key] = record["context"].get(key, "")
    frame["cards"] = hash_of(definitions.to_dict(orient="records"))
    stem = stem or record["name"]
    csv = write_csv(folder / f"{stem}.csv", frame, float_format="%.6f")
    return write_json(folder / f"{stem}.json", dict(record)), csv


def cards_table() -> pd.DataFrame:
    """Return every metric card as a row."""
    return pd.DataFrame([row.card() for row in metrics.TABLE.values()])


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return every record of a folder by name; an empty list if nothing has been evaluated.

    Records of an earlier version may lack current metrics; these are absent and listed in `lacks`.
    """
    return [_read(path) for path in sorted(Path(folder).glob("*.json"))]


def is_current(record: Mapping[str, Any]) -> bool:
    """Return whether a record has all current metrics."""
    return not record.get("lacks")


def read_record(folder: Path, name: str) -> dict[str, Any] | None:
    """Return the record of one variant, baseline or control, None if missing."""
    path = Path(folder) / f"{name}.json"
    return _read(path) if path.is_file() else None


def _read(path: Path) -> dict[str, Any]:
    record = read_json(path)
    missing = set(REQUIRED) - set(record if isinstance(record, dict) else ())
    if not missing and not (isinstance(record["context"], dict) and isinstance(record["summary"], dict)):
        missing = {"context or summary"}
    if missing:
        raise MrictError(f"{shown(path)}: not a metrics record, {', '.join(sorted(missing))} missing; delete the file")
    return _completed(record)


def _completed(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with the current metrics it was made without as absent values, listed in `lacks`."""
    lacks = [name for name in metrics.recorded() if name not in record["summary"].get("all", {})]
    if not lacks:
        return record
    nothing = dict.fromkeys(lacks, {field.name: None for field in dataclasses.fields(statistics.Summary)} | {"n": 0})
    summary = record["summary"]
    return {
        **record,
        "lacks": lacks,
        "summary": {
            **summary,
            "all": nothing | summary.get("all", {}),
            "centres": {centre: nothing | own for centre, own in summary.get("centres", {}).items()},
        },
        "patients": [dict.fromkeys(lacks) | row for row in record["patients"]],
        "cards": {name: number_card(name, 0, record["context"]) for name in lacks} | record["cards"],
    }


def plain(value: Any) -> Any:
    """Return `value` ready for json: numpy values become Python's, numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
