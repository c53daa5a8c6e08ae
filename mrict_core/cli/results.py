"""Commands on existing images and results (score, compare, report), and the suite."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from mrict_core.cli.options import (
    Ct,
    Data,
    Device,
    ExcludeMetal,
    Files,
    Force,
    GroupBy,
    Modality,
    Pairs,
    Parts,
    Profile,
    Protocol,
    Region,
    Sets,
    TensorBoard,
)
from mrict_core.cli.progress import Bar, say
from mrict_core.errors import MrictError


def score(
    ct: Annotated[str, typer.Option("--ct", help="the true CT in HU (NIfTI, MHA, NRRD), or a folder of cases")],
    sct: Annotated[str, typer.Option("--sct", help="the synthetic CT, or a folder of cases")],
    mask: Annotated[str, typer.Option("--mask", help="the body mask; of folders: if not next to the CTs")] = "",
    protocol: Annotated[str, typer.Option("--protocol", help="synthrad2023 or synthrad2025")] = "synthrad2023",
    hu_range: Annotated[
        str, typer.Option("--range", help="another HU range: synthrad2023, synthrad2025, synthrad2025_metrics")
    ] = "",
    luminance: Annotated[
        str, typer.Option("--luminance", help="MS-SSIM: every_scale (as the challenge runs it) or last_scale")
    ] = "every_scale",
    exponents: Annotated[
        str, typer.Option("--exponents", help="MS-SSIM: per_voxel (as the challenge runs it) or per_scale")
    ] = "per_voxel",
    clinical: Annotated[bool, typer.Option("--clinical", help="also the clinical panel")] = False,
    resample: Annotated[bool, typer.Option("--resample", help="resample sCT and mask to the CT's grid")] = False,
    as_is: Annotated[bool, typer.Option("--as-is", help="score suspicious images, with a warning")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="refuse contradictory or incomplete headers")] = False,
    json: Annotated[bool, typer.Option("--json", help="everything, with metric cards, machine-readable")] = False,
    csv: Annotated[str, typer.Option("--csv", help="table of the cases; for folders scores.csv by default")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an existing csv")] = False,
) -> None:
    """Score a synthetic CT, or a folder of them, by the SynthRAD definitions."""
    from pathlib import Path

    from mrict_core.evaluation.image_scores import ScoreOptions
    from mrict_core.reporting.score_report import score_folders, score_one

    if empty := [name for name, given in (("--ct", ct), ("--sct", sct)) if not given]:
        raise MrictError(f"{empty[0]} is empty; give an image file or a folder of cases")
    options = ScoreOptions(protocol, hu_range, luminance, exponents, clinical, resample, as_is, strict)
    folders = Path(ct).expanduser().is_dir() or Path(sct).expanduser().is_dir()
    target = csv or ("scores.csv" if folders else "")
    for path in (Path(target), Path(target).with_suffix(".cards.csv")) if target else ():
        if path.exists() and not overwrite:
            raise MrictError(f"{path}: exists already; give another --csv, or --overwrite to replace it")
    if folders:
        with Bar("score", "case") as bar:
            text, failed = score_folders(ct, sct, mask or None, options, Path(target), json=json, progress=bar)
    else:
        text, failed = score_one(ct, sct, mask, options, Path(target) if target else None, json=json), 0
    print(text)
    if failed:
        raise typer.Exit(1)


def compare(
    run_a: Annotated[str, typer.Argument(help="a folder of reports, such as reports or reports/runs/<name>")],
    run_b: Annotated[str, typer.Argument(help="another one")],
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="a metric to compare; repeatable; default: the main five")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="everything, machine-readable")] = False,
) -> None:
    """Compare run A with run B: differences, intervals and paired tests."""
    from mrict_core.evaluation.compare import compare_runs
    from mrict_core.reporting.text_tables import comparison_text

    comparison = compare_runs(run_a, run_b, tuple(metric or ()))
    print(comparison.as_json() if json else comparison_text(comparison))


def report(
    profile: Profile = "demo",
    data: Data = None,
    region: Region = "brain",
    modality: Modality = "mr",
    ct: Ct = "rigid",
    exclude_metal: ExcludeMetal = False,
    protocol: Protocol = "patient",
    variants: Annotated[str, typer.Option("--variants", help="names separated by commas; none: all scored")] = "",
    device: Device = "auto",
    experiment: Parts = None,
) -> None:
    """Write index.html, summary.md and summary.csv of the trained and scored variants."""
    from mrict_core.experiments.profiles import get_profile
    from mrict_core.paths import shown, workspace

    chosen, space = get_profile(profile), workspace(profile, data, region, protocol, modality, ct, exclude_metal)
    from mrict_core.pipeline.report import write_report

    for path in write_report(chosen, space, variants, device=device).values():
        print(shown(path))


def suite(
    profile: Annotated[
        str,
        typer.Option("--profile", help="demo, cpu or full; none: demo, with --data full on a GPU and cpu without one"),
    ] = "",
    data: Data = None,
    region: Region = "brain",
    modality: Modality = "mr",
    ct: Ct = "rigid",
    exclude_metal: ExcludeMetal = False,
    variants: Annotated[
        str | None,
        typer.Option(
            "--variants",
            help="readme (the 17 of the predecessor's README and their ancestors), all, or names separated by commas; "
            "none: all of --experiment; else of the demo readme and MK7 to MK10, of the others MK7, pix2pix_paper and "
            "unet_l1",
        ),
    ] = None,
    sets: Sets = None,
    experiment: Files = None,
    protocol: Protocol = "patient",
    group_by: GroupBy = "",
    pairs: Pairs = "",
    only: Annotated[
        str,
        typer.Option("--only", help="numbers or names of notebooks to run, separated by commas, with their trainings"),
    ] = "",
    jobs: Annotated[
        int, typer.Option("--jobs", min=0, help="parallel trainings and notebooks; 0: the profile's choice")
    ] = 0,
    minutes: Annotated[
        float | None,
        typer.Option("--minutes-per-variant", metavar="M", help="train every variant for so long, ancestors too"),
    ] = None,
    tensorboard: TensorBoard = False,
    dose: Annotated[
        bool, typer.Option("--dose", help="also notebook 12: the dose of the best model beside the baselines")
    ] = False,
    force: Force = False,
) -> None:
    """Train, and run the notebooks in order (./run_all.sh calls it). Exit status 1 if data were left out."""
    from mrict_core.experiments.profiles import MINUTES, check_budget
    from mrict_core.paths import shown
    from mrict_core.suite import left_out, run_suite

    if minutes is not None:
        check_budget(minutes=minutes)
        os.environ[MINUTES] = str(minutes)  # for the suite's workers and kernels, too
    space = run_suite(
        profile,
        data,
        region,
        variants,
        sets=sets or (),
        files=experiment or (),
        protocol=protocol,
        only=only,
        jobs=jobs,
        force=force,
        group_by=group_by,
        pairs=pairs,
        tensorboard=tensorboard,
        dose=dose,
        say=say,
        modality=modality,
        ct=ct,
        exclude_metal=exclude_metal,
    )
    for what, path in (
        ("report", space.reports / "index.html"),
        ("leaderboard", space.reports / "leaderboard.md"),
        ("metrics", space.metrics),
        ("figures", space.figures),
        *([("dose", space.reports / "dose")] if dose else []),
        ("notebooks", space.executed),
    ):
        if path.exists():
            print(f"{what + ':':12s} {shown(path)}")
    if line := left_out(space):
        say(f"left out:    {line}; the rest is done")
        raise typer.Exit(1)
