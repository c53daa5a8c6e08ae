"""The results of shards as one: their tables merged, and of pairs the page to judge them by."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mrict_core.data.pair_choices import PAIRS
from mrict_core.errors import MrictError
from mrict_core.files import sole_writer
from mrict_core.paths import shown
from mrict_core.pipeline.cases import SUMMARY
from mrict_core.pipeline.dose_runs import TABLE
from mrict_core.reporting.pair_page import write_pair_page
from mrict_core.shards import joined, merge_tables, tables_of, whole_of

TABLES = (SUMMARY, PAIRS, TABLE)  # of synthesis, pairing and dose
FAILED = ("failed", "left out")
UNPAIRED = "not a pair"


@dataclass(frozen=True)
class Merged:
    """What was merged: the file made of it, and a row of every case, whose first column is its name."""

    file: Path
    shards: int
    rows: Sequence[dict[str, str]]

    @property
    def faults(self) -> list[dict[str, str]]:
        """Rows for which the command of the shards ends with exit status 1."""
        return [row for row in self.rows if row["status"] in FAILED or row.get("verdict") == UNPAIRED]


def merge(output: Path) -> Merged:
    """Merge what shards wrote to a folder; `output` may also be the table for all cases, such as OUTPUT/summary.csv.

    Of synthesis and dose this writes the table that a run without shards writes; of pairs, pairs.html and pairs.csv.
    Raises MrictError for a folder without shards or with those of several commands, and see `shards.merge_tables`.
    """
    path = _table_of(Path(output))
    count = max((shard.count for shard in tables_of(path)), default=0)
    locked = path.name in (PAIRS, TABLE)  # synthesis locks nothing
    with sole_writer(path.parent, "writes into it") if locked else contextlib.nullcontext():
        if path.name != PAIRS:
            return Merged(path, count, merge_tables(path))
        rows = joined(path)
        paired = any(row["status"] != "failed" for row in rows)
        return Merged(write_pair_page(path.parent) if paired else path.parent, count, rows)


def _table_of(output: Path) -> Path:
    """Return the path of the table whose parts are to be merged."""
    if not output.is_dir():
        if not tables_of(output) and output.suffix != ".csv":
            raise MrictError(
                f"{shown(output)}: no such folder, and no table; expected the folder that the shards wrote to, or the "
                "table for all cases, such as OUTPUT/summary.csv; check the name"
            )
        if whole := whole_of(output):
            raise MrictError(f"{shown(output)}: of one shard; expected the table for all; merge {shown(whole)}")
        return output
    found = [output / name for name in TABLES if tables_of(output / name)]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise MrictError(f"{shown(output)}: shards of {names}; expected one; name the table, such as {shown(found[0])}")
    if not found:
        expected = ", ".join(name.replace(".csv", ".shard-1-of-N.csv") for name in TABLES)
        raise MrictError(f"{shown(output)}: no table of shards; expected one of {expected}; run with --shard first")
    return found[0]
