"""The reader of csv lists that users write, as spreadsheets save them."""

from __future__ import annotations

import codecs
import contextlib
import csv
import re
from collections.abc import Sequence
from pathlib import Path

from mrict_core.errors import MrictError, UnavailableError
from mrict_core.files import available
from mrict_core.paths import shown

DELIMITERS = ",;\t"
FOLDER_NAME = re.compile(r"[\w][\w .+=~-]{0,99}")  # a case's name becomes the name of a folder


def read_rows(path: Path | str, needed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Return [(line, {column: cell})] of a csv whose first line names its columns; `needed` must be among them.

    Accepts commas, semicolons or tabs, and UTF-8 or UTF-16. Column names become lower case; spaces around names and
    cells are stripped; empty lines are skipped. Raises MrictError for a missing or repeated column, a row with more
    cells than columns, and a file without rows.
    """
    with available(Path(path)):
        content = Path(path).read_bytes()
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    readings, cause = [], None
    for delimiter in DELIMITERS:  # quotation marks may be valid with only one of them
        try:
            lines = content.decode("utf-16" if wide else "utf-8-sig").splitlines(keepends=True)
            readings.append(_parsed(lines, delimiter))
        except (csv.Error, UnicodeDecodeError) as error:
            cause = cause or error
    names, rows = max(readings, key=lambda one: (set(needed) <= set(one[0]), len(one[0])), default=([], []))
    missing = [name for name in needed if name not in names]
    if cause and missing:
        raise MrictError(f"{shown(path)}: not a readable csv ({cause}); save it again as csv in UTF-8")
    expected = f"expected the columns {', '.join(needed)} and a row for every case"
    if missing:
        found = ", ".join(filter(None, names)) or "nothing"
        raise MrictError(f"{shown(path)}: holds {found}; {expected}; add {', '.join(missing)}")
    if doubled := sorted({name for name in names if name and names.count(name) > 1}):
        raise MrictError(f"{shown(path)}: has the column {doubled[0]} more than once; {expected}; rename one")
    if not rows:
        raise MrictError(f"{shown(path)}: holds no row; {expected}; add them")
    for line, cells in rows:
        if any(cells[len(names) :]):
            raise MrictError(
                f"{shown(path)}: line {line} has {len(cells)} cells for {len(names)} columns; expected as many; quote "
                "names that contain the separator"
            )
    return [
        (line, {name: cell for name, cell in zip(names, cells + [""] * len(names), strict=False) if name})
        for line, cells in rows
    ]


def listed_file(path: Path, line: int, cell: str) -> Path:
    """Return the file or folder that a cell of a csv names, relative to the csv; UnavailableError if there is none."""
    file = listed_place(path, cell)
    if file is None:
        wanted = shown(path.parent / cell)[:300]
        raise UnavailableError(f"{shown(path)}: line {line}: {wanted} not found; expected it; correct the path")
    return file


def listed_place(path: Path, cell: str) -> Path | None:
    """Return the file or folder that a cell names; None if there is none, or no path in the cell."""
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # too long, of an unknown user, with a null byte
        file = path.parent / Path(cell).expanduser()
        return file if file.exists() else None
    return None


def _parsed(lines: list[str], delimiter: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the column names and the non-empty rows, each with its line number."""
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    (_, head), *rest = [row for row in rows if any(row[1])] or [(0, [])]
    return [name.lower() for name in head], rest
