"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from mrict_core.data.subjects import absolute
from mrict_core.errors import MrictError


def given(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
    """Refuse an empty value, as an unset shell variable gives it: it must not turn into phantoms in silence."""
    source = context.get_parameter_source(parameter.name)
    if not value and source is not None and source.name == "COMMANDLINE":
        raise MrictError("--data is empty; give a folder of patients, or leave --data out for the embedded phantoms")
    return value


Profile = Annotated[str, typer.Option("--profile", help="demo or full")]
Data = Annotated[
    str,
    typer.Option("--data", callback=given, help="folder of patients in SynthRAD layout; none: embedded phantoms"),
]
Region = Annotated[str, typer.Option("--region", help="brain or pelvis")]
Protocol = Annotated[
    str, typer.Option("--protocol", help="patient, or predecessor (union mask, per-slice MR, split by slice)")
]
GroupBy = Annotated[
    str,
    typer.Option(
        "--group-by",
        callback=absolute,
        help="whose images are one subject's, never in two sets: a regular expression with the subject in brackets, as "
        "'(.+)_[ab]', or a csv of patient, subject; none: as before, at first the subject of BIDS ids (sub-01_ses-2)",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="of phantoms, split and training")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N")]
Precision = Annotated[
    str,
    typer.Option("--precision", help="auto (bfloat16 on a GPU, float32 on a CPU), float32 or bfloat16"),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PATH=VALUE", help="change one value of the variant, as loss.l1.weight=20; may be repeated"
    ),
]
Files = Annotated[
    list[str] | None,
    typer.Option(
        "--experiment", metavar="FILE", help="a file of your own experiments, .yaml or .py; see docs/howto/variant.md"
    ),
]


def run_files(files: list[str] | None) -> list[str] | None:
    """Load the files of an option, for the parts that they register."""
    if files:
        from pathlib import Path

        from mrict_core.experiments.user import load

        for file in files:
            load(Path(file))
    return files


Parts = Annotated[
    list[str] | None,
    typer.Option(
        "--experiment",
        metavar="FILE",
        callback=run_files,
        help="a file of your own that registers a part of the model (a network, method or view), .py",
    ),
]
Name = Annotated[str, typer.Option("--name", help="name of the variant that --set makes; none: after the change")]
Force = Annotated[bool, typer.Option("--force", help="do it again even when nothing changed")]
