"""The cases that doses are computed of: two folders, or a csv."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mrict_core.data.case_csv import FOLDER_NAME, listed_file, listed_place, read_rows
from mrict_core.errors import MrictError
from mrict_core.evaluation.image_scores import find_cases
from mrict_core.paths import printable, shown
from mrict_core.pipeline.dose_files import DoseCase

SCT, ORGAN = "sct", "oar"  # columns, also followed by a model's or an organ's name
NEEDED, OPTIONAL = ("case", "ct", "mask"), ("target", "rtstruct")
Cases = tuple[list[DoseCase], dict[str, str]]


def cases_of_folders(ct: Path, scts: Mapping[str, Path], mask: Path | None) -> Cases:
    """Return (cases that all folders have, {case or file: why it has no dose}); `scts`: {model: folder}."""
    by_model, problems = {}, {}
    for model, folder in scts.items():
        found, lacking = find_cases(ct, folder, mask)
        by_model[model] = {case.name: case for case in found}
        problems |= {name: f"{model}: {why}" for name, why in lacking.items()}
    cases = []
    for name in sorted(set().union(*by_model.values()) - set(problems)):
        files = {model: found[name] for model, found in by_model.items()}
        one = next(iter(files.values()))
        cases.append(DoseCase(name, one.ct, {model: each.sct for model, each in files.items()}, one.mask))
    return cases, problems


def cases_of_csv(path: Path) -> Cases:
    """Return (cases, {case: why it has no dose}) of a csv; its paths are relative to it.

    Columns: case, ct, mask, and sct, or "sct MODEL" for each of several; also target, rtstruct and "oar NAME", where a
    target or an organ is a file, or a name in the row's RTSTRUCT. Raises MrictError for a csv without these columns.
    """
    rows = read_rows(path, NEEDED)
    columns = list(rows[0][1])
    images = [column for column in columns if column.split()[0] == SCT]
    organs = [column for column in columns if column.split()[0] == ORGAN and len(column.split()) > 1]
    if not images:
        raise MrictError(f"{shown(path)}: no column sct, or sct MODEL; expected the synthetic CTs; add it")
    if unknown := [column for column in columns if column not in (*NEEDED, *OPTIONAL, *images, *organs)]:
        known = ", ".join((*NEEDED, "sct or sct MODEL", *OPTIONAL, "oar NAME"))
        raise MrictError(f"{shown(path)}: unknown column {unknown[0]}; expected {known}; rename or remove it")
    names = [row["case"].lower() for _, row in rows]
    cases, problems = [], {}
    for line, row in rows:
        name = printable(row["case"]) or f"line {line}"
        try:
            if not FOLDER_NAME.fullmatch(row["case"]):
                raise MrictError(
                    f"{shown(path)}: line {line}: the case cannot name a folder; use letters, digits, _, -"
                )
            if names.count(row["case"].lower()) > 1:
                raise MrictError(f"{shown(path)}: {name}: more than one line of this name; expected one; rename them")
            cases.append(_case(path, line, row, images, organs))
        except MrictError as error:
            problems[name] = str(error)
    return cases, problems


def _case(path: Path, line: int, row: dict[str, str], images: list[str], organs: list[str]) -> DoseCase:
    """Return the case of a row; a model or organ with an empty cell is not the row's."""
    for column in ("ct", "mask"):
        if not row[column]:
            raise MrictError(f"{shown(path)}: line {line}: no {column}; expected one; add it")
    scts = {_named(column) or "sCT": listed_file(path, line, row[column]) for column in images if row[column]}
    if not scts:
        raise MrictError(f"{shown(path)}: line {line}: no sct; expected a synthetic CT; add it")
    rtstruct = listed_file(path, line, row["rtstruct"]) if row.get("rtstruct") else None

    def structure(cell: str) -> str:
        """A name stays as it is where an RTSTRUCT may hold it."""
        return cell if rtstruct and not listed_place(path, cell) else str(listed_file(path, line, cell))

    target = structure(row["target"]) if row.get("target") else ""
    found = {_named(column): structure(row[column]) for column in organs if row[column]}
    ct, mask = (listed_file(path, line, row[column]) for column in ("ct", "mask"))
    return DoseCase(row["case"], ct, scts, mask, target, found, rtstruct)


def _named(column: str) -> str:
    return column.partition(" ")[2].strip()
