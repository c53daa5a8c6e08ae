"""The command that computes what synthetic CTs change in the dose of a plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mrict_core.cli.options import Overwrite, Shard
from mrict_core.cli.progress import Bar, say
from mrict_core.errors import MrictError
from mrict_core.paths import shown
from mrict_core.shards import merge_hint, shard_named

if TYPE_CHECKING:
    from mrict_core.pipeline.dose_files import DoseCase


def dose(
    ct: Annotated[str, typer.Option("--ct", help="the CT in HU (image or DICOM series), a folder of cases, or a csv")],
    output: Annotated[str, typer.Option("--output", "-o", help="folder of the results")],
    sct: Annotated[
        list[str] | None, typer.Option("--sct", help="the synthetic CT, or a folder; MODEL=PATH for several")
    ] = None,
    mask: Annotated[str, typer.Option("--mask", help="the body mask; of folders: if not next to the CTs")] = "",
    target: Annotated[
        str, typer.Option("--target", help="mask of the target, or its name in --rtstruct; none: test targets")
    ] = "",
    oar: Annotated[
        list[str] | None, typer.Option("--oar", metavar="NAME=FILE", help="an organ: a mask, or a name in --rtstruct")
    ] = None,
    rtstruct: Annotated[str, typer.Option("--rtstruct", help="DICOM structures; the only PTV is the target")] = "",
    modality: Annotated[
        list[str] | None, typer.Option("--modality", help="photons or protons; repeatable; default: both")
    ] = None,
    dose_gy: Annotated[float, typer.Option("--dose-gy", help="prescription of one fraction, physical dose")] = 2.0,
    grid_mm: Annotated[float, typer.Option("--grid-mm", help="of the dose")] = 3.0,
    targets: Annotated[int, typer.Option("--targets", help="test targets of a case without --target")] = 2,
    seed: Annotated[int, typer.Option("--seed", help="of the places of test targets")] = 1,
    shard: Shard = "",
    overwrite: Overwrite = False,
) -> None:
    """Plan on the CT, recompute on the synthetic CT, and compare the doses (generic machine, not for clinical use)."""
    from mrict_core.dose.engine import MODALITIES
    from mrict_core.dose.study import DoseSettings
    from mrict_core.pipeline.dose_inputs import cases_of_csv, cases_of_folders
    from mrict_core.pipeline.dose_runs import NOTE, TABLE, dose_all, table
    from mrict_core.reporting.text_tables import text_table

    part = shard_named(shard)
    settings = DoseSettings(tuple(modality or MODALITIES), dose_gy, grid_mm, targets, seed)
    folder = Path(output).expanduser()
    if not output or folder.is_file():
        raise MrictError(f"--output {output}: expected a folder for the results; give one")
    path = Path(ct).expanduser()
    of_one, listed = bool(target or oar or rtstruct), path.suffix.lower() == ".csv"
    if listed and (of_one or sct or mask):
        raise MrictError("--ct is a csv: its columns name all files; expected no --sct, --mask or structures beside it")
    if not listed and not sct:
        raise MrictError("--sct is missing: expected the synthetic CT that is compared with the CT; give it")
    if listed:
        cases, problems = cases_of_csv(path)
    elif not path.is_dir() or _is_series(path):
        if part:
            raise MrictError(
                f"--shard {shard}: --ct {ct} is one case; expected a folder of cases or a csv; leave it out"
            )
        cases, problems = [_case(path, _models(sct), mask, target, oar or [], rtstruct)], {}
    elif of_one:
        raise MrictError("--target, --oar and --rtstruct are of one case; for many give --ct a csv with such columns")
    else:
        cases, problems = cases_of_folders(path, _models(sct), Path(mask).expanduser() if mask else None)
    with Bar("dose", "case") as bar:
        done = dose_all(cases, problems, folder, settings, overwrite=overwrite, progress=bar, say=say, shard=part)
    failed = [one for one in done if one.status == "failed"]
    for one in done:
        for note in one.record.get("notes", ()):
            say(f"note: {one.case}: {note}")
    if len(failed) < len(done):
        shown_rows = table([one for one in done if one.status != "failed"]).dropna(axis=1, how="all")
        print(text_table(shown_rows.drop(columns=["status", "reason"], errors="ignore")))
        print(f"{NOTE}\ntable: {shown(part.file(folder / TABLE) if part else folder / TABLE)}")
        for one in done:
            if one.status != "failed":
                print(f"page:  {shown(folder / one.case / 'index.html')}")
    if part:
        say(merge_hint(part, folder / TABLE))
    for one in failed:
        say(f"failed: {one.case}: {one.reason}")
    if failed:
        raise typer.Exit(1)


def _is_series(folder: Path) -> bool:
    from mrict_core.inference.input_files import holds_many

    return not holds_many(folder)


def _models(given: list[str]) -> dict[str, Path]:
    """Return {model: path} of --sct; a single path needs no name."""
    found = {}
    for text in given:
        name, separator, path = text.partition("=")
        named = bool(separator) and not Path(text).exists()
        name, path = (name, path) if named else ("sCT" if len(given) == 1 else "", text)
        if not name or not path:
            raise MrictError(f"--sct {text}: expected MODEL=PATH for each of several synthetic CTs; name it")
        if name in found:
            raise MrictError(f"--sct {text}: the name {name} is given twice; expected different names; rename one")
        found[name] = Path(path).expanduser()
    return found


def _case(path: Path, scts: dict[str, Path], mask: str, target: str, oar: list[str], rtstruct: str) -> DoseCase:
    from mrict_core.data.images.volumes import stem_of
    from mrict_core.pipeline.dose_files import DoseCase

    if not mask:
        raise MrictError("--mask is missing: dose is computed inside the body; give the mask's file")
    organs = {}
    for text in oar:
        name, separator, value = text.partition("=")
        if not name or (separator and not value) or not (separator or rtstruct):
            raise MrictError(f"--oar {text}: expected NAME=FILE, or a name in --rtstruct; correct it")
        if name in organs:
            raise MrictError(f"--oar {text}: the name {name} is given twice; expected different names; rename one")
        organs[name] = value or name
    name = stem_of(path)
    name = path.resolve().parent.name if name.lower() in ("", "ct") else name
    return DoseCase(
        name,
        path,
        scts,
        Path(mask).expanduser(),
        target,
        organs,
        Path(rtstruct).expanduser() if rtstruct else None,
    )
