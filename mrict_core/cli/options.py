"""Options of the commands, each declared once."""

from __future__ import annotations

from typing import Annotated

import typer

from mrict_core.data.subjects import absolute
from mrict_core.errors import MrictError


def given(values: list[str] | None) -> list[str]:
    """Refuse an empty value, as from an unset shell variable: it would silently select the phantoms."""
    if not all(values or ()):
        raise MrictError("--data is empty; give a folder of patients, or leave --data out for the embedded phantoms")
    return list(values or ())


def by_user(context: typer.Context, name: str) -> bool:
    """Return whether an option was given on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


# ------------------------------------------------------------------------------------------- of several commands

Profile = Annotated[str, typer.Option("--profile", help="demo, cpu or full")]
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="DIR",
        callback=given,
        help="folder of patients in SynthRAD layout; repeatable, equal ids are one person; none: embedded phantoms",
    ),
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
        help="which images are of one subject, to keep them in one set: a regular expression with the subject in "
        "brackets, such as '(.+)_[ab]', or a csv of patient, subject; none: as in the last run, initially the subject "
        "of BIDS ids (sub-01_ses-2)",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="of phantoms, split and training")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N")]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        help="auto (bfloat16 on a GPU, float32 on a CPU; training in profile cpu: native), native (bfloat16 where the "
        "device computes it in hardware), float32 or bfloat16",
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option("--minutes", metavar="M", help="train for so long, validation included, instead of the epochs"),
]
Steps = Annotated[
    int | None, typer.Option("--steps", metavar="N", help="train for so many optimiser steps instead of the epochs")
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="log losses, scores and pictures: tensorboard --logdir checkpoints")
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PATH=VALUE", help="change one value of the variant, such as loss.l1.weight=20; repeatable"
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
Force = Annotated[bool, typer.Option("--force", help="run even if nothing changed")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace existing files")]

# ------------------------------------------------------------------------------------------- of synthesis

Input = Annotated[
    str,
    typer.Argument(metavar="INPUT", help="an MR (NIfTI, MHA, NRRD, a folder of DICOM), a folder of cases or a csv"),
]
Output = Annotated[
    str,
    typer.Option("--output", "-o", help="the CT's file; without a suffix: a folder of DICOM; of many cases: a folder"),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="a checkpoint file, a variant or another name of `models`; several make an ensemble; coronal=NAME, "
        "sagittal=NAME: its plane; none: the best published one for the region",
    ),
]
ModelRegion = Annotated[
    str,
    typer.Option(
        "--region",
        help="without --model: brain, pelvis, HN, TH or AB; default: as the DICOM header says, else brain",
    ),
]
Tta = Annotated[bool, typer.Option("--tta", help="average over the flips of the training's augmentation")]
Uncertainty = Annotated[
    str, typer.Option("--uncertainty", help="HU SD over models and flips (of one model --tta): a file, or a folder")
]
Qa = Annotated[str, typer.Option("--qa", help="a page (.html) or picture (.png) to judge the CT by; of many: a folder")]
ResampleMm = Annotated[
    float | None,
    typer.Option(
        "--resample-to-mm", help="pixel size for the network; 0: the input's own; default: only if far from training"
    ),
]
Format = Annotated[str, typer.Option("--format", help="of many cases: nii.gz, nii, mha, nrrd; default: as the input")]
Summary = Annotated[str, typer.Option("--csv", help="summary of many cases; default: OUTPUT/summary.csv")]
Series = Annotated[str, typer.Option("--series", help="of a DICOM folder with several: its name or UID")]
KeepIdentifiers = Annotated[
    bool, typer.Option("--keep-identifiers", help="write the patient's name, id and dates into the DICOM CT")
]
Strict = Annotated[bool, typer.Option("--strict", help="refuse an MR that the gate only warns about")]
