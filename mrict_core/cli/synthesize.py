"""The command that makes synthetic CTs: one MR, a folder of cases, or a csv of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mrict_core.cli.options import Device, Parts, Precision
from mrict_core.cli.progress import Bar, say
from mrict_core.errors import MrictError, unknown_name
from mrict_core.paths import shown, some

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from mrict_core.inference.volume import SynthesisOptions
    from mrict_core.pipeline.synthesis import Model

Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="a checkpoint file or a trained variant; several make an ensemble; coronal=NAME, sagittal=NAME: its plane",
    ),
]
Tta = Annotated[bool, typer.Option("--tta", help="average over the four flips of every slice")]
ResampleMm = Annotated[
    float | None,
    typer.Option("--resample-to-mm", help="pixel that the network sees; 0: the input's own; default: only where far"),
]
Strict = Annotated[bool, typer.Option("--strict", help="refuse an MR that the gate only warns of")]


def synthesize(
    source: Annotated[
        str,
        typer.Argument(metavar="INPUT", help="an MR (NIfTI, MHA, NRRD, a folder of DICOM), a folder of cases or a csv"),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", help="the CT's file; without a suffix: a folder of DICOM; of many cases: a folder"
        ),
    ],
    model: Models = None,
    tta: Tta = False,
    uncertainty: Annotated[
        str, typer.Option("--uncertainty", help="HU SD over models and flips (of one model --tta): a file, or a folder")
    ] = "",
    qa: Annotated[
        str, typer.Option("--qa", help="a page (.html) or picture (.png) to judge the CT by; of many: a folder")
    ] = "",
    resample_to_mm: ResampleMm = None,
    image_format: Annotated[
        str, typer.Option("--format", help="of many cases: nii.gz, nii, mha, nrrd; default: as read")
    ] = "",
    csv: Annotated[str, typer.Option("--csv", help="summary of many cases; default: OUTPUT/summary.csv")] = "",
    series: Annotated[str, typer.Option("--series", help="of a DICOM folder with several: its name or UID")] = "",
    keep_identifiers: Annotated[
        bool, typer.Option("--keep-identifiers", help="write the patient's name, id and dates into the DICOM CT")
    ] = False,
    strict: Strict = False,
    device: Device = "auto",
    precision: Precision = "float32",
    experiment: Parts = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace what exists")] = False,
) -> None:
    """Make a synthetic CT on exactly the grid of the MR. Not for clinical use."""
    from pathlib import Path

    for name, given in (("INPUT", source), ("--output", output), ("--model", "".join(model or ()))):
        if not given:
            raise MrictError(f"{name} is empty; expected a name; see python -m mrict_core synthesize --help")
    from mrict_core.inference.input_files import holds_many
    from mrict_core.inference.volume import SynthesisOptions
    from mrict_core.pipeline.cases import is_file_name, the_only_case
    from mrict_core.pipeline.survey import images_beside
    from mrict_core.pipeline.synthesis import load_models

    options = SynthesisOptions(tta=tta, resample_to_mm=resample_to_mm)
    path = Path(source).expanduser()
    many = holds_many(path)
    target = Path(output).expanduser()
    spread, page = (Path(given).expanduser() if given else None for given in (uncertainty, qa))
    if many and series and path.is_dir():  # of a folder whose DICOM is deeper
        many = False
    elif many and is_file_name(target):
        path, series = the_only_case(path, target)
        many = False
    if many and (series or keep_identifiers):
        raise MrictError("--series and --keep-identifiers are for one DICOM series; give its folder alone")
    if not many and (csv or image_format):
        raise MrictError("--csv and --format are for many cases; the name of one output says its format")
    if many:
        _many(path, target, spread, page, model, options, csv, image_format, strict, device, precision, overwrite)
        return
    from mrict_core.inference.output_files import sidecar_path
    from mrict_core.pipeline.synthesis import check_targets, synthesize_case, unfinished

    replace = overwrite or bool(unfinished(sidecar_path(target)))
    check_targets(path, target, spread, replace, qa=page)  # before a model is loaded
    models = load_models(model, device, precision)
    with Bar("synthesize", "pass") as bar:
        facts = synthesize_case(
            path,
            target,
            models,
            options,
            uncertainty=spread,
            qa=page,
            overwrite=overwrite,
            strict=strict,
            series=series,
            keep_identifiers=keep_identifiers,
            progress=bar if len(models) > 1 or tta or spread else None,
        )
    for warning in facts["warnings"]:
        say(f"warning: {warning}")
    names = ", ".join(m.name for m in models)
    say(f"{shown(target)}: synthetic CT by {names}, verdict: {facts['verdict']}; not for clinical use")
    others = images_beside(path) if path.is_dir() else []
    for other in others:
        say(f"{shown(other)}: left out: an image beside the DICOM series, which was taken")
    if others:
        raise typer.Exit(1)


def _many(
    source: Path,
    target: Path,
    spread: Path | None,
    page: Path | None,
    names: list[str],
    options: SynthesisOptions,
    csv: str,
    image_format: str,
    strict: bool,
    device: str,
    precision: str,
    overwrite: bool,
) -> None:
    from pathlib import Path

    from mrict_core.pipeline.cases import FORMAT_NAMES, check_summary, find_cases, synthesize_cases
    from mrict_core.pipeline.synthesis import load_models

    if image_format and image_format not in FORMAT_NAMES:
        raise unknown_name("format", image_format, FORMAT_NAMES)
    summary = Path(csv).expanduser() if csv else target / "summary.csv"
    suffix = FORMAT_NAMES[image_format] if image_format else ""
    found = find_cases(source, target, suffix=suffix, uncertainty=spread, qa=page)
    check_summary(summary, overwrite)
    models: list[Model] = load_models(names, device, precision)
    with Bar("synthesize", "case") as bar:
        frame = synthesize_cases(found, models, summary, options, overwrite=overwrite, strict=strict, progress=bar)
    _report(frame)
    counts = frame["status"].value_counts()
    each = ", ".join(f"{counts.get(status, 0)} {status}" for status in ("written", "kept", "failed", "left out"))
    say(f"{len(frame)} found in {shown(source)}: {each}, {counts.get('aside', 0)} no MR; {shown(summary)}")
    if counts.get("failed", 0) or counts.get("left out", 0):
        raise typer.Exit(1)


def _report(frame: pd.DataFrame) -> None:
    """Say what was warned of, what failed and what was left out, one line each, and in one line what is no MR."""
    from mrict_core.pipeline.cases import BETWEEN, NAMED

    warned: dict[str, list[str]] = {}
    for row in frame[frame["status"].isin(("written", "kept"))].itertuples():
        for warning in filter(None, row.warnings.split(BETWEEN)):
            warned.setdefault(warning, []).append(row.case)
    for warning, cases in warned.items():
        say(f"warning: {some(cases, NAMED)}: {warning}")
    for row in frame[frame["status"].isin(("failed", "left out"))].itertuples():
        say(f"{row.case}: {'left out: ' if row.status == 'left out' else ''}{row.reason}")
    reasons = frame.loc[frame["status"] == "aside", "reason"].value_counts()
    if len(reasons):
        say("no MR: " + ", ".join(f"{count} {reason}" for reason, count in reasons.items()))
