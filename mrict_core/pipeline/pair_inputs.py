"""The pairs that a user gives: a folder of patients, a BIDS tree, or a csv."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from mrict_core.data.case_csv import read_rows
from mrict_core.errors import MrictError, UnavailableError
from mrict_core.paths import printable, shown
from mrict_core.pipeline.pair_folders import Found, PairInput, pairs_below
from mrict_core.pipeline.pair_sides import read_side

__all__ = ["Found", "PairInput", "find_all", "find_inputs", "read_side"]

NEEDED, OPTIONAL = ("patient", "mr", "ct"), ("mask", "centre", "transform", "mr_series", "ct_series")
FOLDER_NAME = re.compile(r"[\w][\w .+=~-]{0,99}")  # a patient's name becomes the name of a folder


def find_inputs(input: Path | str) -> tuple[PairInput, ...]:
    """Return the pairs of a folder of patients, a BIDS tree or a csv; raise the first reason why one cannot be used."""
    found = find_all(input)
    for reason, _ in found.failed.values():
        raise MrictError(reason)
    return tuple(found.pairs)


def find_all(input: Path | str, results: Path | None = None) -> Found:
    """Return the pairs, the patients without one and why, and what is left out; `results` is not searched.

    A csv has the columns patient, mr, ct and may have mask, centre, transform, mr_series, ct_series; its paths are
    relative to it. Raises `MrictError` if there is no pair at all.
    """
    path = Path(input)
    if path.is_dir():
        found = pairs_below(path, results)
    elif path.suffix.lower() == ".csv":
        found = _of_csv(path)
    elif not path.exists():
        raise UnavailableError(f"{shown(path)}: no such file or folder; expected a folder or a csv; check the name")
    else:
        raise MrictError(f"{shown(path)}: one file; expected a folder of patients, or a csv (patient, mr, ct)")
    return _named_apart(found)


def _of_csv(path: Path) -> Found:
    found = Found()
    for line, row in read_rows(path, NEEDED):
        name = printable(row["patient"]) or f"line {line}"
        try:
            empty = [column for column in NEEDED if not row[column]]
            if empty:
                raise MrictError(f"{shown(path)}: line {line}: no {empty[0]}; expected one; add it")
            files = {key: _file(path, line, row[key]) for key in ("mr", "ct", "mask", "transform") if row.get(key)}
            more = {key: row[key] for key in ("mr_series", "ct_series") if row.get(key)}
            found.pairs.append(PairInput(name, centre=row.get("centre") or None, **files, **more))
        except MrictError as error:
            named = tuple(path.parent / row[key] for key in ("mr", "ct") if row[key])
            found.failed[name] = str(error), tuple(one for one in named if one.exists())
    return found


def _file(path: Path, line: int, cell: str) -> Path:
    file = path.parent / Path(cell).expanduser()
    if not file.exists():
        raise UnavailableError(f"{shown(path)}: line {line}: {shown(file)} not found; expected it; correct the path")
    return file


def _named_apart(found: Found) -> Found:
    """Return the pairs whose names are those of one folder each; the others become failures."""
    counts = Counter(pair.patient.lower() for pair in found.pairs)
    kept = []
    for pair in found.pairs:
        if counts[pair.patient.lower()] > 1:
            reason = f"{counts[pair.patient.lower()]} pairs of one name; expected one each; rename them"
        elif not FOLDER_NAME.fullmatch(pair.patient):
            reason = "the name cannot be a folder's; expected letters, digits, _ and -; rename it"
        else:
            kept.append(pair)
            continue
        found.failed[pair.patient] = f"{pair.patient}: {reason}", pair.files
    return replace(found, pairs=kept)
