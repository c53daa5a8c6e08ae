"""The command line: thin, over the functions that the notebooks call. Heavy imports wait until a command needs them."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from mrict_core import __version__
from mrict_core.cli import challenge, download, experiments, models, results, synthesize
from mrict_core.errors import Interrupted, MrictError, starved
from mrict_core.paths import printable

app = typer.Typer(
    name="mrict_core",
    help="Learn to synthesise CT from MRI, and say honestly how well.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; an error the user can fix is one line and exit code 1."""
    try:
        app()
    except MrictError as error:
        _fail(" ".join(str(error).splitlines()))
    except OSError as error:  # a full disk or a lost folder can surface anywhere
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}; check that it exists, is writable and has space")
    except (MemoryError, RuntimeError, ImportError) as error:
        if "home directory" in str(error):  # of Path.expanduser
            _fail("a path begins with ~ and an unknown user name; write it out")
        if not starved(error):
            raise
        _fail(
            f"too little memory, or too many processes ({' '.join(str(error).split())[:120] or type(error).__name__}); "
            "free some, or raise the limits (ulimit -v, ulimit -u), and run again"
        )
    except (KeyboardInterrupt, SystemExit) as end:
        if getattr(end, "code", 130) != 130:  # typer silently turns Ctrl-C into exit status 130
            raise
        print(_interruption(end), file=sys.stderr)
        sys.exit(130)


def _interruption(end: BaseException) -> str:
    """Return what an interrupted training says of itself; typer keeps it as the context of its exit."""
    while end and not isinstance(end, Interrupted):
        end = end.__cause__ or end.__context__
    return printable(end or "interrupted; finished results are kept, run the command again to resume")


def _fail(message: str) -> NoReturn:
    print(f"error: {printable(message)}", file=sys.stderr)
    sys.exit(1)


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


for command in (
    experiments.variants,
    experiments.phantom,
    download.download,
    experiments.preprocess,
    experiments.train,
    experiments.evaluate,
    experiments.runs,
    models.models,
    models.publish,
    models.import_checkpoint,
    synthesize.synthesize,
    challenge.challenge,
    results.score,
    experiments.leave_one_centre_out,
    results.compare,
    results.report,
    results.suite,
):
    app.command(command.__name__.replace("_", "-"))(command)
