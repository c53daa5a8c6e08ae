"""Shards: the cases of a run divided among jobs, and the tables of the jobs put together again."""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any

from mrict_core.errors import MrictError
from mrict_core.files import available, hash_of, write_text
from mrict_core.paths import shown, some

MARKS = ("number", "of", "run")  # last columns of a shard's table: the case's number, of how many, in which run
EACH = ("model", "modality")  # columns of tables with several rows for a case
NAMED = 5  # of what is missing, in a message
NUMBER = "[1-9][0-9]{0,5}"  # of a case or a shard: all of them are counted in memory


@dataclass(frozen=True, order=True)
class Shard:
    """Shard `number` of `count`, counted from 1. Of the cases in the order of their names it does every count-th."""

    count: int
    number: int

    def __str__(self) -> str:
        return f"shard-{self.number}-of-{self.count}"

    @property
    def first(self) -> bool:
        return self.number == 1

    def has(self, number: int) -> bool:
        """Return whether a case is of this shard; cases are numbered from 1 in the order of their names."""
        return (number - self.number) % self.count == 0

    def file(self, path: Path) -> Path:
        """Return the shard's own file in the place of one for all cases: summary.shard-2-of-8.csv for summary.csv."""
        return path.with_name(f"{path.stem}.{self}{path.suffix}")


def shard_named(text: str) -> Shard | None:
    """Return the shard "I/N", None for "". Raises MrictError unless 1 <= I <= N."""
    if not text:
        return None
    found = re.fullmatch("([0-9]{1,6})/([0-9]{1,6})", text)
    if not found:
        raise MrictError(
            f"--shard {text}: expected I/N, each of at most six digits, such as 2/8 for the second of eight; change it"
        )
    number, count = map(int, found.groups())
    if not 1 <= number <= count:
        raise MrictError(f"--shard {text}: expected I from 1 to N, such as 1/8 to 8/8 for eight shards; change it")
    return Shard(count, number)


def merge_hint(shard: Shard, path: Path) -> str:
    """Return what to do with the tables of all shards; `path`: of the table for all cases."""
    return f"{shard}; when all {shard.count} are done: python -m mrict_core merge {shlex.quote(shown(path))}"


@dataclass(frozen=True)
class Roll:
    """All cases of a run, of which every shard does its part. `run`: plain values of what else decides the results."""

    names: Sequence[str]
    run: Any = None

    @cached_property
    def hash(self) -> str:
        """Hash of the names and of what decides the results."""
        return hash_of([sorted(self.names), self.run])

    def marks(self, number: int) -> dict[str, Any]:
        """Return the columns by which `merge_tables` knows that shards are of one run and that no case is missing."""
        return dict(zip(MARKS, (number, len(self.names), self.hash), strict=True))


# ------------------------------------------------------------------------------------------------- tables of shards


def tables_of(path: Path) -> dict[Shard, Path]:
    """Return the tables of shards that stand in the place of one table, whatever their number."""
    named = re.compile(rf"{re.escape(path.stem)}\.shard-({NUMBER})-of-({NUMBER}){re.escape(path.suffix)}")
    found = {file: named.fullmatch(file.name) for file in sorted(path.parent.glob(f"{escape(path.stem)}.shard-*"))}
    return {Shard(int(match[2]), int(match[1])): file for file, match in found.items() if match}


def whole_of(file: Path) -> Path | None:
    """Return the table for all cases that the table of a shard is a part of; None for any other file."""
    stem = re.sub(rf"\.shard-{NUMBER}-of-{NUMBER}$", "", file.stem)
    return None if stem == file.stem else file.with_name(f"{stem}{file.suffix}")


def joined(path: Path) -> list[dict[str, str]]:
    """Return the rows of all shards in the order of the cases' names; `path`: of the table for all cases.

    Raises MrictError if a shard is missing or unfinished, if shards are of runs divided otherwise, of other cases or
    settings, and if a case is there twice.
    """
    files = tables_of(path)
    _check_whole(path, files)
    header, rows = None, []
    for shard, file in sorted(files.items()):
        columns, own = _read(file)
        if header not in (None, columns):
            raise MrictError(f"{shown(file)}: has other columns than shard 1; expected one version; run all again")
        header = columns
        for row in own:
            number = int(row["number"])
            beside = shard.first and number > int(row["of"])  # what a run lists beside its cases
            if not shard.has(number) and not beside:
                raise MrictError(
                    f"{shown(file)}: holds {row[columns[0]]}, which is of another shard; expected every case once; run "
                    f"--shard {shard.number}/{shard.count} again"
                )
        rows += own
    if len({(row["of"], row["run"]) for row in rows}) > 1:
        raise MrictError(
            f"{shown(path.parent)}: its shards are of other cases, models or settings than each other; expected one "
            "run; run all shards again in the same way, what is finished is kept"
        )
    _check_cases(path, rows, next(iter(files)).count)
    return sorted(rows, key=lambda row: int(row["number"]))


def merge_tables(path: Path) -> list[dict[str, str]]:
    """Write to `path` the table of all shards, the same that a run without shards writes; return its rows.

    For errors see `joined`; then nothing is written.
    """
    rows = joined(path)
    header, _ = _read(next(iter(tables_of(path).values())))
    _write(path, header[: -len(MARKS)], rows)
    return rows


def _check_whole(path: Path, files: dict[Shard, Path]) -> None:
    """Raise MrictError unless there is one table of each shard."""
    if not files:
        raise MrictError(
            f"{shown(path)}: no table of a shard beside it ({path.stem}.shard-1-of-N{path.suffix}); expected those of "
            "all shards; run the command with --shard first"
        )
    counts = sorted({shard.count for shard in files})
    if len(counts) > 1:
        raise MrictError(
            f"{shown(path.parent)}: tables of runs of {' and of '.join(map(str, counts))} shards; expected one run; "
            "remove those of the others"
        )
    missing = sorted({*range(1, counts[0] + 1)} - {shard.number for shard in files})
    if missing:
        which = some([f"{number}/{counts[0]}" for number in missing], NAMED)
        raise MrictError(f"{shown(path)}: no table of {len(missing)} of {counts[0]} shards; run --shard {which}")


def _check_cases(path: Path, rows: Sequence[dict[str, str]], count: int) -> None:
    """Raise MrictError unless every case has its rows, once."""
    keys = Counter(tuple(row.get(column, "") for column in ("number", *EACH)) for row in rows)
    twice = [row for row in rows if keys[tuple(row.get(column, "") for column in ("number", *EACH))] > 1]
    if twice:
        names = some(list(dict.fromkeys(next(iter(row.values())) for row in twice)), NAMED)
        raise MrictError(
            f"{shown(path)}: {names}: in the shards' tables twice; expected every case once; run all again"
        )
    total = int(rows[0]["of"]) if rows else 0
    missing = sorted({*range(1, total + 1)} - {int(row["number"]) for row in rows})
    if missing:
        shards = sorted({(number - 1) % count + 1 for number in missing})
        which = some([f"{number}/{count}" for number in shards], NAMED)
        raise MrictError(
            f"{shown(path)}: {len(missing)} of {total} cases have no row: shards have not finished; run --shard {which}"
        )


def _read(file: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns and rows of a shard's table, every cell as it is in the file."""
    with available(file):
        content = file.read_bytes()
    try:
        header, *lines = list(csv.reader(io.StringIO(content.decode("utf-8"), newline=""))) or [[]]
    except (UnicodeDecodeError, csv.Error):
        header, lines = [], []
    rows = [dict(zip(header, line, strict=False)) for line in lines]
    whole = tuple(header[-len(MARKS) :]) == MARKS and all(len(line) == len(header) for line in lines)
    if not whole or not all(re.fullmatch(NUMBER, row[mark]) for row in rows for mark in MARKS[:2]):
        raise MrictError(f"{shown(file)}: not the table of a shard, or damaged; delete it and run that shard again")
    return header, rows


def _write(path: Path, columns: Sequence[str], rows: Iterable[dict[str, str]]) -> None:
    """Write a table as `files.write_csv` does, from cells that it wrote."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n\r")
    writer.writerow(columns)
    writer.writerows([row[column] for column in columns] for row in rows)
    write_text(path, text.getvalue().replace("\n\r", "\n"))
