"""Commands on the packaged notebooks: list, copy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mrict_core.cli.progress import say
from mrict_core.errors import MrictError
from mrict_core.paths import NOTEBOOKS, printable, work_root

app = typer.Typer(help="List or copy the notebooks that explain MRICT; `suite` runs them.", no_args_is_help=True)


@app.command("list", epilog="Example: mrict notebooks list")
def list_notebooks() -> None:
    """Print the name and title of every notebook."""
    from json import loads

    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        first = "".join(loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        print(f"{path.stem:28s} {first.splitlines()[0].lstrip('# ')}")


@app.command("copy", epilog="Example: mrict notebooks copy my-notebooks")
def copy_notebooks(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="the folder to copy to; made if it is not there")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace notebooks of the same name")] = False,
) -> None:
    """Copy the notebooks to a folder, to read, run and change them there."""
    import shutil
    from shlex import quote

    from mrict_core.files import atomic_path

    target, sources = Path(folder).expanduser(), sorted(NOTEBOOKS.glob("*.ipynb"))
    there = [path.name for path in sources if (target / path.name).exists()]
    if there and not overwrite:
        raise MrictError(
            f"{printable(target)}: holds {there[0]} already ({len(there)} of {len(sources)} names); expected a folder "
            "without them; name another, or add --overwrite"
        )
    for path in sources:
        with atomic_path(target / path.name) as partial:
            shutil.copyfile(path, partial)
    say(f"{len(sources)} notebooks: {printable(target)}")
    say(f"open them: MRICT_HOME={quote(str(work_root()))} jupyter lab {quote(printable(target))}")
