"""Commands on published models: models, publish, import-checkpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from mrict_core.cli.progress import say
from mrict_core.errors import MrictError
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
        terms = [entry.about.label, f"weights {entry.about.licence}" if entry.about.licence else ""]
        if any(terms):
            print(f"{entry.name}: {'; '.join(filter(None, terms))}")
        if entry.problem:
            say(f"damaged: {entry.name}: {entry.problem}")


def publish(
    model: Annotated[str, typer.Argument(metavar="NAME[@HASH]", help="a published model; see `models`")],
    half: Annotated[
        bool, typer.Option("--half", help="store the weights in half precision, in half the space")
    ] = False,
    card: Annotated[
        str,
        typer.Option(
            "--card",
            metavar="FILE",
            help="a yaml file of what the model says of itself: label, licence and citation (or data_set), command",
        ),
    ] = "",
    to: Annotated[
        str, typer.Option("--to", metavar="FOLDER", help="the folder to write; default: under the model's variant")
    ] = "",
) -> None:
    """Publish a published model in another form: in half precision, with a licence, under a name of its own."""
    from pathlib import Path

    from mrict_core.models.about import About, read_about
    from mrict_core.models.publish import publish_again
    from mrict_core.paths import shown

    about = read_about(Path(card).expanduser()) if card else About()
    source = catalogue.find(model)
    if not source.is_dir():
        raise MrictError(
            f"{model}: trained and not published ({shown(source)}); expected a published model; evaluate it"
        )
    folder, new = publish_again(source, about=about, half=half, folder=Path(to).expanduser() if to else None)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"model{'' if new else ' (already published)'}: {shown(folder)}, {size:.2f} MB")


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
