"""Run the notebooks in order through papermill; do only what is missing or changed."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mrict_core.errors import MrictError, unknown_name
from mrict_core.paths import ROOT, Workspace, shown, workspace
from mrict_core.profiles import get_profile
from mrict_core.runtime import code_hash, hash_file, hash_of, read_json, write_json
from mrict_core.variant import Variant
from mrict_core.variants import select

NOTEBOOKS = ROOT / "notebooks"
PREPROCESS, EVALUATION = "00_preprocess_and_mask", "06_evaluation"
NOTEBOOK_OF = {  # family of a variant => the notebook that tells its story
    "cyclegan": "01_cyclegan_baseline",
    "practice": "02_pix2pix_mk1",
    "mk1": "02_pix2pix_mk1",
    "mk2": "03_pix2pix_mk2",
    "mk3": "04_pix2pix_mk3",
    "mk4": "04_pix2pix_mk3",
    "mk6": "05_pix2pix_mk6",
}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """One execution of a notebook."""

    name: str  # also the name of the executed copy
    notebook: str
    parameters: dict[str, Any]
    needs: tuple[str, ...]  # names of steps whose results it reads
    outputs: tuple[Path, ...]  # files that must exist for the step to count as done


def plan(variants: list[Variant], space: Workspace, parameters: dict[str, Any]) -> list[Step]:
    """Return the steps in order: data, every variant after the one it starts from, evaluation over all."""
    steps = [Step(PREPROCESS, PREPROCESS, dict(parameters), (), (space.store / "index.json",))]
    step_of: dict[str, str] = {}
    cycle = [v.name for v in variants if v.family == "cyclegan"]
    if cycle:
        name = NOTEBOOK_OF["cyclegan"]
        own = parameters | {"variants": ",".join(cycle)}
        steps.append(Step(name, name, own, (PREPROCESS,), tuple(_results(space, v) for v in cycle)))
    rest = sorted((v for v in variants if v.family != "cyclegan"), key=lambda v: NOTEBOOK_OF[v.family])
    for v in rest:
        notebook = NOTEBOOK_OF[v.family]
        step_of[v.name] = f"{notebook}__{v.name}"
        needs = (PREPROCESS, *([step_of[v.init_from]] if v.init_from else []))
        steps.append(
            Step(step_of[v.name], notebook, parameters | {"variant": v.name}, needs, (_results(space, v.name),))
        )
    listed = parameters | {"variants": ",".join(v.name for v in variants)}
    everything = tuple(s.name for s in steps)
    steps.append(Step(EVALUATION, EVALUATION, listed, everything, (space.reports / "leaderboard.csv",)))
    return steps


def _results(space: Workspace, variant: str) -> Path:
    return space.metrics / f"{variant}.json"


def load_parameters(profile: str) -> dict[str, Any]:
    """Return the papermill parameters of a profile, params/<profile>.yaml."""
    path = ROOT / "params" / f"{profile}.yaml"
    if not path.is_file():
        raise MrictError(f"{shown(path)}: not found; every profile that the suite runs needs its parameter file")
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def data_fingerprint(folder: Path) -> str:
    """Return a hash of names, sizes and times of the input files; "" for phantoms, which the code decides."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    return hash_of([(str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in files])


def run_suite(
    profile: str = "demo",
    data_dir: str = "",
    region: str = "brain",
    variants: str = "readme",
    *,
    protocol: str = "patient",
    only: str = "",
    force: bool = False,
    say: Say = print,
) -> Workspace:
    """Run the suite; return its workspace. A failing notebook raises MrictError with its name, cell and error."""
    chosen = select(variants)
    get_profile(profile)
    if data_dir:
        data_dir = str(Path(data_dir).expanduser().resolve())
    space = workspace(profile, data_dir, region, protocol)
    parameters = load_parameters(profile) | {"data_dir": data_dir, "region": region, "protocol": protocol}
    steps = plan(chosen, space, parameters)
    for notebook in {step.notebook for step in steps}:
        check_parameters(notebook, next(s.parameters for s in steps if s.notebook == notebook))
    wanted = _only(steps, only)
    started = time.perf_counter()
    say(f"MRICT suite: profile {profile}, {len(chosen)} variants, {len(wanted)} notebook runs")
    say(f"data: {'embedded phantom patients' if space.embedded else shown(space.data_dir)}")
    keys: dict[str, str] = {}
    for number, step in enumerate(steps, start=1):
        keys[step.name] = _key(step, keys, space)
        if step.name not in wanted:
            continue
        _run_step(step, keys[step.name], space, force, f"[{number:2d}/{len(steps)}]", say)
        if step.name == PREPROCESS and len(wanted) > 1 and not space.split_file.is_file():
            raise MrictError(
                f"{shown(space.data_dir)}: too few usable patients to train, validate and test (see "
                f"{shown(space.executed / step.name)}.ipynb); the data were prepared, the rest needs at least 3"
            )
    say(f"done in {_clock(time.perf_counter() - started)}")
    return space


def _only(steps: list[Step], only: str) -> set[str]:
    """Return the names of the steps whose notebook starts with one of the comma-separated prefixes; all for ""."""
    if not only:
        return {step.name for step in steps}
    wanted: set[str] = set()
    for prefix in (part.strip() for part in only.split(",")):
        found = {step.name for step in steps if prefix and step.name.startswith(prefix)}
        if not found:
            raise unknown_name("notebook", prefix, {step.notebook for step in steps})
        wanted |= found
    return wanted


def _key(step: Step, keys: dict[str, str], space: Workspace) -> str:
    """Hash of all that decides a step's result: notebook, parameters, code, input data, and the steps before it."""
    return hash_of(
        [
            step.parameters,
            hash_file(NOTEBOOKS / f"{step.notebook}.ipynb"),
            code_hash(),
            [keys[name] for name in step.needs],
            "" if space.embedded else data_fingerprint(space.data_dir) if step.notebook == PREPROCESS else "",
        ]
    )


def check_parameters(notebook: str, parameters: Iterable[str]) -> None:
    """Raise MrictError for a parameter that the notebook does not declare (papermill would only warn)."""
    import papermill

    known = set(papermill.inspect_notebook(str(NOTEBOOKS / f"{notebook}.ipynb")))
    for name in parameters:
        if name not in known:
            raise unknown_name(f"parameter of {notebook}", name, known)


def _run_step(step: Step, key: str, space: Workspace, force: bool, mark: str, say: Say) -> None:
    stamp = space.executed / f"{step.name}.json"
    done = stamp.is_file() and read_json(stamp)["key"] == key and all(path.is_file() for path in step.outputs)
    if done and not force:
        say(f"{mark} {step.name}: unchanged")
        return
    stamp.unlink(missing_ok=True)
    say(f"{mark} {step.name} …")
    started = time.perf_counter()
    execute(step, space.executed / f"{step.name}.ipynb", force, say)
    seconds = time.perf_counter() - started
    write_json(stamp, {"key": key, "seconds": round(seconds, 1)})
    say(f"{mark} {step.name}: {_clock(seconds)}")


class _Echo(io.TextIOBase):
    """Takes a notebook's printed output and says the lines that show progress, as they come."""

    def __init__(self, say: Say) -> None:
        self.say, self.rest = say, ""

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            if " epoch " in line or line.startswith("!"):
                self.say(f"        {line}")
        return len(text)


def execute(step: Step, target: Path, force: bool, say: Say) -> None:
    """Execute a notebook into `target`. The copy appears whole: after success, or with the error in it."""
    import papermill

    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.stem}.partial.ipynb")
    try:
        papermill.execute_notebook(
            str(NOTEBOOKS / f"{step.notebook}.ipynb"),
            str(partial),
            parameters=step.parameters | {"force": force},
            kernel_name="python3",
            cwd=str(ROOT),
            progress_bar=False,
            log_output=False,
            stdout_file=_Echo(say),
        )
    except papermill.PapermillExecutionError as error:
        shutil.move(partial, target)
        raise MrictError(
            f"{step.name}: cell {error.cell_index} failed with {error.ename}: {error.evalue.strip().splitlines()[0]} "
            f"(executed copy: {shown(target)})"
        ) from None
    finally:
        if partial.is_file() and not _finished(partial):
            partial.unlink()
    shutil.move(partial, target)


def _finished(partial: Path) -> bool:
    """True when papermill closed the copy (an interrupted run leaves no end time)."""
    import nbformat

    facts = nbformat.read(partial, as_version=4).metadata.get("papermill", {})
    return bool(facts.get("end_time"))


def _clock(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
