"""`python -m benchmarks`: run benchmarks; print tables and write json and markdown to reports/benchmarks/."""

from __future__ import annotations

import datetime
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import pandas as pd
import typer

from benchmarks import measure
from mrict_core.errors import MrictError, unknown_name
from mrict_core.files import write_json, write_text
from mrict_core.paths import reports_root, shown
from mrict_core.reporting import style
from mrict_core.reporting.text_tables import markdown_table, text_table

BENCHMARKS = (
    *("scores", "preprocessing", "training", "precision", "validation", "pipeline", "inference", "startup"),
    *("scaling", "gate", "checks", "faults", "gpu", "quality", "starter", "costs", "pairing", "pairing_cost"),
    *("mr_preparation", "dose", "ranks", "scale", "generations"),
)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="small sizes, to check that it runs")] = False,
    only: Annotated[str, typer.Option("--only", help=f"one of {', '.join(BENCHMARKS)}")] = "",
    output: Annotated[Path | None, typer.Option("--output", help="folder; default reports/benchmarks")] = None,
    data: Annotated[list[Path] | None, typer.Option("--data", help="quality: single slices; repeatable")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", help="quality: CPU time of a training")] = None,
    work: Annotated[Path | None, typer.Option("--work", help="quality: folder for its slices and checkpoints")] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="quality: auto, float32 or bfloat16")] = None,
) -> None:
    """Compare plain and fast implementations, in turns within one run; quote ratios of medians."""
    try:
        if only and only not in BENCHMARKS:
            raise unknown_name("benchmark", only, BENCHMARKS)
        given = {"data": data, "minutes": minutes, "work": work, "precision": precision}
        options = {name: value for name, value in given.items() if value is not None}
        if options and only != "quality":
            raise MrictError(f"--{', --'.join(options)}: of the benchmark quality; add --only quality")
        folder = output or reports_root() / "benchmarks"
        for name in [only] if only else BENCHMARKS:
            module = importlib.import_module(f"benchmarks.{name}")
            if not only and not quick and getattr(module, "LONG", False):
                print(f"{module.TITLE}: skipped, it takes long; give --only {name}")
                continue
            reason = "" if data else getattr(module, "missing", lambda: "")()
            if reason:
                if only:
                    raise MrictError(f"benchmark {name}: {reason}")
                print(f"{module.TITLE}: skipped, {reason}")
                continue
            print(f"{module.TITLE} …", flush=True)
            found = module.run(quick, **options)
            for rows in found if isinstance(found, Iterator) else [found]:
                _write(folder, f"{name}_quick" if quick else name, module, rows)
    except MrictError as error:
        print(f"error: {error}")
        raise typer.Exit(1) from None


def _write(folder: Path, name: str, module: ModuleType, rows: list[dict[str, Any]]) -> None:
    where, title = measure.machine(), module.TITLE
    how = getattr(module, "HOW", "medians, plain and lean in turns")
    made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    write_json(folder / f"{name}.json", {"title": title, "date": made, "machine": where, "rows": rows})
    gpu = f", {where['gpu']}" if where["gpu"] else ""
    lines = [f"# {title}", f"{where['cpu']}, {where['cores']} cores{gpu}; {made}; {how}."]
    if hasattr(module, "figure"):
        style.save(module.figure(rows), folder / f"{name}.png")
        lines.append(f"![{title}]({name}.png)")
    if hasattr(module, "notes"):
        lines += module.notes(rows)
    for part, table in _tables(rows).items():
        lines += [f"## {part}"] * bool(part) + [markdown_table(table)]
        print(f"\n{part}\n{text_table(table)}" if part else text_table(table))
    write_text(folder / f"{name}.md", "\n\n".join(lines) + "\n")
    print(f"written: {shown(folder / name)}.json and .md")


def _tables(rows: list[dict[str, Any]]) -> dict[str, pd.DataFrame]:
    """Return one table, or, if rows name their `part`, one for each, with the columns that it has."""
    parts: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        plain = {key: value for key, value in row.items() if key != "part" and not isinstance(value, list)}
        parts.setdefault(row.get("part", ""), []).append(plain)
    return {part: pd.DataFrame(own) for part, own in parts.items()}


if __name__ == "__main__":
    typer.run(main)
