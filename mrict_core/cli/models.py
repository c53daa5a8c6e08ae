"""Commands on published models: models, import-checkpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from mrict_core.cli.progress import say
from mrict_core.models import catalogue


def models(
    json: Annotated[bool, typer.Option("--json", help="everything, machine-readable")] = False,
    card: Annotated[
        str, typer.Option("--card", metavar="NAME[@HASH]", help="print one model's card; without @HASH its newest")
    ] = "",
    check: Annotated[
        bool, typer.Option("--check", help="verify the hashes of all weights; exit status 1 if one is damaged")
    ] = False,
) -> None:
    """List the published models, or print a model's card."""
    if card:
        print(catalogue.read_card(card), end="")
        return
    found = catalogue.entries(verify=check)
    if json:
        from json import dumps

        print(dumps([entry.as_dict() for entry in found], indent=2, ensure_ascii=False))
    else:
        _print(found)
    if check and any(entry.problem for entry in found):
        raise typer.Exit(1)


def _print(found: list) -> None:
    from mrict_core.paths import checkpoints_root, shown
    from mrict_core.reporting.text_tables import text_table

    if usable := [entry for entry in found if not entry.problem]:
        print(text_table(catalogue.table(usable)))
    else:
        print(f"no published model in {shown(checkpoints_root())}; `evaluate` publishes what was trained")
    for entry in found:
        if entry.problem:
            say(f"damaged: {entry.name}: {entry.problem}")


def import_checkpoint(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="a .pth of a generator, or also of its discriminator")
    ],
    variant: Annotated[str, typer.Option("--as", metavar="VARIANT", help="the variant it belongs to; see `variants`")],
    role: Annotated[
        list[str] | None,
        typer.Option("--role", help="G or D, one per FILE; for a CycleGAN G_MRI2CT, G_CT2MRI, D_CT, D_MRI"),
    ] = None,
) -> None:
    """Import the predecessor's weights (plain .pth state dicts) as a published model."""
    from pathlib import Path

    from mrict_core.experiments import get
    from mrict_core.paths import shown

    chosen = get(variant)
    from mrict_core.legacy.importing import import_checkpoint as run

    result = run([Path(file) for file in files], chosen, role or [])
    for name, kind in result.networks.items():
        print(f"{name}: {kind}")
    for note in result.notes:
        print(f"note: {note}")
    existing = "" if result.new else " (already published)"
    print(f"model {chosen.name}@{result.path.name}{existing}: {shown(result.path)}")
    print(f"its limits: python -m mrict_core models --card {chosen.name}@{result.path.name[:8]}")
