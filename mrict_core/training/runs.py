"""Trainings on disk, one folder each: finding, choosing and removing them.

    <checkpoints>/<workspace>/<variant>/seed<seed>-<id>/best.pt      networks of the best epoch
                                                       /last.pt      all that resuming needs
                                                       /history.csv  a row per epoch
                                                       /samples/     a validation slice after some epochs
                                                       /run.json     what is trained, progress, provenance

Only `run.json` identifies a folder. The id is a hash of all that decides the result, so another seed, other data or
settings mean another folder; an equal training repeated gets the suffix `-2`. Earlier versions wrote best.pt and
last.pt to the variant's folder: such a training is read there and never written to.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrict_core.data.splits import LEAVE_OUT
from mrict_core.errors import MrictError
from mrict_core.experiments import as_plain, deciding, from_plain, is_declared, read
from mrict_core.experiments.flat import is_flat
from mrict_core.files import code_hash, hash_of, held, read_json
from mrict_core.parts import edited
from mrict_core.paths import Workspace, checkpoints_root, data_root, shown
from mrict_core.training.tensorboard import FOLDER as LOG

if TYPE_CHECKING:
    import pandas as pd

RUN, BEST, LAST, HISTORY, SAMPLES = "run.json", "best.pt", "last.pt", "history.csv", "samples"
SHORT = 8  # digits of the id in a folder's name
FOLDER = re.compile(rf"seed(-?\d+)-([0-9a-f]{{{SHORT}}})(?:-(\d+))?")  # seed, id, number of the repetition
RESUME = ("optimizers", "schedulers", "method_state", "rng")  # of a checkpoint, only in last.pt
TENSORS = ("networks", *RESUME)  # of a checkpoint; the rest are facts
# Rooms whose code decides the trained weights: recorded, never part of the id.
CODE = (
    *("hu", "ranks", "experiments", "parts", "data/batches", "data/splits", "data/augment", "networks", "losses"),
    *("metrics/predecessor", "metrics/frechet", "metrics/plane_ssim", "methods", "training"),
)
Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """The content of run.json."""

    variant: str
    seed: int | None = None
    id: str
    experiment: str = ""  # hash of `trained` without the seed
    trained: dict[str, Any]  # hashed into the id
    fields: dict[str, Any] = field(default_factory=dict)  # the whole experiment, as plain values
    profile: str = ""
    epoch: int  # done
    epochs: int  # planned
    best_epoch: int = 0  # of best.pt
    val_mae_hu: float | None = None  # of that epoch, on the validation patients
    complete: bool
    stopped: str = ""  # reason for ending before the last epoch
    started: str = ""  # date and time, UTC
    finished: str = ""
    seconds: float = 0.0  # of all epochs
    code: list[str] = field(default_factory=list)  # hashes of the code that trained it, the latest last
    versions: dict[str, Any] = field(default_factory=dict)


def budget(trained: Mapping[str, Any]) -> str:
    """Return the budget of a training in words, "" if it counts in epochs. trained: see `Run.trained`."""
    settings = trained.get("settings", {})
    if minutes := settings.get("minutes"):
        return f"{minutes:g} minutes"
    steps = settings.get("steps") or trained.get("steps")
    return f"{steps} steps" if steps else ""


class Files:
    """Paths of a training's files."""

    folder: Path

    @property
    def best(self) -> Path:
        return self.folder / BEST

    @property
    def last(self) -> Path:
        return self.folder / LAST

    @property
    def history(self) -> Path:
        return self.folder / HISTORY

    def sample(self, epoch: int) -> Path:
        """Path of a synthetic CT slice after an epoch, one of `sampled_epochs`; see `Validator.sample`."""
        return self.folder / SAMPLES / f"{epoch}.npy"


@dataclass(frozen=True, kw_only=True)
class TrainingRun(RunFacts, Files):
    """One training on disk; if it cannot be read, `problem` says why and the rest is void."""

    folder: Path
    problem: str = ""

    @property
    def old(self) -> bool:
        """Whether it has the layout of earlier versions."""
        return not FOLDER.fullmatch(self.folder.name)

    @property
    def predictions(self) -> Path:
        """Folder of the test patients' synthetic CTs, written by evaluation and removed with the training."""
        of = _variant_folder(self.folder)
        name = "old" if self.old else self.folder.name
        return data_root() / "predictions" / of.parent.name / of.name / name

    @property
    def whole(self) -> bool:
        """Whether both checkpoints exist."""
        return self.best.is_file() and self.last.is_file()

    @property
    def data(self) -> tuple[str, str]:
        """Hashes of the slices and the split."""
        return self.trained.get("store", ""), self.trained.get("split", "")

    @property
    def todays(self) -> bool:
        """Whether the present code trained it last, with the present files of the user as far as they are known."""
        return self.code[-1:] == [code_hash(*CODE)] and not edited(self.versions)

    @property
    def progress(self) -> str:
        """Progress in words."""
        state = "" if self.complete else ", not finished"
        return f"epoch {self.epoch} of {self.epochs}{state}{f' ({self.stopped})' if self.stopped else ''}"


def read_run(folder: Path) -> TrainingRun:
    """Return the training in `folder`; a damaged one has a `problem`."""
    try:
        path = folder / RUN
        values = read_json(path) if path.is_file() else _facts_of_checkpoints(folder)
        return _todays(TrainingRun(folder=folder, **vars(_facts(values, path))))
    except MrictError as error:
        name = _variant_folder(folder).name
        return TrainingRun(
            folder=folder, variant=name, id="", trained={}, epoch=0, epochs=0, complete=False, problem=str(error)
        )


def _facts(values: Any, path: Path) -> RunFacts:
    try:
        return from_plain(RunFacts, values, shown(path))
    except MrictError as error:
        raise MrictError(f"{error}; delete the file: the checkpoints next to it hold the same facts") from None


def _todays(run: TrainingRun) -> TrainingRun:
    """Return a training that an earlier version described by flat values in today's form; its id is unchanged."""
    flat = run.trained.get("variant")
    if not is_flat(flat):
        return run
    trained = run.trained | {"variant": deciding(read(flat, f"{shown(run.folder)}: trained.variant"))}
    if run.old:
        return dataclasses.replace(run, trained=trained)
    parent = _parent_of(run)
    return dataclasses.replace(
        run, trained=trained, experiment=without_seed(trained, parent.experiment if parent else trained.get("parent"))
    )


def without_seed(trained: Mapping[str, Any], parent: str | None) -> str:
    """Return the hash of `trained` without the seed; parent: the same hash of its parent."""
    settings = {name: value for name, value in trained.get("settings", {}).items() if name != "seed"}
    return hash_of({**trained, "settings": settings, "parent": parent})


def _parent_of(run: TrainingRun) -> TrainingRun | None:
    """Return the training that a training started from, None if it is gone."""
    name, identity = run.trained["variant"].get("init_from"), run.trained.get("parent")
    candidates = _runs_in(_variant_folder(run.folder).parent / name) if name and identity else []
    return next((parent for parent in candidates if parent.id == identity), None)


def _facts_of_checkpoints(folder: Path) -> dict[str, Any]:
    """Return the content of a missing run.json from the checkpoints of its folder."""
    from mrict_core.training.checkpoint import checkpoint_facts
    from mrict_core.training.facts import ModelFacts

    paths = [path for path in (folder / BEST, folder / LAST) if path.is_file()]
    found = {path.name: ModelFacts.of_payload(checkpoint_facts(path), path) for path in paths}
    if not found:
        raise MrictError(f"{shown(folder)}: holds no training; train {_variant_folder(folder).name} again")
    if len({facts.key for facts in found.values()}) > 1:
        raise MrictError(
            f"{shown(folder)}: {BEST} and {LAST} are of different trainings; train the variant again, in a new folder"
        )
    facts = found.get(LAST) or found[BEST]
    scores = [row.get("val_mae_hu") for row in facts.history]
    best = found[BEST].epoch or 0 if BEST in found else 0
    same = ("variant", "seed", "epoch", "epochs", "complete", "stopped", "versions")
    return {name: getattr(facts, name) for name in same} | {
        "id": facts.key,
        "experiment": facts.experiment_hash or facts.key,
        "best_epoch": best,
        "val_mae_hu": scores[best - 1] if 0 < best <= len(scores) else None,
        "profile": facts.profile.name,
        "code": [facts.code] if facts.code else [],
        "fields": as_plain(facts.experiment),
        "trained": facts.trained
        or {
            "variant": deciding(facts.experiment),
            "profile": facts.profile.described(facts.experiment),
            "epochs": facts.epochs,
            "store": facts.store_key,
            "split": facts.split_hash,
            "parent": facts.parent_hash,
            "training_pairs": facts.training_pairs,
            "precision": facts.precision,
        },
    }


def _variant_folder(folder: Path) -> Path:
    return folder.parent if FOLDER.fullmatch(folder.name) else folder


def runs_of(space: Workspace, variant: str) -> list[TrainingRun]:
    """Return every training of a variant in a workspace, oldest first, with damaged ones."""
    return _runs_in(space.checkpoints / variant)


def _runs_in(variant_folder: Path) -> list[TrainingRun]:
    folders = [p for p in sorted(variant_folder.glob("seed*")) if FOLDER.fullmatch(p.name)]
    return sorted((read_run(p) for p in (variant_folder, *folders) if _holds_one(p)), key=lambda run: run.started)


def _holds_one(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (RUN, LAST, BEST))


def all_runs() -> list[TrainingRun]:
    """Return every training on this machine, by workspace and variant."""
    return [run for folder in sorted(checkpoints_root().glob("*/*")) if folder.is_dir() for run in _runs_in(folder)]


def attempt(run: TrainingRun) -> int:
    """Return the number of a repeated training, from 1."""
    return int(FOLDER.fullmatch(run.folder.name)[3] or 1)


def attempts(variant_folder: Path, seed: int, identity: str) -> list[TrainingRun]:
    """Return the repetitions of one training, the first one first."""
    start = f"seed{seed}-{identity[:SHORT]}"
    names = [p for p in variant_folder.glob(f"{start}*") if FOLDER.fullmatch(p.name) and _holds_one(p)]
    return sorted(map(read_run, names), key=attempt)


def new_folder(variant_folder: Path, seed: int, identity: str) -> tuple[Path, str]:
    """Return folder and id for a new repetition of a training."""
    name = f"seed{seed}-{identity[:SHORT]}"
    existing = attempts(variant_folder, seed, identity)
    number = attempt(existing[-1]) + 1 if existing else 1
    return variant_folder / (name if number == 1 else f"{name}-{number}"), identity + f"-{number}" * (number > 1)


def in_training(run: TrainingRun) -> bool:
    """Return whether another process is training `run` now."""
    import filelock

    lock = run.folder / ".lock"
    if not lock.is_file():
        return False
    try:
        with filelock.FileLock(lock, timeout=0):
            return False
    except filelock.Timeout:
        return True
    except OSError:  # nobody trains in a read-only folder
        return False


def differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the names of the values in which two descriptions of a training differ."""
    names: list[str] = []
    for key in sorted(one.keys() | other.keys()):
        a, b = one.get(key), other.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            names += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(f"{prefix}{key}")
    return names


# ------------------------------------------------------------------------------------------------------------ choosing


@dataclass(frozen=True)
class Chosen:
    """The trainings of a variant to score, one per seed, and a line for each that is left out."""

    runs: tuple[TrainingRun, ...]
    left_out: tuple[str, ...]


def choose(
    space: Workspace,
    variant: str,
    data: tuple[str, str],
    *,
    seeds: Sequence[int] = (),
    like: TrainingRun | None = None,
) -> Chosen:
    """Return the trainings of a variant to score: the newest of every seed, all of one experiment.

    data: hashes of slices and split, which must be those of the training. Of several experiments (all that is trained
    but the seed), that of `like` counts, else the newest with a finished training. If none is finished, only the newest
    unfinished training counts. Raises MrictError if nothing can be scored.
    """
    found = runs_of(space, variant)
    left_out = [f"left out: {run.problem}" for run in found if run.problem]
    usable = [run for run in found if not run.problem and run.data == data and run.profile == space.profile]
    if not usable:
        raise _nothing_fits(space, variant, data, found)
    begun = [run for run in usable if run.epoch > 0 and run.best.is_file()]
    if not begun:
        raise _nothing_to_score(usable[-1])
    finished = [run for run in begun if run.complete]
    experiment = (like or (finished or begun)[-1]).experiment
    of_it = [run for run in begun if run.experiment == experiment and (run.seed in seeds or not seeds)]
    newest = {run.seed: run for run in of_it if run.complete} or {run.seed: run for run in of_it[-1:]}
    if missing := sorted({*seeds} - {run.seed for run in newest.values() if run.complete}):
        raise MrictError(
            f"{variant}: no finished training of seed {', '.join(map(str, missing))} on these data; train it: "
            f"python -m mrict_core train {variant} --seeds {','.join(map(str, missing))}"
        )
    if not newest:
        raise _nothing_to_score(like)
    runs = tuple(newest[seed] for seed in sorted(newest, key=lambda seed: (seed is None, seed)))
    left_out += [
        f"left out: {shown(run.folder)}: {why}" for run in usable if run not in runs and (why := _why(run, runs, seeds))
    ]
    return Chosen(runs, tuple(left_out))


def _why(run: TrainingRun, runs: Sequence[TrainingRun], seeds: Sequence[int]) -> str:
    """Return why a training on these data is left out; "" if it was not requested."""
    now = " (in training now)" if in_training(run) else ""
    if run.epoch == 0:
        return nothing_learned(run) + now
    if not run.best.is_file():
        return f"{BEST} is missing{now}"
    if run.old != runs[0].old:
        return f"the layout differs; an earlier version did not record all settings{now}"
    if run.experiment != runs[0].experiment:
        differing = [name for name in differences(run.trained, runs[0].trained) if name != "settings.seed"]
        return f"other settings ({', '.join(differing) or 'parent'}){now}"
    if not run.complete:
        return run.progress + now
    return "" if seeds and run.seed not in seeds else "an older equal training"


def nothing_learned(run: TrainingRun) -> str:
    """Return the reason why a training has no epoch."""
    return f"training {run.stopped}" if run.stopped else "no epoch of the training is done"


def _nothing_to_score(run: TrainingRun) -> MrictError:
    if run.epoch:
        return MrictError(f"{shown(run.best)}: is missing; put it back, or train {run.variant} again")
    return MrictError(f"{shown(run.folder)}: {nothing_learned(run)}; there is nothing to score yet")


def _nothing_fits(space: Workspace, variant: str, data: tuple[str, str], found: Sequence[TrainingRun]) -> MrictError:
    again = f"train {variant} again"
    sound = [run for run in found if not run.problem]
    if not sound:
        damaged = f" ({found[-1].problem})" if found else ""
        return MrictError(
            f"{shown(space.checkpoints / variant)}: {variant} is not trained on these data{damaged}; train it: "
            f"python -m mrict_core train {variant}{'' if is_declared(variant) else ', with its --set or --experiment'}"
        )
    run = max(sound, key=lambda one: (one.data == data, one.data[1] == data[1]))
    where = shown(run.folder)
    if run.data[1] != data[1]:
        return MrictError(
            f"{where}: trained on split {run.data[1]}, the data now have split {data[1]}; "
            f"its test patients may have been in training; {again}"
        )
    return MrictError(
        f"{where}: trained with profile {run.profile} on slices {run.data[0]}, expected profile {space.profile} and "
        f"slices {data[0]} (data or settings changed); {again}"
    )


def of_record(space: Workspace, record: Mapping[str, Any]) -> TrainingRun:
    """Return the training that a variant's record scores; of several seeds the first."""
    return all_of_record(space, record)[0]


def all_of_record(space: Workspace, record: Mapping[str, Any]) -> list[TrainingRun]:
    """Return the trainings that a variant's record scores, in the order of the seeds."""
    names = (record["context"].get("run") or "").split(" / ")
    return [read_run(space.checkpoints / record["name"] / name) for name in names]


def find_parent(
    space: Workspace, variant: str, parent: str, data: tuple[str, str], seed: int, report: Report
) -> TrainingRun:
    """Return the finished training that `variant` starts from: of the same seed, or of the only seed."""
    found = runs_of(space, parent)
    lineage = f"python -m mrict_core train {variant} --lineage"
    sound = [run for run in found if not run.problem]
    if not sound:
        raise MrictError(
            found[-1].problem
            if found
            else f"{variant} starts from the weights of {parent}, which has no checkpoint "
            f"({shown(space.checkpoints / parent)}); train the lineage: {lineage}"
        )
    fitting = [run for run in sound if run.data == data]
    if not fitting:
        raise MrictError(
            f"{variant} starts from {parent}, which was trained on other data or another split "
            f"(split {sound[-1].data[1]}, slices {sound[-1].data[0]}; now {data[1]}, {data[0]}): it may "
            f"have seen the present test patients; train both: {lineage}"
        )
    finished = [run for run in fitting if run.complete]
    if not finished:
        raise MrictError(
            f"{variant} starts from {parent}, which is not fully trained ({shown(fitting[-1].folder)}: "
            f"{fitting[-1].progress}); finish it: python -m mrict_core train {parent}"
        )
    own = [run for run in finished if run.seed == seed] or finished
    if len({run.seed for run in own}) > 1:
        raise MrictError(
            f"{variant} with seed {seed} starts from {parent}, which was trained with seeds "
            f"{', '.join(str(run.seed) for run in own)} only; train it with this seed too: {lineage} --seed {seed}"
        )
    if own[-1].seed != seed:
        report(f"{variant}: {parent} was trained only with seed {own[-1].seed}; starting from that training")
    return own[-1]


def unpublished(variant: str, root: Path) -> list[TrainingRun]:
    """Return a variant's trainings with a usable epoch, in all workspaces but those that leave a centre out."""
    folders = [p for p in sorted(root.glob(f"*/{variant}")) if f"-{LEAVE_OUT}" not in p.parent.name]
    return [run for p in folders for run in _runs_in(p) if not run.problem and run.epoch > 0 and run.best.is_file()]


# ------------------------------------------------------------------------------------------------------------- removal


def remove_run(folder: Path) -> TrainingRun:
    """Delete one training; return its description.

    Raises MrictError for any other folder, and during training.
    """
    given = Path(folder).expanduser()
    folder = given.resolve()
    if (
        given.is_symlink()
        or not _holds_one(folder)
        or not folder.is_relative_to(checkpoints_root())
        or (folder / "model.json").exists()
    ):
        raise MrictError(
            f"{shown(given)}: not the folder of a training; give one that `python -m mrict_core runs` lists"
        )
    run = read_run(folder)
    with held(folder, f"trains {run.variant}", wait_s=0.0):
        if run.old:  # newer trainings have folders inside it
            for name in (RUN, LAST, BEST, HISTORY):
                (folder / name).unlink(missing_ok=True)
        else:
            shutil.rmtree(folder)
    shutil.rmtree(run.predictions, ignore_errors=True)
    return run


def size_bytes(run: TrainingRun) -> int:
    """Return the size of a training on disk, with its log and its predictions."""
    files = [run.folder / name for name in (RUN, BEST, LAST, HISTORY)]
    files += [path for folder in (run.folder / SAMPLES, run.folder / LOG, run.predictions) for path in folder.glob("*")]
    return sum(path.stat().st_size for path in files if path.is_file())


def _state(run: TrainingRun) -> str:
    if in_training(run):
        return "in training"
    return run.stopped or ("complete" if run.complete else "unfinished")


def table(runs: Sequence[TrainingRun]) -> pd.DataFrame:
    """Return a table of trainings."""
    import pandas as pd

    rows = [
        {
            "variant": run.variant,
            "seed": run.seed,
            "epochs": f"{run.epoch}/{run.epochs}",
            "budget": budget(run.trained),
            "state": _state(run),
            "val_mae_hu": run.val_mae_hu,
            "code": "today's" if run.todays else "another version's",
            "started": run.started[:10],
            "mb": size_bytes(run) / 2**20,
            "path": shown(run.folder),
        }
        for run in runs
    ]
    return pd.DataFrame(rows).astype({"val_mae_hu": "float64", "seed": "Int64"})
