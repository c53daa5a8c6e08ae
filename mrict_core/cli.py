"""The command line: thin, the same functions as the notebooks. Heavy imports wait until a command needs them."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from mrict_core import __version__
from mrict_core.errors import MrictError

app = typer.Typer(
    name="mrict_core",
    help="Learn to synthesise CT from MRI, and say honestly how well.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _given(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
    """Refuse an empty value, as an unset shell variable gives it: it must not turn into phantoms in silence."""
    source = context.get_parameter_source(parameter.name)
    if not value and source is not None and source.name == "COMMANDLINE":
        raise MrictError("--data is empty; give a folder of patients, or leave --data out for the embedded phantoms")
    return value


Profile = Annotated[str, typer.Option("--profile", help="demo or full")]
Data = Annotated[
    str,
    typer.Option("--data", callback=_given, help="folder of patients in SynthRAD layout; none: embedded phantoms"),
]
Region = Annotated[str, typer.Option("--region", help="brain or pelvis")]
Protocol = Annotated[
    str, typer.Option("--protocol", help="patient, or predecessor (union mask, per-slice MR, split by slice)")
]
Seed = Annotated[int, typer.Option("--seed", help="of phantoms, split and training")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N")]
Force = Annotated[bool, typer.Option("--force", help="do it again even when nothing changed")]


def main() -> None:
    """Run the command line; an error the user can mend is one line and exit code 1."""
    try:
        app()
    except MrictError as error:
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:  # a full disk or a lost folder can show anywhere
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"error: {where}{error.strerror or error}; check that it is there, writable and has space", file=sys.stderr
        )
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as end:
        if getattr(end, "code", 130) != 130:  # typer turns Ctrl-C into exit status 130, without a word
            raise
        print("interrupted; what was finished is kept, run the command again to go on", file=sys.stderr)
        sys.exit(130)


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


@app.command()
def variants(
    json: Annotated[bool, typer.Option("--json", help="every field, machine-readable")] = False,
    diff: Annotated[str, typer.Option("--diff", metavar="NAME", help="what NAME changes from its parent")] = "",
) -> None:
    """Print every experiment."""
    from mrict_core import variant_tables

    print(variant_tables.diff_text(diff) if diff else variant_tables.as_json() if json else variant_tables.table())


@app.command()
def phantom(profile: Profile = "demo", region: Region = "brain", seed: Seed = 42) -> None:
    """Write the embedded phantom patients as NIfTI in SynthRAD layout."""
    from mrict_core.paths import shown, workspace
    from mrict_core.pipeline import make_phantoms
    from mrict_core.profiles import get_profile

    space = workspace(profile, "", region)
    with _bar("phantom") as bar:
        make_phantoms(space, get_profile(profile), seed, bar)
    print(f"phantom patients: {shown(space.data_dir)}")


@app.command()
def preprocess(
    profile: Profile = "demo",
    data: Data = "",
    region: Region = "brain",
    protocol: Protocol = "patient",
    seed: Seed = 42,
    split: Annotated[str, typer.Option("--split", help="stratified, or leave_out_A, leave_out_B, …")] = "stratified",
    strict: Annotated[bool, typer.Option("--strict", help="stop at the first patient that cannot be used")] = False,
) -> None:
    """Turn volumes into the slice store, and split it by patient."""
    from mrict_core.paths import shown
    from mrict_core.pipeline import prepare_data

    with _bar("preprocess") as bar:
        prepared = prepare_data(
            profile, data, region, protocol, seed=seed, split_kind=split, strict=strict, progress=bar
        )
    store = prepared.store
    total = sum(store.counts().values())
    print(f"{len(store.patients)} patients, {total} slices of {store.size}x{store.size}: {shown(store.folder)}")
    for skip in store.skipped:
        print(f"skipped {skip['patient']}: {skip['reason']}")
    if prepared.split:
        sets = prepared.split
        print(f"split {sets.kind}: {len(sets.train)} train, {len(sets.val)} validation, {len(sets.test)} test patients")
    else:
        print(f"no split: {prepared.problem}")


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="a variant; see `variants`")],
    profile: Profile = "demo",
    data: Data = "",
    region: Region = "brain",
    protocol: Protocol = "patient",
    seed: Seed = 42,
    device: Device = "auto",
    max_pairs: Annotated[
        int, typer.Option("--max-pairs", min=0, help="cap on training slices; 0: the variant's own")
    ] = 0,
    lineage: Annotated[bool, typer.Option("--lineage", help="train first the variants it starts from")] = False,
    force: Force = False,
) -> None:
    """Train a variant on prepared data, or go on where an interrupted training stopped."""
    from mrict_core.paths import shown, workspace
    from mrict_core.profiles import get_profile
    from mrict_core.variants import get

    variant, chosen, space = get(name), get_profile(profile), workspace(profile, data, region, protocol)
    from mrict_core.pipeline import open_data, train_variant
    from mrict_core.training.run import TrainSettings

    open_data(space, seed)
    settings = TrainSettings(seed=seed, device=device, max_pairs=max_pairs or None)
    result = train_variant(variant, chosen, space, settings, ancestors=lineage, force=force, progress=_batches)
    print(f"best checkpoint: {shown(result.best)}")


@app.command()
def evaluate(
    name: Annotated[str, typer.Argument(help="a trained variant")],
    profile: Profile = "demo",
    data: Data = "",
    region: Region = "brain",
    protocol: Protocol = "patient",
    device: Device = "auto",
) -> None:
    """Score a trained variant on the held-out patients and write its tables."""
    from mrict_core.paths import shown, workspace
    from mrict_core.profiles import get_profile
    from mrict_core.variants import get

    variant, chosen, space = get(name), get_profile(profile), workspace(profile, data, region, protocol)
    from mrict_core.evaluation import leaderboard
    from mrict_core.pipeline import evaluate_baselines, evaluate_variant
    from mrict_core.reporting.tables import text_table

    with _bar("evaluate") as bar:
        record, _ = evaluate_variant(variant, chosen, space, device=device, progress=bar)
    records = [record, *evaluate_baselines(chosen, space)]
    print(text_table(leaderboard(records)))
    print(f"tables: {shown(space.metrics)}")


@app.command()
def score(
    ct: Annotated[str, typer.Option("--ct", help="the true CT in HU (NIfTI, MHA, NRRD), or a folder of cases")],
    sct: Annotated[str, typer.Option("--sct", help="the synthetic CT, or a folder of cases")],
    mask: Annotated[str, typer.Option("--mask", help="the body; of folders: where not beside the CTs")] = "",
    protocol: Annotated[str, typer.Option("--protocol", help="synthrad2023 or synthrad2025")] = "synthrad2023",
    hu_range: Annotated[
        str, typer.Option("--range", help="another HU range: synthrad2023, synthrad2025, synthrad2025_metrics")
    ] = "",
    luminance: Annotated[
        str, typer.Option("--luminance", help="MS-SSIM: every_scale (as the challenge runs it) or last_scale")
    ] = "every_scale",
    exponents: Annotated[
        str, typer.Option("--exponents", help="MS-SSIM: per_voxel (as the challenge runs it) or per_scale")
    ] = "per_voxel",
    clinical: Annotated[bool, typer.Option("--clinical", help="the clinical panel too")] = False,
    resample: Annotated[bool, typer.Option("--resample", help="bring sCT and mask to the CT's grid")] = False,
    as_is: Annotated[bool, typer.Option("--as-is", help="score what looks wrong, with a warning")] = False,
    json: Annotated[bool, typer.Option("--json", help="everything, with metric cards, machine-readable")] = False,
    csv: Annotated[str, typer.Option("--csv", help="where the cases go; of folders scores.csv by default")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an existing csv")] = False,
) -> None:
    """Score a synthetic CT, or two folders of them, by the SynthRAD definitions."""
    from pathlib import Path

    from mrict_core.evaluation.files import ScoreOptions
    from mrict_core.reporting.scores import score_folders, score_one

    for name, given in (("--ct", ct), ("--sct", sct)):
        if not given:
            raise MrictError(f"{name} is empty; give an image file or a folder of cases")
    options = ScoreOptions(protocol, hu_range, luminance, exponents, clinical, resample, as_is)
    folders = Path(ct).expanduser().is_dir() or Path(sct).expanduser().is_dir()
    target = csv or ("scores.csv" if folders else "")
    for path in (Path(target), Path(target).with_suffix(".cards.csv")) if target else ():
        if path.exists() and not overwrite:
            raise MrictError(f"{path}: exists already; give another --csv, or --overwrite to replace it")
    if folders:
        with _bar("score", "case") as bar:
            text, failed = score_folders(ct, sct, mask or None, options, Path(target), json=json, progress=bar)
    else:
        text, failed = score_one(ct, sct, mask, options, Path(target) if target else None, json=json), 0
    print(text)
    if failed:
        raise typer.Exit(1)


@app.command("leave-one-centre-out")
def leave_one_centre_out(
    name: Annotated[str, typer.Argument(help="a variant; see `variants`")],
    profile: Profile = "demo",
    data: Data = "",
    region: Region = "brain",
    protocol: Protocol = "patient",
    seed: Seed = 42,
    device: Device = "auto",
) -> None:
    """Train a variant once per centre without that centre, and score it there."""
    from mrict_core.paths import shown, workspace
    from mrict_core.profiles import get_profile
    from mrict_core.variants import get

    variant, chosen, space = get(name), get_profile(profile), workspace(profile, data, region, protocol)
    from mrict_core import pipeline
    from mrict_core.pipeline.folds import FOLDS_FILE
    from mrict_core.reporting.tables import text_table
    from mrict_core.training.run import TrainSettings

    settings = TrainSettings(seed=seed, device=device)
    frame = pipeline.leave_one_centre_out(variant, chosen, space, settings, progress=_batches)
    print(text_table(frame))
    print(f"table: {shown(space.reports / FOLDS_FILE)}")


@app.command()
def compare(
    run_a: Annotated[str, typer.Argument(help="a folder of reports, such as reports or reports/runs/<name>")],
    run_b: Annotated[str, typer.Argument(help="another one")],
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="a metric to compare; may be repeated; default: the main five")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="everything, machine-readable")] = False,
) -> None:
    """Say what changed from run A to run B, with intervals and paired tests."""
    from mrict_core.evaluation.runs import DEFAULT, compare_runs
    from mrict_core.reporting.tables import comparison_text

    comparison = compare_runs(run_a, run_b, tuple(metric or DEFAULT))
    print(comparison.as_json() if json else comparison_text(comparison))


@app.command()
def report(
    profile: Profile = "demo",
    data: Data = "",
    region: Region = "brain",
    protocol: Protocol = "patient",
    variants: Annotated[str, typer.Option("--variants", help="names separated by commas; none: all scored ones")] = "",
    device: Device = "auto",
) -> None:
    """Write index.html, summary.md and summary.csv of what was trained and scored."""
    from mrict_core.paths import shown, workspace
    from mrict_core.profiles import get_profile

    chosen, space = get_profile(profile), workspace(profile, data, region, protocol)
    from mrict_core.pipeline.report import write_report

    for path in write_report(chosen, space, variants, device=device).values():
        print(shown(path))


@app.command()
def suite(
    profile: Profile = "demo",
    data: Data = "",
    region: Region = "brain",
    variants: Annotated[
        str,
        typer.Option(
            "--variants",
            help="readme (the predecessor's README, 17 and what they start from), all, or names separated by commas",
        ),
    ] = "readme",
    protocol: Protocol = "patient",
    only: Annotated[str, typer.Option("--only", help="numbers or names of notebooks to run, separated by commas")] = "",
    jobs: Annotated[int, typer.Option("--jobs", min=0, help="notebooks at a time; 0: the profile's choice")] = 0,
    force: Force = False,
) -> None:
    """Run the notebooks in order (what ./run_all.sh calls)."""
    from mrict_core.paths import shown
    from mrict_core.suite import run_suite

    space = run_suite(
        profile,
        data,
        region,
        variants,
        protocol=protocol,
        only=only,
        jobs=jobs,
        force=force,
        say=_say,
    )
    for what, path in (
        ("report", space.reports / "index.html"),
        ("leaderboard", space.reports / "leaderboard.md"),
        ("metrics", space.metrics),
        ("figures", space.figures),
        ("notebooks", space.executed),
    ):
        if path.exists():
            print(f"{what + ':':12s} {shown(path)}")


def _say(line: str) -> None:
    """Print a line in one piece: several notebooks may speak at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class _bar:
    """A tqdm bar as the `progress(done, total, name)` callback of the data and evaluation steps."""

    def __init__(self, title: str, unit: str = "patient") -> None:
        self.title, self.unit, self.bar = title, unit, None

    def __enter__(self) -> _bar:
        return self

    def __call__(self, done: int, total: int, name: str) -> None:
        from tqdm import tqdm

        if self.bar is None or self.bar.total != total:
            self.__exit__()
            self.bar = tqdm(total=total, desc=self.title, unit=self.unit, dynamic_ncols=True)
        self.bar.set_postfix_str(name)
        self.bar.update(done - self.bar.n)

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.close()


def _batches(batches: Any, total: int, title: str) -> Any:
    from tqdm import tqdm

    return tqdm(batches, total=total, desc=title, unit="batch", leave=False, dynamic_ncols=True)
