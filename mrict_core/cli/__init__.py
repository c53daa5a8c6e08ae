"""The command line: thin, over the functions that the notebooks call. Heavy imports wait until a command needs them."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from mrict_core import __version__, paths
from mrict_core.cli import (
    challenge,
    doctor,
    dose,
    download,
    experiments,
    export,
    merge,
    models,
    notebooks,
    pair,
    results,
    synthesize,
)
from mrict_core.errors import Interrupted, MrictError, starved
from mrict_core.machine import terminate_as_interrupt
from mrict_core.paths import printable
from mrict_core.ranks import among_others

app = typer.Typer(
    name="mrict",
    help="Learn to synthesise CT from MRI, and say honestly how well.",
    epilog="Example: mrict synthesize my_t1.nii.gz -o ct.nii.gz",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; an error the user can fix is one line and exit code 1."""
    try:
        with terminate_as_interrupt():
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
        if not among_others():
            print(_interruption(end), file=sys.stderr)
            sys.exit(130)
        if os.environ["RANK"] == "0":  # of torchrun, which interrupts all ranks
            print(_interruption(end), file=sys.stderr, flush=True)
        os._exit(130)  # a process group that lost a rank can hang when it is closed


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
    workdir: Annotated[
        str | None,
        typer.Option(
            "--workdir",
            metavar="DIR",
            help="folder of data, checkpoints, reports; none: MRICT_HOME, else the checkout, else the current folder. "
            "MRICT_DATA, MRICT_CHECKPOINTS and MRICT_REPORTS, where set, come first",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    if workdir == "":
        raise MrictError("--workdir is empty; expected a folder; name one, or leave --workdir out")
    if workdir is not None:
        os.environ[paths.HOME] = workdir
        os.environ[paths.HOME] = str(paths.work_root())


for command, example in (
    (experiments.variants, "variants --diff mk6_3_4"),
    (experiments.phantom, "phantom --profile demo --region pelvis"),
    (download.download, "download synthrad2023-task1 --dest data/"),
    (pair.pair, "pair scans/ -o pairs/ --region pelvis"),
    (experiments.preprocess, "preprocess --data DIR --profile cpu"),
    (experiments.train, "train mk7 --data DIR --profile cpu --minutes 20"),
    (experiments.evaluate, "evaluate mk7 --data DIR --profile cpu"),
    (experiments.runs, "runs"),
    (models.models, "models --card starter-brain"),
    (models.publish, "publish mk7 --half --to checkpoints/my-brain"),
    (export.export, "export starter-brain --onnx starter.onnx"),
    (models.import_checkpoint, "import-checkpoint G.pth --as mk6_3_4"),
    (synthesize.synthesize, "synthesize my_t1.nii.gz -o ct.nii.gz --qa qa.html"),
    (challenge.challenge, "challenge --input /input --output /output --model mk7"),
    (results.score, "score --ct ct.nii.gz --sct sct.nii.gz --mask mask.nii.gz"),
    (dose.dose, "dose --ct ct.nii.gz --sct sct.nii.gz --mask mask.nii.gz -o dose/"),
    (merge.merge, "merge ct/"),
    (experiments.leave_one_centre_out, "leave-one-centre-out mk7 --data DIR --profile cpu"),
    (results.compare, "compare reports reports/runs/NAME --metric mae_hu"),
    (results.report, "report --data DIR --profile cpu"),
    (results.suite, "suite --data DIR --variants mk7,unet_l1"),
    (doctor.doctor, "doctor --json"),
):
    app.command(command.__name__.replace("_", "-"), epilog=f"Example: mrict {example}")(command)
app.add_typer(notebooks.app, name="notebooks")
