"""`python -m benchmarks`: run the measurements, print a table, write json and markdown under reports/benchmarks/."""

from __future__ import annotations

import datetime
import importlib
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from benchmarks import measure
from mrict_core.errors import MrictError, unknown_name
from mrict_core.paths import reports_root, shown
from mrict_core.reporting.tables import markdown_table, text_table
from mrict_core.runtime import write_json, write_text

BENCHMARKS = ("scores", "training", "precision", "pipeline", "inference", "validation", "startup")


def main(
    quick: Annotated[bool, typer.Option("--quick", help="small sizes: does it run, not how fast")] = False,
    only: Annotated[str, typer.Option("--only", help=f"one of {', '.join(BENCHMARKS)}")] = "",
    output: Annotated[Path | None, typer.Option("--output", help="folder; default reports/benchmarks")] = None,
) -> None:
    """Measure plain against lean forms, in turns, in one run; ratios of medians are what to quote."""
    try:
        if only and only not in BENCHMARKS:
            raise unknown_name("benchmark", only, BENCHMARKS)
        folder = output or reports_root() / "benchmarks"
        for name in [only] if only else BENCHMARKS:
            module = importlib.import_module(f"benchmarks.{name}")
            print(f"{module.TITLE} …", flush=True)
            _write(folder, f"{name}_quick" if quick else name, module.TITLE, module.run(quick))
    except MrictError as error:
        print(f"error: {error}")
        raise typer.Exit(1) from None


def _write(folder: Path, name: str, title: str, rows: list[dict[str, Any]]) -> None:
    where = measure.machine()
    made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    write_json(folder / f"{name}.json", {"title": title, "date": made, "machine": where, "rows": rows})
    table = pd.DataFrame([{key: value for key, value in row.items() if not isinstance(value, list)} for row in rows])
    lines = [f"# {title}", f"{where['cpu']}, {where['cores']} cores; {made}; medians, plain and lean in turns."]
    write_text(folder / f"{name}.md", "\n\n".join([*lines, markdown_table(table)]) + "\n")
    print(text_table(table))
    print(f"written: {shown(folder / name)}.json and .md")


if __name__ == "__main__":
    typer.run(main)
