"""Options of the commands, each declared once."""

from __future__ import annotations

from typing import Annotated

import typer

from mrict_core.data.pair_choices import located
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


def not_empty(context: typer.Context, option: typer.CallbackParam, value: str) -> str:
    """Refuse an option that was given as "", such as by a shell variable that is not set."""
    if not value and by_user(context, option.name):
        raise MrictError(f"{option.opts[0]} is empty; expected {option.metavar}; give it, or leave the option out")
    return value


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
Region = Annotated[
    str,
    typer.Option(
        "--region",
        help="brain, pelvis, head-neck, thorax, abdomen, or the name of your own folder; phantoms: the first two",
    ),
]
Modality = Annotated[
    str, typer.Option("--input", help="mr, or cbct: SynthRAD's Task 2, with cbct files in place of mr")
]
ExcludeMetal = Annotated[
    bool, typer.Option("--exclude-metal", help="losses and scores leave out the voxels of the patients' metal masks")
]
Ct = Annotated[str, typer.Option("--ct", help="rigid, or deformed: ct_def files in place of ct (SynthRAD2025)")]
InputKind = Annotated[
    str, typer.Option("--input", help="mr, or cbct: what INPUT is; default: of one image what --model reads, else mr")
]
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
Pairs = Annotated[
    str,
    typer.Option(
        "--pairs",
        metavar="FILE",
        callback=located,
        help="a csv of patient, use (yes or no), reason: which pairs are used; none: pairs.csv in the data folder",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="of phantoms, split and training")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N")]
Gpus = Annotated[
    int,
    typer.Option(
        "--gpus",
        metavar="N",
        min=1,
        help="train on N GPUs of this machine, which share every batch; with --device cpu: N processes",
    ),
]
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
Shard = Annotated[
    str,
    typer.Option(
        "--shard",
        metavar="I/N",
        callback=not_empty,
        help="only the I-th of N parts of the cases, for jobs side by side; see docs/scale.md",
    ),
]

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
        help="without --model: brain, pelvis, head-neck, …; default: as the DICOM header says, else brain",
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

# ------------------------------------------------------------------------------------------- of pairing

PairSource = Annotated[
    str,
    typer.Argument(
        metavar="INPUT",
        help="a folder of patients, each with an MR and a CT (DICOM, NIfTI, MHA, NRRD), a BIDS tree, or a csv "
        "(patient, mr, ct; optional mask, centre, transform, mr_series, ct_series)",
    ),
]
PairOutput = Annotated[str, typer.Option("--output", "-o", help="a folder for the pairs, in SynthRAD layout")]
PairRegion = Annotated[str, typer.Option("--region", help="brain, pelvis, or any other name")]
Grid = Annotated[
    str,
    typer.Option(
        "--grid",
        help="of the pairs: mr, ct, or spacings to the left, back and head such as 1,1,2.5; none: as SynthRAD2023 "
        "(brain 1,1,1; pelvis 1,1,2.5), else mr",
    ),
]
Deformable = Annotated[bool, typer.Option("--deformable", help="B-splines on top of the rigid registration")]
Transform = Annotated[
    str,
    typer.Option(
        "--transform",
        metavar="FILE",
        help="instead of a registration: an ITK transform (.tfm, .txt, .h5) or a 4x4 matrix (.npy, .txt) that maps "
        "points of the MR to the CT, LPS mm",
    ),
]
Register = Annotated[bool, typer.Option("--register/--no-register", help="or only resample, as the headers place them")]
N4 = Annotated[bool, typer.Option("--n4", help="correct the bias field of the MR")]
Clip = Annotated[bool, typer.Option("--clip", help="clip the MR at its 99.5th percentile in the body")]
Margin = Annotated[float, typer.Option("--margin", metavar="MM", help="of the mask around both bodies")]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", metavar="N", help="patients at a time; none: as many as cores and memory (2 GB each) allow"),
]
KeepNames = Annotated[
    bool, typer.Option("--keep-identifiers", help="allow patients' names or ids as names of folders and in messages")
]
StrictHeaders = Annotated[bool, typer.Option("--strict", help="refuse scans whose headers lack or contradict values")]
