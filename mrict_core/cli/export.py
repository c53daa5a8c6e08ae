"""The command that writes a published model in the formats of others."""

from __future__ import annotations

from typing import Annotated

import typer

from mrict_core.cli.options import Overwrite
from mrict_core.cli.progress import say
from mrict_core.errors import MrictError
from mrict_core.machine import require


def export(
    model: Annotated[str, typer.Argument(metavar="NAME[@HASH]", help="a published model; see `models`")],
    onnx: Annotated[
        str, typer.Option("--onnx", metavar="FILE", help="write the network as ONNX, with dynamic rows and columns")
    ] = "",
    bundle: Annotated[str, typer.Option("--bundle", metavar="DIR", help="write a MONAI bundle")] = "",
    mr: Annotated[
        str, typer.Option("--mr", metavar="FILE", help="an MR to check the copy on; default: a digital phantom")
    ] = "",
    overwrite: Overwrite = False,
) -> None:
    """Write a published model as ONNX or as a MONAI bundle, checked for equal HU: docs/howto/export.md."""
    from pathlib import Path

    from mrict_core.models import catalogue
    from mrict_core.paths import shown

    if not onnx and not bundle:
        raise MrictError(f"{model}: no format given; expected --onnx FILE, --bundle DIR or both; add one")
    file, folder = (Path(text).expanduser() if text else None for text in (onnx, bundle))
    for path in (file, folder):
        if path and path.exists() and not overwrite:
            raise MrictError(f"{shown(path)}: exists already; expected a new name; give another, or --overwrite")
    source = catalogue.find(model)
    if not source.is_dir():
        raise MrictError(
            f"{model}: trained and not published ({shown(source)}); expected a published model; evaluate it"
        )
    from mrict_core.inference import load_synthesizer
    from mrict_core.models import export as steps
    from mrict_core.models import export_bundle, export_onnx
    from mrict_core.models.folder import read_model, read_scores

    for module in (*(export_onnx.PACKAGES if file else ()), *(export_bundle.PACKAGES if folder else ())):
        require(module, "export")
    loaded = load_synthesizer(source, device="cpu")
    original = steps.Original(loaded.method, loaded.facts, read_model(source), read_scores(source))
    example = steps.example_of(original, Path(mr).expanduser() if mr else None)
    say(f"{original.name}: weights {original.precision}")
    if file:
        difference, dynamic = export_onnx.write_onnx(original, example, file)
        unit, size = original.multiple, original.facts.size
        sides = f"rows and columns in multiples of {unit}" if dynamic else f"fixed to {size} x {size} pixels"
        say(f"{shown(file)}: {sides}; {_equal(difference, example.name, steps.TOLERANCE_HU)}")
    if folder:
        difference = export_bundle.write_bundle(original, example, folder, overwrite=overwrite)
        planes = f"{original.plane} slices; {_equal(difference, example.name, steps.TOLERANCE_HU)}"
        say(f"{shown(folder)}: MONAI bundle, {planes}")


def _equal(difference: float, where: str, allowed: float) -> str:
    return f"largest difference from the model {difference:.2g} HU on {where} ({allowed:g} HU allowed)"
