"""The suite: trainings in worker processes and notebooks through papermill, in the order of their dependencies.

Only missing or changed steps are run.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mrict_core.errors import MrictError
from mrict_core.experiments import Experiment, is_declared, with_ancestors
from mrict_core.experiments.profiles import Profile, get_profile
from mrict_core.experiments.user import chosen as asked_for
from mrict_core.files import hash_of, read_csv, read_json, sole_writer, write_json
from mrict_core.machine import check_open_files, cpu_count, require
from mrict_core.paths import Folders, Workspace, pin_roots, shown, work_root, workspace
from mrict_core.suite.execute import execute, remove_former, run_in_order
from mrict_core.suite.plan import (
    NOTEBOOK_OF,
    PREPROCESS,
    REPORT,
    Step,
    TrainingStep,
    check_parameters,
    chosen_notebooks,
    load_parameters,
    plan,
    scores_hash,
    step_key,
    wanted_steps,
)
from mrict_core.suite.workers import Say, Training, Workers

__all__ = ["left_out", "run_suite"]

SKIPPED, CONCLUSION = "skipped.csv", "conclusion.md"  # written by notebook 00 and by the report
BEST = "mk7"  # the suite's own best model
NEWER = "mk8,mk10,mk9"  # volumes, and samples; in the demo too
REFERENCES = "pix2pix_paper,unet_l1"
OPEN_FILES = 256  # ample for the sockets and pipes of two kernels; with too few, libzmq aborts
STORIES = set(NOTEBOOK_OF.values())  # notebooks on trainings


def run_suite(
    profile: str = "",
    data_dir: Folders = "",
    region: str = "brain",
    variants: str | None = None,
    *,
    sets: Sequence[str] = (),
    files: Sequence[str] = (),
    protocol: str = "patient",
    only: str = "",
    jobs: int = 0,
    force: bool = False,
    group_by: str = "",
    pairs: str = "",
    tensorboard: bool = False,
    dose: bool = False,
    say: Say = print,
    modality: str = "mr",
    ct: str = "rigid",
    exclude_metal: bool = False,
) -> Workspace:
    """Run the suite; return its workspace.

    profile "": see `default_profile`. variants, sets, files: the experiments, see `experiments.user.chosen`; variants
    None: those of the files, or `default_variants`. only: these notebooks, with their trainings and the ancestors of
    those. jobs: parallel trainings and notebooks; 0: the profile's, at most one per CPU core. tensorboard: the
    trainings keep a log for it. dose: also notebook 12, before the report. modality, ct, exclude_metal: see
    `workspace`. A failure raises MrictError with the variant, or the notebook and cell.
    """
    require("papermill", "notebooks")
    if tensorboard:
        require("tensorboard", "tensorboard")
    if dose:
        from mrict_core.dose.engine import version

        version()  # fails before hours of training
    check_open_files(OPEN_FILES)
    pin_roots()
    work_root().mkdir(parents=True, exist_ok=True)  # kernels start there
    profile, why = (profile, "") if profile else default_profile(bool(data_dir))
    named = variants if variants is not None else "" if files else default_variants(profile)
    chosen, scale = with_ancestors(asked_for(named, sets, files, check=_check)), get_profile(profile)
    space = workspace(profile, data_dir, region, protocol, modality, ct, exclude_metal)
    folders = [] if space.embedded else [str(folder) for folder in space.data_dirs]
    given = folders if len(folders) > 1 else "".join(folders)  # as the notebooks' `data_dir`
    parameters = load_parameters(profile) | {"data_dir": given, "region": space.region, "protocol": protocol}
    parameters |= {"modality": modality, "ct_kind": ct, "exclude_metal": exclude_metal}
    steps = plan(chosen, space, parameters, group_by, scale.minutes, pairs, dose=dose)
    for step in steps:
        if not isinstance(step, TrainingStep):
            check_parameters(step.notebook, step.parameters)
    notebooks = chosen_notebooks(steps, only)
    wanted = wanted_steps(steps, notebooks)
    jobs = jobs or min(scale.jobs, cpu_count())
    started = time.perf_counter()
    trainings = sum(isinstance(step, TrainingStep) for step in wanted)
    count = f"{trainings} trainings, {len(wanted) - trainings} notebooks, {jobs} at a time"
    say(f"MRICT suite: profile {profile}{why}, {count}")
    if scale.minutes and trainings:
        say(f"budget: {scale.minutes:g} minutes for each training")
    say(f"data: {', '.join(map(shown, folders)) or 'embedded phantom patients'}")
    with sole_writer(space.executed, "runs the suite on these data"), Workers() as workers:
        remove_former(space.executed, say)
        run = _Run(steps, space, scale, workers, notebooks if force else set(), tensorboard, say)
        run_in_order([step for step in wanted if step.notebook == PREPROCESS], run, 1)
        if line := left_out(space):
            say(line)
        rest = [step for step in wanted if step.notebook != PREPROCESS]
        if rest and (space.store / "index.json").is_file() and not space.split_file.is_file():
            raise MrictError(
                f"{shown(space.data_dir)}: too few usable patients to train, validate and test (see "
                f"{shown(space.executed / PREPROCESS)}.ipynb); expected at least 3; add patients and run again"
            )
        run_in_order(rest, run, jobs)
    say(f"done in {_clock(time.perf_counter() - started)}")
    if any(step.notebook == REPORT for step in wanted):
        say((space.reports / CONCLUSION).read_text(encoding="utf-8").strip())
    return space


def default_profile(own_data: bool) -> tuple[str, str]:
    """Return a profile for this machine, and the reason for a user's own data."""
    if not own_data:
        return "demo", ""
    from mrict_core.machine import pick_device  # imports torch

    gpu = pick_device().type != "cpu"
    return ("full", " (there is a GPU)") if gpu else ("cpu", " (there is no GPU)")


def default_variants(profile: str) -> str:
    """Return the experiments of a profile: the best model, two references; in the demo others."""
    return f"readme,{BEST},{NEWER}" if profile in ("demo", "smoke") else f"{BEST},{REFERENCES}"


def _check(experiment: Experiment) -> None:
    """Check a user's experiment; the declared ones are tested, and skipping them avoids importing torch."""
    if not is_declared(experiment.name):
        from mrict_core.methods import check

        check(experiment)


def left_out(space: Workspace) -> str:
    """Return a line on the data that notebook 00 could not use; "" if it used all."""
    path = space.reports / SKIPPED
    count = len(read_csv(path)) if path.is_file() else 0
    return f"{count} of the data left out, with their reasons in {shown(path)}" if count else ""


@dataclass
class _Run:
    """Runs the steps of one suite, except those that are done and unchanged."""

    steps: list[Step]
    space: Workspace
    profile: Profile
    workers: Workers
    force: set[str]  # notebooks to run again with all their trainings
    tensorboard: bool
    say: Say

    def __post_init__(self) -> None:
        self.keys: dict[str, str] = {}
        self.marks: dict[str, str] = {}
        for number, step in enumerate(self.steps, start=1):
            self.keys[step.name] = step_key(step, self.keys, self.space)
            self.marks[step.name] = f"[{number:2d}/{len(self.steps)}] {step.name}"

    def __call__(self, step: Step) -> None:
        mark, force = self.marks[step.name], step.notebook in self.force
        key = hash_of([self.keys[step.name], scores_hash(step, self.steps, self.space)])
        stamp = self.space.executed / f"{step.name}.json"
        if not force and _stamped(stamp) == key and all(path.is_file() for path in step.outputs):
            self.say(f"{mark}: unchanged")
            return
        stamp.unlink(missing_ok=True)
        self.say(f"{mark} …")
        started = time.perf_counter()
        if isinstance(step, TrainingStep):
            self._train(step, force)
        else:  # its trainings have steps of their own
            self.workers.end_idle()  # to free their memory for the kernel
            execute(step, self.space.executed / f"{step.name}.ipynb", force=force and step.notebook not in STORIES)
        seconds = time.perf_counter() - started
        write_json(stamp, {"key": key, "seconds": round(seconds, 1)})
        self.say(f"{mark}: done in {_clock(seconds)}")

    def _train(self, step: TrainingStep, retrain: bool) -> None:
        settings = {name: step.parameters[name] for name in ("seed", "device", "max_pairs") if name in step.parameters}
        settings["max_pairs"] = settings.get("max_pairs") or None
        settings["tensorboard"] = self.tensorboard
        training = Training(step.chain, self.profile, self.space, settings, retrain)
        self.workers.train(training, lambda line: self.say(f"        {line}"))


def _stamped(stamp: Path) -> str | None:
    """Return the key in a stamp; None for a missing or damaged one."""
    with contextlib.suppress(MrictError, TypeError, KeyError):
        return read_json(stamp)["key"]
    return None


def _clock(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
