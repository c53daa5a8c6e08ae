"""The plan of the suite: trainings and notebooks, each with a key of all that decides its result."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from mrict_core.data.pair_choices import choice_files
from mrict_core.errors import MrictError, unknown_name
from mrict_core.experiments import Experiment, is_declared
from mrict_core.files import code_hash, hash_file, hash_of, read_json
from mrict_core.paths import NOTEBOOKS, PARAMS, Workspace, common_folder, shown
from mrict_core.training.runs import of_record

PREPROCESS, EVALUATION, REPORT = "00_preprocess_and_mask", "09_evaluation", "10_clinical_report"
SYNTHESIS, DOSE = "11_synthesize", "12_dose"
DOSES = "dose/summary.json"  # in the reports
SMALL = ("demo", "smoke")  # profiles whose doses are as the notebook says: one plan of protons for a patient
NO_STORY = ""  # instead of a notebook, for the papers' references and a user's own family
NOTEBOOK_OF = {  # family of a variant => its notebook
    "cyclegan": "01_cyclegan_baseline",
    "practice": "02_pix2pix_mk1",
    "mk1": "02_pix2pix_mk1",
    "mk2": "03_pix2pix_mk2",
    "mk3": "04_pix2pix_mk3",
    "mk4": "04_pix2pix_mk3",
    "mk6": "05_pix2pix_mk6",
    "mk7": "06_mk7_regression",
    "mk8": "07_mk8_volumes",
    "mk10": "07_mk8_volumes",
    "mk9": "08_mk9_flow",
}
STAGES = "02_pix2pix"  # one notebook for three stories, run for each with the variants of its stage
SOURCE_OF = {"02_pix2pix_mk1": STAGES, "03_pix2pix_mk2": STAGES, "04_pix2pix_mk3": STAGES}


@dataclass(frozen=True)
class Step:
    """One execution of a notebook."""

    name: str  # of the executed copy and of the stamp, too
    notebook: str  # the story, see `notebook_file` for its source
    parameters: dict[str, Any]
    needs: tuple[str, ...]  # names of the steps whose results it reads
    outputs: tuple[Path, ...]  # files of a completed step

    @property
    def long(self) -> bool:
        """Whether it takes longer than most; such steps start first."""
        return False

    @property
    def source(self) -> Any:
        """What is run, apart from parameters, module and data."""
        return hash_file(notebook_file(self.notebook))


@dataclass(frozen=True)
class TrainingStep(Step):
    """One training with its evaluation; `notebook` shows it."""

    chain: tuple[Experiment, ...]  # from the first ancestor to the variant itself
    minutes: float | None = None  # of every training

    @property
    def long(self) -> bool:
        return self.chain[-1].steps is not None

    @property
    def source(self) -> Any:
        return [self._experiments, self.minutes] if self.minutes else self._experiments

    @property
    def _experiments(self) -> Any:
        own = [one for one in self.chain if not is_declared(one.name)]
        if not own:
            return self.chain
        from mrict_core.methods import own_code  # torch is needed for a user's experiments alone

        codes = [code for one in own if (code := own_code(one))]
        return [self.chain, codes] if codes else self.chain


def plan(
    variants: list[Experiment],
    space: Workspace,
    parameters: dict[str, Any],
    group_by: str = "",
    minutes: float | None = None,
    pairs: str = "",
    *,
    dose: bool = False,
) -> list[Step]:
    """Return all steps, each after those it needs.

    variants: parents first, as from `experiments.with_ancestors`. minutes: of every training, see `Profile.minutes`.
    dose: with the notebook on dose, whose results the report shows.
    """
    own = parameters | {"group_by": group_by, "pairs": pairs}
    chains: dict[str, tuple[Experiment, ...]] = {"": ()}
    for variant in variants:
        chains[variant.name] = (*chains[variant.init_from or ""], variant)
    trainings = [replace(_training(chains[v.name], space, parameters), minutes=minutes) for v in variants]
    steps = [Step(PREPROCESS, PREPROCESS, own, (), (space.store / "index.json",)), *trainings]
    for notebook in sorted({training.notebook for training in trainings} - {NO_STORY}):
        names = tuple(training.name for training in trainings if training.notebook == notebook)
        figures = tuple(space.figures / f"{name}_{kind}.png" for name in names for kind in ("curves", "samples"))
        steps.append(Step(notebook, notebook, parameters | {"variants": ",".join(names)}, names, figures))
    listed = parameters | {"variants": ",".join(v.name for v in variants)}
    trained = (PREPROCESS, *(training.name for training in trainings))
    steps.append(Step(EVALUATION, EVALUATION, listed, trained, (space.reports / "leaderboard.csv",)))
    if dose:
        scale = {} if parameters["profile"] in SMALL else {"beams": "photons,protons", "targets": 2}
        steps.append(Step(DOSE, DOSE, listed | scale, (EVALUATION,), (space.reports / DOSES,)))
    before = (EVALUATION, DOSE) if dose else (EVALUATION,)
    steps.append(Step(REPORT, REPORT, listed, before, (space.reports / "index.html",)))
    steps.append(Step(SYNTHESIS, SYNTHESIS, listed, (EVALUATION,), (space.reports / "synthetic_ct" / "case_sct.html",)))
    return _all_needs(steps)


def _training(chain: tuple[Experiment, ...], space: Workspace, parameters: dict[str, Any]) -> TrainingStep:
    *ancestors, variant = chain
    notebook, needs = NOTEBOOK_OF.get(variant.family, NO_STORY), (PREPROCESS, *(one.name for one in ancestors))
    return TrainingStep(variant.name, notebook, parameters, needs, _results(space, variant.name), chain)


def _results(space: Workspace, variant: str) -> tuple[Path, ...]:
    """Return what later steps read of a variant: its scores, best networks, and last ones, for its children."""
    record = space.metrics / f"{variant}.json"
    with contextlib.suppress(MrictError, LookupError, TypeError, AttributeError):  # not scored yet, or damaged
        run = of_record(space, read_json(record))
        return record, run.best, run.last
    return (record,)


def _all_needs(steps: Sequence[Step]) -> list[Step]:
    """Return the steps with all indirect needs, which count if the steps in between are not run."""
    needs: dict[str, tuple[str, ...]] = {}
    for step in steps:  # after those they need
        needs[step.name] = tuple(dict.fromkeys([*step.needs, *(far for need in step.needs for far in needs[need])]))
    return [replace(step, needs=needs[step.name]) for step in steps]


def load_parameters(profile: str) -> dict[str, Any]:
    """Return the papermill parameters of a profile, params/<profile>.yaml."""
    path = PARAMS / f"{profile}.yaml"
    if not path.is_file():
        raise MrictError(f"{shown(path)}: not found; the suite needs a parameter file for each profile; add it")
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def data_fingerprint(folders: Sequence[Path]) -> str:
    """Return a hash of the input files' names, sizes and times."""
    # The depths of the three layouts of `discover`; rglob would not follow links to folders.
    found = (p for folder in folders for depth in ("*/*", "*/*/*", "*/*/*/*") for p in folder.glob(depth))
    files = sorted(p for p in found if p.is_file() and not p.name.startswith("."))
    above = common_folder(folders)
    return hash_of([(str(p.relative_to(above)), p.stat().st_size, p.stat().st_mtime_ns) for p in files])


def chosen_notebooks(steps: Sequence[Step], only: str) -> set[str]:
    """Return the notebooks with one of the comma-separated prefixes; for "" all, and NO_STORY."""
    notebooks = {step.notebook for step in steps}
    if not only:
        return notebooks
    chosen: set[str] = set()
    for prefix in (part.strip() for part in only.split(",")):
        found = {name for name in notebooks if prefix and name.startswith(prefix)}
        if not found:
            raise unknown_name("notebook", prefix, notebooks - {NO_STORY})
        chosen |= found
    return chosen


def wanted_steps(steps: Sequence[Step], notebooks: set[str]) -> list[Step]:
    """Return the steps of these notebooks, and the ancestors of their trainings."""
    started_from = {v.name for s in steps if isinstance(s, TrainingStep) and s.notebook in notebooks for v in s.chain}
    return [step for step in steps if step.notebook in notebooks or step.name in started_from]


def scores_hash(step: Step, steps: Sequence[Step], space: Workspace) -> str:
    """Return a hash of the patients' scores that a notebook reads, "" if it reads none.

    The trainings before it write them, and so does `evaluate` by hand.
    """
    if isinstance(step, TrainingStep) or step.notebook == PREPROCESS:
        return ""
    files = [space.metrics / f"{s.name}.csv" for s in steps if isinstance(s, TrainingStep) and s.name in step.needs]
    files += [space.reports / DOSES] if step.notebook == REPORT else []
    return hash_of([(path.name, hash_file(path)) for path in files if path.is_file()])


def step_key(step: Step, keys: dict[str, str], space: Workspace) -> str:
    """Return a hash of all that decides a step's result: source, parameters, code, input data, and previous steps."""
    rule = Path(step.parameters.get("group_by", ""))
    return hash_of(
        [
            step.parameters,
            hash_file(rule) if rule.suffix.lower() == ".csv" and rule.is_file() else "",
            step.source,
            code_hash(),
            [keys[name] for name in step.needs],
            # phantoms depend on the code alone
            data_fingerprint(space.data_dirs) if step.notebook == PREPROCESS and not space.embedded else "",
            *(hash_file(path) for path in _choices(step, space) if path.is_file()),
        ]
    )


def _choices(step: Step, space: Workspace) -> list[Path]:
    """Return the csv of chosen pairs that notebook 00 reads."""
    if step.notebook != PREPROCESS:
        return []
    return choice_files([] if space.embedded else space.data_dirs, step.parameters.get("pairs", ""))


def notebook_file(notebook: str) -> Path:
    """Return the path of the notebook that is run for a story."""
    return NOTEBOOKS / f"{SOURCE_OF.get(notebook, notebook)}.ipynb"


def as_papermill_path(path: Path) -> str:
    """Return `path` for papermill, with braces escaped."""
    return str(path).replace("{", "{{").replace("}", "}}")


def check_parameters(notebook: str, parameters: Iterable[str]) -> None:
    """Raise MrictError for a parameter that the notebook does not declare; papermill would only warn."""
    import papermill

    known = set(papermill.inspect_notebook(as_papermill_path(notebook_file(notebook))))
    for name in parameters:
        if name not in known:
            raise unknown_name(f"parameter of {notebook}", name, known)
