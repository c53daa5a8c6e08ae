"""The command that makes one result of what shards wrote."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from mrict_core.cli.progress import say
from mrict_core.errors import MrictError
from mrict_core.paths import shown


def merge(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="the folder that shards wrote to, or its table")],
) -> None:
    """Merge the tables of all shards (--shard I/N) of synthesize, pair or dose. Exit status 1 if a case failed."""
    if not output:
        raise MrictError("OUTPUT is empty; expected a folder; see python -m mrict_core merge --help")
    from mrict_core.pipeline.merging import merge as merged

    done = merged(Path(output).expanduser())
    for row in done.faults:
        words = [row.get("verdict") or row["status"], row.get("reason", "")]
        say(f"{next(iter(row.values()))}: {': '.join(filter(None, words))}")
    counts = Counter({next(iter(row.values())): row["status"] for row in done.rows}.values())
    each = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    say(f"{done.shards} shards, {sum(counts.values())} in all: {each}; {shown(done.file)}")
    if done.faults:
        raise typer.Exit(1)
