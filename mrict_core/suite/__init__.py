"""Run the notebooks through papermill in the order of what they need; do only what is missing or changed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mrict_core.errors import MrictError
from mrict_core.experiments import with_ancestors
from mrict_core.experiments.profiles import get_profile
from mrict_core.experiments.user import chosen as asked_for
from mrict_core.methods import check
from mrict_core.paths import Workspace, pin_roots, shown, workspace
from mrict_core.runtime import check_open_files, cpu_count, hash_of, read_csv, read_json, sole_writer, write_json
from mrict_core.suite.execute import Say, execute, run_in_order
from mrict_core.suite.plan import (
    PREPROCESS,
    Step,
    all_needs,
    check_parameters,
    load_parameters,
    only_steps,
    plan,
    scores_hash,
    step_key,
)

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager

__all__ = ["left_out", "run_suite"]

SKIPPED = "skipped.csv"
OPEN_FILES = 256  # sockets and pipes of two kernels, with room to spare: without them libzmq aborts


def run_suite(
    profile: str = "demo",
    data_dir: str = "",
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
    say: Say = print,
) -> Workspace:
    """Run the suite; return its workspace.

    variants, sets, files: the experiments, see `experiments.user.chosen`; variants None: those of the files, or readme.
    jobs: notebooks at a time; 0: the profile's, at most one per CPU core. A failing notebook raises MrictError with its
    name, cell and error.
    """
    check_open_files(OPEN_FILES)
    pin_roots()  # the kernels start in the repository's root
    named = variants if variants is not None else "" if files else "readme"
    chosen, scale = with_ancestors(asked_for(named, sets, files, check=check)), get_profile(profile)
    space = workspace(profile, data_dir, region, protocol)
    data_dir = "" if space.embedded else str(space.data_dir)
    parameters = load_parameters(profile) | {"data_dir": data_dir, "region": region, "protocol": protocol}
    steps = plan(chosen, space, parameters, group_by)
    for notebook in {step.notebook for step in steps}:
        check_parameters(notebook, next(s.parameters for s in steps if s.notebook == notebook))
    wanted, steps = only_steps(steps, only), all_needs(steps)
    jobs = jobs or min(scale.jobs, cpu_count())
    started = time.perf_counter()
    runs = f"{len(wanted)} notebook run{'s' * (len(wanted) != 1)}"
    say(f"MRICT suite: profile {profile}, {len(chosen)} variants, {runs}, {jobs} at a time")
    say(f"data: {'embedded phantom patients' if space.embedded else shown(space.data_dir)}")
    keys: dict[str, str] = {}
    for step in steps:
        keys[step.name] = step_key(step, keys, space)
    marks = {step.name: f"[{number:2d}/{len(steps)}]" for number, step in enumerate(steps, start=1)}

    from mrict_core.suite.kernels import kernel_managers  # and jupyter_client, for a run only

    with sole_writer(space.executed, "runs the suite on these data"), kernel_managers() as kernels:

        def run(step: Step) -> None:
            key = hash_of([keys[step.name], scores_hash(step, steps, space)])
            _run_step(step, key, space, force, marks[step.name], say, kernels)

        run_in_order([s for s in steps if s.name in wanted and s.notebook == PREPROCESS], run, 1)
        if line := left_out(space):
            say(line)
        rest = [s for s in steps if s.name in wanted and s.notebook != PREPROCESS]
        if rest and (space.store / "index.json").is_file() and not space.split_file.is_file():
            raise MrictError(
                f"{shown(space.data_dir)}: too few usable patients to train, validate and test (see "
                f"{shown(space.executed / PREPROCESS)}.ipynb); the data were prepared, the rest needs at least 3"
            )
        run_in_order(rest, run, jobs)
    say(f"done in {_clock(time.perf_counter() - started)}")
    return space


def left_out(space: Workspace) -> str:
    """Return a line on the data that notebook 00 could not use; "" where it used all."""
    path = space.reports / SKIPPED
    count = len(read_csv(path)) if path.is_file() else 0
    return f"{count} of the data left out, with their reasons in {shown(path)}" if count else ""


def _run_step(
    step: Step, key: str, space: Workspace, force: bool, mark: str, say: Say, kernels: type[AsyncKernelManager]
) -> None:
    stamp = space.executed / f"{step.name}.json"
    done = _stamped(stamp) == key and all(path.is_file() for path in step.outputs)
    if done and not force:
        say(f"{mark} {step.name}: unchanged")
        return
    stamp.unlink(missing_ok=True)
    say(f"{mark} {step.name} …")
    started = time.perf_counter()
    execute(step, space.executed / f"{step.name}.ipynb", force, say, kernels)
    seconds = time.perf_counter() - started
    write_json(stamp, {"key": key, "seconds": round(seconds, 1)})
    say(f"{mark} {step.name}: done in {_clock(seconds)}")


def _stamped(stamp: Path) -> str | None:
    """Return the key a stamp holds; a damaged stamp counts as none, the step is done again."""
    with contextlib.suppress(MrictError, TypeError, KeyError):
        return read_json(stamp)["key"]
    return None


def _clock(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
