"""The command that describes this installation for a bug report."""

from __future__ import annotations

from typing import Annotated

import typer

from mrict_core.cli.progress import say


def doctor(
    json: Annotated[bool, typer.Option("--json", help="the same, machine-readable")] = False,
) -> None:
    """Describe this installation for a bug report: no patient, no personal path. Exit status 1 if a need is missing."""
    from mrict_core.doctor import as_text, examine

    found = examine()
    if json:
        from json import dumps

        print(dumps(found, indent=2, ensure_ascii=False))
    else:
        for line in as_text(found).splitlines():
            say(line)
    if found["problems"]:
        raise typer.Exit(1)
