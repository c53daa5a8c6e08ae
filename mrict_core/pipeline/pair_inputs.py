"""The pairs that a user gives: a folder of patients, a BIDS tree, or a csv."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

from mrict_core.data.case_csv import FOLDER_NAME, listed_file, listed_place, read_rows
from mrict_core.errors import MrictError, UnavailableError
from mrict_core.paths import printable, shown
from mrict_core.pipeline.pair_folders import Found, PairInput, pairs_below
from mrict_core.pipeline.pair_sides import read_side

__all__ = ["Found", "PairInput", "find_all", "find_inputs", "read_side"]

NEEDED, OPTIONAL = ("patient", "mr", "ct"), ("mask", "centre", "transform", "mr_series", "ct_series")


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
    found, rows = Found(), read_rows(path, NEEDED)
    unknown = [column for column in rows[0][1] if column not in (*NEEDED, *OPTIONAL)]
    found.left_out += [f"{shown(path)}: the column {column}, not one of {', '.join(OPTIONAL)}" for column in unknown]
    lines: dict[str, list[int]] = defaultdict(list)
    for line, row in rows:
        lines[row["patient"].lower()].append(line)
    for line, row in rows:
        name, alike = printable(row["patient"]) or f"line {line}", lines[row["patient"].lower()]
        try:
            if row["patient"] and len(alike) > 1:
                where = f"{shown(path)}: lines {', '.join(map(str, alike))}"
                raise MrictError(f"{where}: {len(alike)} pairs of one name; expected one each; rename them")
            empty = [column for column in NEEDED if not row[column]]
            if empty:
                raise MrictError(f"{shown(path)}: line {line}: no {empty[0]}; expected one; add it")
            files = {
                key: listed_file(path, line, row[key]) for key in ("mr", "ct", "mask", "transform") if row.get(key)
            }
            more = {key: row[key] for key in ("mr_series", "ct_series") if row.get(key)}
            found.pairs.append(PairInput(name, centre=row.get("centre") or None, **files, **more))
        except MrictError as error:
            named = [listed_place(path, row[key]) for key in ("mr", "ct") if row[key]]
            before = found.failed.get(name, ("", ()))[1]
            found.failed[name] = str(error), (*before, *(one for one in named if one))
    return found


def _named_apart(found: Found) -> Found:
    """Return the pairs whose names are those of one folder each; the others become failures."""
    # macOS writes ü as two characters
    pairs = [replace(pair, patient=unicodedata.normalize("NFC", pair.patient)) for pair in found.pairs]
    counts = Counter(pair.patient.lower() for pair in pairs)
    kept = []
    for pair in pairs:
        if counts[pair.patient.lower()] > 1:
            reason = f"{counts[pair.patient.lower()]} pairs of one name; expected one each; rename them"
        elif not FOLDER_NAME.fullmatch(pair.patient):
            reason = "the name cannot be a folder's; expected letters, digits, _ and -; rename it"
        else:
            kept.append(pair)
            continue
        found.failed[pair.patient] = f"{pair.patient}: {reason}", pair.files
    return replace(found, pairs=kept)
