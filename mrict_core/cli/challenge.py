"""The command that a SynthRAD container runs."""

from __future__ import annotations

from typing import Annotated

import typer

from mrict_core.cli.options import Device, Overwrite, Parts, Precision, ResampleMm, Strict, Tta
from mrict_core.cli.progress import say
from mrict_core.errors import MrictError


def challenge(
    source: Annotated[
        str, typer.Option("--input", help="folder with images/mri (Task 2: images/cbct), images/body and region.json")
    ] = "/input",
    output: Annotated[str, typer.Option("--output", help="folder to write images/synthetic-ct to")] = "/output",
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="a checkpoint or a trained variant; REGION=NAME: for that region only"),
    ] = None,
    tta: Tta = False,
    resample_to_mm: ResampleMm = None,
    strict: Strict = False,
    device: Device = "auto",
    precision: Precision = "float32",
    experiment: Parts = None,
    overwrite: Overwrite = False,
) -> None:
    """Synthesise the cases of a SynthRAD container: /input/images/{mri or cbct,body} to /output/images/synthetic-ct."""
    from pathlib import Path

    if not model:
        raise MrictError("no --model given; expected a checkpoint file or a trained variant; add --model NAME")
    from mrict_core.inference.volume import SynthesisOptions
    from mrict_core.pipeline.submission import run_challenge

    failed = run_challenge(
        Path(source).expanduser(),
        Path(output).expanduser(),
        model,
        SynthesisOptions(tta=tta, resample_to_mm=resample_to_mm),
        device=device,
        precision=precision,
        overwrite=overwrite,
        report=say,
        strict=strict,
    )
    if failed:
        raise typer.Exit(1)
