"""Commands on experiments: variants, phantom, preprocess, train, evaluate, runs, leave-one-centre-out."""

from __future__ import annotations

import contextlib
from itertools import groupby, product
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrict_core.cli import options as option
from mrict_core.cli.progress import Bar, say
from mrict_core.errors import MrictError
from mrict_core.experiments import listing

if TYPE_CHECKING:
    from mrict_core.dose.study import DoseSettings
    from mrict_core.experiments import Experiment
    from mrict_core.shards import Shard

ASIDE_LINES = 3  # of each kind of file that is not a patient


def variants(
    json: Annotated[bool, typer.Option("--json", help="every value, machine-readable")] = False,
    diff: Annotated[str, typer.Option("--diff", metavar="NAME", help="what NAME changes from its parent")] = "",
) -> None:
    """Print every experiment: the declared ones, then your own that were trained here."""
    from mrict_core.experiments import all_variants, users

    every = [*all_variants(), *users()]
    print(listing.diff_text(diff) if diff else listing.as_json(every) if json else listing.table(every))


def phantom(
    profile: option.Profile = "demo",
    region: option.Region = "brain",
    modality: option.Modality = "mr",
    seed: option.Seed = 42,
) -> None:
    """Write the embedded phantom patients as NIfTI in SynthRAD layout."""
    from mrict_core.experiments.profiles import get_profile
    from mrict_core.paths import shown, workspace
    from mrict_core.pipeline import make_phantoms

    space = workspace(profile, "", region, modality=modality)
    with Bar("phantom") as bar:
        make_phantoms(space, get_profile(profile), seed, bar)
    print(f"phantom patients: {shown(space.data_dir)}")


def preprocess(
    profile: option.Profile = "demo",
    data: option.Data = None,
    region: option.Region = "brain",
    modality: option.Modality = "mr",
    ct: option.Ct = "rigid",
    exclude_metal: option.ExcludeMetal = False,
    protocol: option.Protocol = "patient",
    seed: option.Seed = 42,
    split: Annotated[
        str, typer.Option("--split", help="stratified, leave_out_A, leave_out_B, …, or a file of your own, .json")
    ] = "stratified",
    group_by: option.GroupBy = "",
    pairs: option.Pairs = "",
    strict: Annotated[bool, typer.Option("--strict", help="stop at the first unusable patient")] = False,
    shard: option.Shard = "",
) -> None:
    """Turn volumes into the dataset cache, and split it by subject. Exit status 1 if a patient was left out.

    With --shard only that part of the patients is prepared; run it without --shard when all are done, for the split.
    """
    from mrict_core.paths import shown
    from mrict_core.pipeline import prepare_data
    from mrict_core.shards import shard_named

    where = profile, data, region, protocol
    how = {"pairs": pairs, "strict": strict, "modality": modality, "ct": ct, "exclude_metal": exclude_metal}
    if part := shard_named(shard):
        _preprocess_shard(part, *where, **how)
        return
    with Bar("preprocess") as bar:
        prepared = prepare_data(*where, seed=seed, split_kind=split, group_by=group_by, progress=bar, **how)
    store = prepared.store
    total = sum(store.counts().values())
    print(f"{len(store.patients)} patients, {total} slices of {store.size}x{store.size}: {shown(store.folder)}")
    for skip in store.skipped:
        say(f"skipped {skip['patient']}: {skip['reason']}")
    for kind, same in groupby(prepared.discovery.aside, attrgetter("kind")):
        reasons = [aside.reason for aside in same]
        most = len(reasons) if kind == "not recognised" else ASIDE_LINES
        for reason in reasons[:most]:
            say(f"{kind}: {reason}")
        if len(reasons) > most:
            say(f"{kind}: … and {len(reasons) - most} more")
    if prepared.split:
        sets = prepared.split
        print(f"split {sets.kind}: {len(sets.train)} train, {len(sets.val)} validation, {len(sets.test)} test patients")
    else:
        print(f"no split: {prepared.problem}")
    print(prepared.summary)
    if prepared.left_out:
        raise typer.Exit(1)


def _preprocess_shard(part: Shard, *where: Any, **how: Any) -> None:
    """Prepare a shard's patients; exit status 1 if one cannot be used."""
    from mrict_core.paths import shown
    from mrict_core.pipeline.preparation import prepare_part

    with Bar("preprocess") as bar:
        done = prepare_part(part, *where, progress=bar, **how)
    for skip in done.skipped:
        say(f"skipped {skip.patient}: {skip.reason}")
    say(f"{part}: {len(done.patients)} of all {done.total} patients prepared: {shown(done.workspace.store)}")
    say(f"when all {part.count} shards are done: the same command without --shard, which makes index and split")
    if done.skipped:
        raise typer.Exit(1)


def train(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="a variant, see `variants`; none: all of --experiment")] = "",
    profile: option.Profile = "demo",
    data: option.Data = None,
    region: option.Region = "brain",
    modality: option.Modality = "mr",
    ct: option.Ct = "rigid",
    exclude_metal: option.ExcludeMetal = False,
    protocol: option.Protocol = "patient",
    seed: option.Seed = 42,
    device: option.Device = "auto",
    precision: option.Precision = "auto",
    compile: Annotated[
        bool, typer.Option("--compile", help="torch.compile: a minute to start, then faster steps")
    ] = False,
    max_pairs: Annotated[
        int, typer.Option("--max-pairs", min=0, help="cap on training slices; 0: the variant's own")
    ] = 0,
    minutes: option.Minutes = None,
    steps: option.Steps = None,
    tensorboard: option.TensorBoard = False,
    lineage: Annotated[
        bool, typer.Option("--lineage", help="first train the variants it starts from, each with the same budget")
    ] = False,
    seeds: Annotated[str, typer.Option("--seeds", metavar="1,2,3", help="train once for each of these seeds")] = "",
    retrain: Annotated[
        bool, typer.Option("--retrain", "--force", help="retrain in a new folder even if an equal training exists")
    ] = False,
    sets: option.Sets = None,
    experiment: option.Files = None,
    own_name: option.Name = "",
    gpus: option.Gpus = 1,
) -> None:
    """Train a variant on prepared data, or resume an interrupted training."""
    from mrict_core.experiments.profiles import check_budget, get_profile
    from mrict_core.ranks import among_others

    _require_name(name, experiment)
    if seeds and option.by_user(context, "seed"):
        raise MrictError(f"--seed {seed} and --seeds {seeds}: expected one of them; leave out the other")
    check_budget(steps, minutes)
    where = {"profile": profile, "data_dir": data, "region": region, "protocol": protocol, "modality": modality}
    where |= {"ct": ct, "exclude_metal": exclude_metal}
    settings = {"seed": seed, "device": device, "precision": precision, "compile": compile, "tensorboard": tensorboard}
    settings |= {"max_pairs": max_pairs or None, "minutes": minutes, "steps": steps}
    given = (name, sets, experiment, own_name), where, settings, _seeds(seeds) or [seed], lineage, retrain
    if gpus == 1:
        _train(*given)
        return
    if among_others():
        raise MrictError(f"--gpus {gpus} under torchrun, which starts the processes itself; leave --gpus out")
    from mrict_core.training.distributed import check_shared
    from mrict_core.training.processes import check_machine, launch

    check_machine(gpus, device)
    chosen = get_profile(profile)
    for variant in _chosen(*given[0], quiet=True):
        check_shared(variant, chosen, gpus)
    launch(gpus, _train, *given)


def _train(
    names: tuple[str, list[str] | None, list[str] | None, str],
    where: dict[str, Any],
    settings: dict[str, Any],
    seeds: list[int],
    lineage: bool,
    retrain: bool,
) -> None:
    """Train as `train` says, alone or as one of several processes."""
    from mrict_core.experiments import lineage as chain
    from mrict_core.experiments.profiles import get_profile
    from mrict_core.paths import shown, workspace
    from mrict_core.ranks import among_others

    with contextlib.ExitStack() as stack:
        device = settings["device"]
        if among_others():
            from mrict_core.training.processes import joined

            device = stack.enter_context(joined(device))
        found, chosen, space = _chosen(*names), get_profile(where["profile"]), workspace(**where)
        from mrict_core.methods import check
        from mrict_core.pipeline import open_data, train_variant
        from mrict_core.ranks import of_first
        from mrict_core.training.run import TrainSettings

        for variant in found:
            check(variant)
        of_first(lambda: open_data(space, settings["seed"]) and None)  # it may prepare them
        for variant, seed in product(found, seeds):
            own = TrainSettings(**settings | {"seed": seed, "device": device})
            ancestors = chain(variant)[:-1] if lineage else []
            result = train_variant(variant, chosen, space, own, ancestors=ancestors, retrain=retrain)
            print(f"best checkpoint: {shown(result.best)}")


def _chosen(
    name: str, sets: list[str] | None, files: list[str] | None, own_name: str, quiet: bool = False
) -> list[Experiment]:
    """Return the experiments of a name, --set and --experiment; unless `quiet`, say what the user's own are for."""
    from mrict_core.experiments import is_declared
    from mrict_core.experiments.user import chosen

    _require_name(name, files)
    found = chosen(name, sets or (), files or (), own_name)
    for one in found:
        if not is_declared(one.name) and not quiet:
            print(f"{one.name}: {one.why}" if one.why else one.name)
    return found


def _require_name(name: str, files: list[str] | None) -> None:
    if not name and not files:
        raise typer.BadParameter("no variant given; name one (see `variants`), or give your own file with --experiment")


def _seeds(text: str) -> list[int]:
    """Return the seeds in "1,2,3", without repeats."""
    try:
        return list(dict.fromkeys(int(part) for part in text.split(",") if text))
    except ValueError:
        raise MrictError(f"--seeds {text}: expected whole numbers separated by commas, such as 1,2,3") from None


def evaluate(
    name: Annotated[str, typer.Argument(help="a trained variant; none: all of --experiment")] = "",
    profile: option.Profile = "demo",
    data: option.Data = None,
    region: option.Region = "brain",
    modality: option.Modality = "mr",
    ct: option.Ct = "rigid",
    exclude_metal: option.ExcludeMetal = False,
    protocol: option.Protocol = "patient",
    device: option.Device = "auto",
    seeds: Annotated[
        str, typer.Option("--seeds", metavar="1,2,3", help="seeds to score; none: all that are trained")
    ] = "",
    mean: Annotated[
        str,
        typer.Option(
            "--mean",
            metavar="A,B",
            help="score the mean of the synthetic CTs of these variants, which are scored already",
        ),
    ] = "",
    sets: option.Sets = None,
    experiment: option.Files = None,
    own_name: option.Name = "",
    dose: Annotated[
        bool,
        typer.Option("--dose", help="also what the synthetic CTs change in the dose of a plan (minutes a patient)"),
    ] = False,
    beams: Annotated[
        list[str] | None, typer.Option("--modality", help="of --dose: photons or protons; repeatable; default: both")
    ] = None,
    grid_mm: Annotated[float | None, typer.Option("--grid-mm", help="of --dose; default: 3")] = None,
) -> None:
    """Score a trained variant on the held-out patients, write its tables, publish it as a model."""
    from mrict_core.experiments.profiles import get_profile
    from mrict_core.paths import shown, workspace

    plans = _dose_settings(dose, beams, grid_mm)
    alone = bool(mean) and not (name or experiment)
    if alone and seeds:
        raise MrictError(f"--seeds {seeds}: of a variant; --mean takes the first seed of each; leave --seeds out")
    found, chosen = [] if alone else _chosen(name, sets, experiment, own_name), get_profile(profile)
    space, wanted = workspace(profile, data, region, protocol, modality, ct, exclude_metal), _seeds(seeds)
    from mrict_core.evaluation import leaderboard
    from mrict_core.pipeline import current_records, evaluate_baselines, evaluate_mean, evaluate_variant, open_data
    from mrict_core.reporting.text_tables import text_table
    from mrict_core.training.runs import choose

    store, split = open_data(space)
    for variant in found:  # fails before the baselines take their time
        choose(space, variant.name, (store.key, split.hash), seeds=wanted)
    lines: list[str] = []  # printed below the bar
    records, baselines = [], evaluate_baselines(chosen, space)
    for variant in found:
        with Bar("evaluate") as bar:
            records += evaluate_variant(
                variant, chosen, space, seeds=wanted, device=device, progress=bar, report=lines.append
            )[:1]
    if mean:
        with Bar("evaluate") as bar:
            record, _ = evaluate_mean(mean.split(","), chosen, space, device=device, progress=bar, report=lines.append)
        known = {one["name"] for one in records}
        records += [record, *(one for one in current_records(space, mean)[0] if one["name"] not in known)]
    print(text_table(leaderboard([*baselines, *records])))
    print("\n".join([f"tables: {shown(space.metrics)}", *lines]))
    if plans:
        from mrict_core.pipeline.model_doses import evaluate_dose, folder_of, with_baselines
        from mrict_core.reporting.dose_text import dose_text

        with Bar("dose") as bar:
            doses = evaluate_dose(
                space, with_baselines(records, baselines), plans, label=chosen.label, device=device, progress=bar
            )
        print(f"\n{dose_text(doses)}\ndoses: {shown(folder_of(space))}")


def _dose_settings(wanted: bool, modalities: list[str] | None, grid_mm: float | None) -> DoseSettings | None:
    """Return how plans are made, None without --dose; fails before anything is scored."""
    if not wanted:
        if modalities or grid_mm is not None:
            raise MrictError("--modality and --grid-mm are of plans; expected --dose with them; add it")
        return None
    from mrict_core.dose.engine import MODALITIES, version
    from mrict_core.dose.study import DoseSettings

    settings = DoseSettings(
        tuple(modalities or MODALITIES), grid_mm=DoseSettings.grid_mm if grid_mm is None else grid_mm
    )
    version()
    return settings


def runs(
    remove: Annotated[
        str, typer.Option("--remove", metavar="PATH", help="delete this training and all its checkpoints")
    ] = "",
) -> None:
    """List every training on this machine, or remove one."""
    from pathlib import Path

    from mrict_core.paths import checkpoints_root, shown
    from mrict_core.training.runs import all_runs, remove_run, size_bytes, table

    if remove:
        gone = remove_run(Path(remove))
        print(f"removed: {shown(gone.folder)} ({gone.variant}, seed {gone.seed}, {gone.progress})")
        return
    from mrict_core.reporting.text_tables import text_table

    found = all_runs()
    sound = [run for run in found if not run.problem]
    print(text_table(table(sound)) if sound else f"no training in {shown(checkpoints_root())}; `train` makes one")
    for run in found:
        if run.problem:
            print(f"damaged: {shown(run.folder)} ({size_bytes(run) / 2**20:.1f} MB): {run.problem}")


def leave_one_centre_out(
    name: Annotated[str, typer.Argument(help="a variant; see `variants`")],
    profile: option.Profile = "demo",
    data: option.Data = None,
    region: option.Region = "brain",
    modality: option.Modality = "mr",
    ct: option.Ct = "rigid",
    exclude_metal: option.ExcludeMetal = False,
    protocol: option.Protocol = "patient",
    seed: option.Seed = 42,
    device: option.Device = "auto",
    minutes: option.Minutes = None,
    steps: option.Steps = None,
    experiment: option.Parts = None,
) -> None:
    """Leave each centre out in turn: train without it, score on it."""
    from mrict_core.experiments import get
    from mrict_core.experiments.profiles import get_profile
    from mrict_core.paths import shown, workspace

    variant, chosen, space = (
        get(name),
        get_profile(profile),
        workspace(profile, data, region, protocol, modality, ct, exclude_metal),
    )
    from mrict_core import pipeline
    from mrict_core.pipeline.folds import FOLDS_FILE
    from mrict_core.reporting.text_tables import text_table
    from mrict_core.training.run import TrainSettings

    settings = TrainSettings(seed=seed, device=device, steps=steps, minutes=minutes)
    frame = pipeline.leave_one_centre_out(variant, chosen, space, settings)
    print(text_table(frame))
    print(f"table: {shown(space.reports / FOLDS_FILE)}")
