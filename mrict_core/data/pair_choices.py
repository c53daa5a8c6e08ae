"""A user's choice of pairs: a csv that says which patients are used, such as the one that `pair` writes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from mrict_core.data.case_csv import read_rows
from mrict_core.data.discovery import Discovery, Skip
from mrict_core.errors import MrictError, unknown_name
from mrict_core.paths import shown

PAIRS = "pairs.csv"  # in a data folder: used without an option
COLUMNS = ("patient", "use")
REGION, REASON = "region", "reason"  # optional columns
USES = {"yes": True, "no": False}


@dataclass(frozen=True)
class Choice:
    """One row: whether a patient is used, and why not; `line` of the csv."""

    patient: str
    use: bool
    reason: str
    line: int


def read_choices(path: Path, region: str) -> dict[str, Choice]:
    """Return {patient in lower case: choice} of the rows for `region`; without a column region, of all rows.

    Columns: patient, use (yes or no), and if wanted reason and region; others are ignored. Raises MrictError for a
    repeated patient, a row without a patient, and another word than yes or no.
    """
    if not path.is_file():
        raise MrictError(f"{shown(path)}: no such file; expected a csv of {', '.join(COLUMNS)}, reason; check the path")
    found: dict[str, Choice] = {}
    for line, row in read_rows(path, COLUMNS):
        where, patient = f"{shown(path)}: line {line}", row["patient"].removeprefix("'")
        # the quote keeps a spreadsheet from running a name as a formula
        if not patient:
            raise MrictError(f"{where} names no patient; expected a patient's folder; add it or remove the line")
        if row.get(REGION, "") not in ("", region):
            continue
        if row["use"].lower() not in USES:
            raise MrictError(f"{where}: use is '{row['use']}' for {patient}; expected yes or no; correct it")
        if before := found.get(patient.lower()):
            raise MrictError(
                f"{where}: {patient} is also in line {before.line}; expected one row for each; remove one of them"
            )
        found[patient.lower()] = Choice(patient, USES[row["use"].lower()], row.get(REASON, ""), line)
    return found


def located(pairs: str) -> str:
    """Return the path of a csv, absolute, so that it is valid from every folder; "" stays empty."""
    return str(Path(pairs).expanduser().absolute()) if pairs else ""


def choice_files(roots: Iterable[Path], pairs: str | Path = "") -> list[Path]:
    """Return the csv that is named, or those in the data folders."""
    if pairs:
        return [Path(pairs).expanduser().resolve()]
    return [root / PAIRS for root in roots if (root / PAIRS).is_file()]


def choose(discovery: Discovery, region: str, pairs: str | Path = "") -> tuple[Discovery, list[str]]:
    """Return a discovery without the rejected patients, which become `Skip`s, and a line on each csv that was used.

    `pairs`: a csv for all folders; "": the `pairs.csv` of each folder, for its own patients. A row names the patient's
    folder. Patients without a row are used, and the line counts them. Raises MrictError for a row without its patient.
    """
    lines = []
    for path in choice_files(discovery.roots, pairs):
        roots = discovery.roots if pairs else (path.parent,)
        discovery, line = _chosen(discovery, read_choices(path, region), path, roots)
        lines.append(line)
    return discovery, lines


def _chosen(
    discovery: Discovery, choices: dict[str, Choice], path: Path, roots: tuple[Path, ...]
) -> tuple[Discovery, str]:
    def here(folder: Path) -> bool:
        return any(folder.is_relative_to(root) for root in roots)

    own = {p.patient: p.mr.parent for p in discovery.patients if here(p.mr.parent)}
    skipped = [Path(skip.path) for skip in discovery.skipped if here(Path(skip.path))]
    aside = [Path(one.path) for one in discovery.aside if here(Path(one.path))]
    _check_known(choices, [*own.values(), *skipped], aside, path)
    rejected = []
    for patient, folder in own.items():
        choice = choices.get(folder.name.lower())
        if choice and not choice.use:
            why = f" ({choice.reason})" if choice.reason else ""
            reason = f"{shown(folder)}: rejected in line {choice.line} of {shown(path)}{why}; set use to yes to use it"
            rejected.append(Skip(patient, str(folder), reason))
    names = {skip.patient for skip in rejected}
    unnamed = sum(folder.name.lower() not in choices for folder in own.values())
    line = f"pairs: {len(own) - len(names)} of {len(own)} used by {shown(path)}"
    line += f", {unnamed} of them without a row in it" if unnamed else ""
    kept = tuple(p for p in discovery.patients if p.patient not in names)
    if discovery.patients and not kept:
        raise MrictError(f"{shown(path)}: rejects every patient; expected one to use; set use to yes for one")
    return replace(discovery, patients=kept, skipped=(*discovery.skipped, *rejected)), line


def _check_known(choices: dict[str, Choice], folders: list[Path], aside: list[Path], path: Path) -> None:
    """Raise MrictError for a row whose patient is not in the data; folders of another region count as known."""
    known = {folder.name.lower() for folder in (*folders, *aside)}
    for name, choice in choices.items():
        if name not in known:
            error = unknown_name("patient", choice.patient, sorted(folder.name for folder in folders))
            raise MrictError(f"{shown(path)}: line {choice.line}: {error}; correct or remove the line")
