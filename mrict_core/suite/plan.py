"""What the suite runs: one step per execution of a notebook, each with a key of all that decides its result."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from mrict_core.errors import MrictError, unknown_name
from mrict_core.experiments import Experiment
from mrict_core.paths import ROOT, Workspace, shown
from mrict_core.runtime import code_hash, hash_file, hash_of, read_json
from mrict_core.training.runs import of_record

NOTEBOOKS = ROOT / "notebooks"
PREPROCESS, EVALUATION, REPORT = "00_preprocess_and_mask", "06_evaluation", "07_clinical_report"
SYNTHESIS = "08_synthesize"
NOTEBOOK_OF = {  # family of a variant => the notebook that tells its story
    "cyclegan": "01_cyclegan_baseline",
    "practice": "02_pix2pix_mk1",
    "mk1": "02_pix2pix_mk1",
    "mk2": "03_pix2pix_mk2",
    "mk3": "04_pix2pix_mk3",
    "mk4": "04_pix2pix_mk3",
    "mk6": "05_pix2pix_mk6",
}


@dataclass(frozen=True)
class Step:
    """One execution of a notebook."""

    name: str  # also the name of the executed copy
    notebook: str
    parameters: dict[str, Any]
    needs: tuple[str, ...]  # names of steps whose results it reads
    outputs: tuple[Path, ...]  # files that must exist for the step to count as done


def plan(variants: list[Experiment], space: Workspace, parameters: dict[str, Any], group_by: str = "") -> list[Step]:
    """Return the steps in order: data, every variant after the one it starts from, evaluation over all, the report."""
    own = parameters | {"group_by": group_by}
    steps = [Step(PREPROCESS, PREPROCESS, own, (), (space.store / "index.json",))]
    step_of: dict[str, str] = {}
    cycle = [v.name for v in variants if v.family == "cyclegan"]
    if cycle:
        name = NOTEBOOK_OF["cyclegan"]
        own = parameters | {"variants": ",".join(cycle)}
        steps.append(Step(name, name, own, (PREPROCESS,), tuple(path for v in cycle for path in _results(space, v))))
    rest = sorted((v for v in variants if v.family != "cyclegan"), key=lambda v: NOTEBOOK_OF[v.family])
    for v in rest:
        notebook = NOTEBOOK_OF[v.family]
        step_of[v.name] = f"{notebook}__{v.name}"
        needs = (PREPROCESS, *([step_of[v.init_from]] if v.init_from else []))
        steps.append(Step(step_of[v.name], notebook, parameters | {"variant": v.name}, needs, _results(space, v.name)))
    listed = parameters | {"variants": ",".join(v.name for v in variants)}
    everything = tuple(s.name for s in steps)
    steps.append(Step(EVALUATION, EVALUATION, listed, everything, (space.reports / "leaderboard.csv",)))
    steps.append(Step(REPORT, REPORT, listed, (EVALUATION,), (space.reports / "index.html",)))
    steps.append(Step(SYNTHESIS, SYNTHESIS, listed, (EVALUATION,), (space.reports / "synthetic_ct" / "case_sct.html",)))
    return steps


def _results(space: Workspace, variant: str) -> tuple[Path, ...]:
    """What later steps read of a variant: its scores, its best networks, and the last ones its children start from."""
    record = space.metrics / f"{variant}.json"
    with contextlib.suppress(MrictError, LookupError, TypeError, AttributeError):  # not scored yet, or damaged
        run = of_record(space, read_json(record))
        return record, run.best, run.last
    return (record,)


def load_parameters(profile: str) -> dict[str, Any]:
    """Return the papermill parameters of a profile, params/<profile>.yaml."""
    path = ROOT / "params" / f"{profile}.yaml"
    if not path.is_file():
        raise MrictError(f"{shown(path)}: not found; every profile that the suite runs needs its parameter file")
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def data_fingerprint(folder: Path) -> str:
    """Return a hash of names, sizes and times of the input files."""
    # The depths of the three layouts that `discover` knows; rglob would not enter folders that are links.
    found = (p for depth in ("*/*", "*/*/*", "*/*/*/*") for p in folder.glob(depth))
    files = sorted(p for p in found if p.is_file() and not p.name.startswith("."))
    return hash_of([(str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in files])


def only_steps(steps: list[Step], only: str) -> set[str]:
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


def scores_hash(step: Step, steps: list[Step], space: Workspace) -> str:
    """Hash the patients' scores that a step tells of: `evaluate` by hand may have changed them; "" where it reads none.

    Taken when the step's turn has come, for the steps before it write them.
    """
    if step.notebook not in (EVALUATION, REPORT, SYNTHESIS):
        return ""
    read = [path for need in steps if need.name in step.needs for path in need.outputs if path.parent == space.metrics]
    csvs = [path.with_suffix(".csv") for path in read]
    return hash_of([(path.name, hash_file(path)) for path in csvs if path.is_file()])


def all_needs(steps: list[Step]) -> list[Step]:
    """Return the steps with the needs of their needs among their own, which count where those between are not run."""
    needs: dict[str, tuple[str, ...]] = {}
    for step in steps:  # after those they need
        needs[step.name] = tuple(dict.fromkeys([*step.needs, *(far for need in step.needs for far in needs[need])]))
    return [replace(step, needs=needs[step.name]) for step in steps]


def step_key(step: Step, keys: dict[str, str], space: Workspace) -> str:
    """Hash of all that decides a step's result: notebook, parameters, code, input data, and the steps before it."""
    rule = Path(step.parameters.get("group_by", ""))
    return hash_of(
        [
            step.parameters,
            hash_file(rule) if rule.suffix.lower() == ".csv" and rule.is_file() else "",
            hash_file(NOTEBOOKS / f"{step.notebook}.ipynb"),
            code_hash(),
            [keys[name] for name in step.needs],
            # The code decides what phantoms are.
            data_fingerprint(space.data_dir) if step.notebook == PREPROCESS and not space.embedded else "",
        ]
    )


def as_papermill_path(path: Path) -> str:
    """Return `path` as papermill wants it: it fills parameters into braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def check_parameters(notebook: str, parameters: Iterable[str]) -> None:
    """Raise MrictError for a parameter that the notebook does not declare (papermill would only warn)."""
    import papermill

    known = set(papermill.inspect_notebook(as_papermill_path(NOTEBOOKS / f"{notebook}.ipynb")))
    for name in parameters:
        if name not in known:
            raise unknown_name(f"parameter of {notebook}", name, known)
