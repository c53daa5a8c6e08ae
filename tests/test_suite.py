"""The suite: what it plans, when a step counts as done, in which order steps run, and real runs of its notebooks."""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
import torch
from conftest import write_patient
from typer.testing import CliRunner

from mrict_core import cli, suite
from mrict_core.errors import MrictError
from mrict_core.experiments import all_variants, get, lineage, select, with_values
from mrict_core.files import read_json, write_csv, write_json
from mrict_core.paths import ROOT, Workspace, workspace
from mrict_core.suite.plan import EVALUATION, PREPROCESS, REPORT, SYNTHESIS, Step, TrainingStep

# The package also exports functions of these names.
plan = importlib.import_module("mrict_core.suite.plan")
execute = importlib.import_module("mrict_core.suite.execute")
ROOTS = ("MRICT_DATA", "MRICT_CHECKPOINTS", "MRICT_REPORTS")


def steps_of(variants: str, space: Workspace | None = None) -> list[Step]:
    parameters = plan.load_parameters("smoke") | {"data_dir": "", "region": "brain", "protocol": "patient"}
    return plan.plan(select(variants), space or workspace("smoke"), parameters)


# ----------------------------------------------------------------------------------------------------------------- plan


def results(space: Workspace, name: str) -> set[Path]:
    """What must be there for a variant to count as done; of one that is scored also the training it was scored on."""
    return {space.metrics / f"{name}.json"}


def test_a_lost_checkpoint_is_missed(tmp_path, monkeypatch):
    monkeypatch.setenv("MRICT_REPORTS", str(tmp_path))
    space = workspace("smoke")
    folder = space.checkpoints / "mk1" / "seed42-0123abcd"
    for context, expected in (({"run": folder.name}, folder), ({}, folder.parent)):  # the second of an earlier version
        write_json(space.metrics / "mk1.json", {"name": "mk1", "context": context})
        step = next(step for step in steps_of("mk1", space) if step.name == "mk1")
        assert set(step.outputs) == results(space, "mk1") | {expected / "best.pt", expected / "last.pt"}
    (space.metrics / "mk1.json").write_text("[")
    assert {o for step in steps_of("mk1", space) for o in step.outputs} >= results(space, "mk1")


def test_the_rule_of_subjects_reaches_the_preparation_alone(tmp_path):
    space, table = workspace("smoke"), tmp_path / "groups.csv"
    steps = plan.plan(select("mk1"), space, plan.load_parameters("smoke"), str(table))
    assert [s.name for s in steps if "group_by" in s.parameters] == [plan.PREPROCESS]
    plan.check_parameters(steps[0].notebook, steps[0].parameters)
    keys = set()
    for text in ("patient,subject\na,1\n", "patient,subject\na,2\n"):
        table.write_text(text)
        keys.add(plan.step_key(steps[0], {}, space))
    assert len(keys) == 2


def test_plan_of_a_lineage():
    space = workspace("smoke")
    steps = steps_of("mk6_0_1,cyclegan_mk1,mk1,cyclegan_mk2", space)
    parent, child = "mk3_1_2_v4_50", "mk6_0_1"
    trained = {"mk1", parent, child, "cyclegan_mk1", "cyclegan_mk2"}
    assert {step.name: set(step.needs) for step in steps} == {
        PREPROCESS: set(),
        "cyclegan_mk1": {PREPROCESS},
        "cyclegan_mk2": {PREPROCESS},
        "mk1": {PREPROCESS},
        parent: {PREPROCESS},
        child: {PREPROCESS, parent},
        "01_cyclegan_baseline": {PREPROCESS, "cyclegan_mk1", "cyclegan_mk2"},
        "02_pix2pix_mk1": {PREPROCESS, "mk1"},
        "04_pix2pix_mk3": {PREPROCESS, parent},
        "05_pix2pix_mk6": {PREPROCESS, parent, child},
        EVALUATION: {PREPROCESS, *trained},
        REPORT: {PREPROCESS, *trained, EVALUATION},
        SYNTHESIS: {PREPROCESS, *trained, EVALUATION},
    }
    by_name = {step.name: step for step in steps}
    assert by_name["01_cyclegan_baseline"].parameters["variants"] == "cyclegan_mk1,cyclegan_mk2"
    assert {path.name for path in by_name["05_pix2pix_mk6"].outputs} == {"mk6_0_1_curves.png", "mk6_0_1_samples.png"}
    assert [variant.name for variant in by_name[child].chain] == [parent, child]
    assert set(by_name[child].outputs) == results(space, child)
    for name in (EVALUATION, REPORT, SYNTHESIS):
        assert by_name[name].parameters["variants"].split(",") == [
            v.name for v in select("mk6_0_1,cyclegan_mk1,mk1,cyclegan_mk2")
        ]
    assert by_name[REPORT].outputs == (space.reports / "index.html",)
    assert all(step.parameters["profile"] == "smoke" for step in steps)


def test_dose_comes_before_the_report_and_only_if_asked():
    space, parameters = workspace("smoke"), plan.load_parameters("smoke")
    without = plan.plan(select("mk1"), space, parameters)
    steps = plan.plan(select("mk1"), space, parameters, dose=True)
    names = [step.name for step in steps]
    assert set(names) - {step.name for step in without} == {plan.DOSE}
    by_name = {step.name: step for step in steps}
    assert plan.DOSE in by_name[REPORT].needs
    assert set(by_name[plan.DOSE].needs) == {PREPROCESS, "mk1", EVALUATION}
    assert names.index(EVALUATION) < names.index(plan.DOSE) < names.index(REPORT)
    for profile in ("smoke", "full"):
        steps = plan.plan(select("mk1"), space, plan.load_parameters(profile), dose=True)
        (step,) = (step for step in steps if step.name == plan.DOSE)
        plan.check_parameters(plan.DOSE, step.parameters)
        assert step.parameters.get("targets") == (None if profile == "smoke" else 2)


def test_the_report_is_made_again_when_doses_change(fresh_space):
    steps = steps_of("mk1", fresh_space)
    by_name, hashes = {step.name: step for step in steps}, []
    for text in ("", "{}", "[]"):
        if text:
            (fresh_space.reports / plan.DOSES).parent.mkdir(parents=True, exist_ok=True)
            (fresh_space.reports / plan.DOSES).write_text(text)
        hashes.append([plan.scores_hash(by_name[name], steps, fresh_space) for name in (REPORT, EVALUATION)])
    assert len({report for report, _ in hashes}) == 3
    assert len({evaluation for _, evaluation in hashes}) == 1


@pytest.mark.parametrize("variants", ["readme", "all", "mk6_4_3", "practice_mk2"])
def test_plan_covers_what_was_asked_parents_first(variants):
    steps = steps_of(variants)
    names = [step.name for step in steps]
    assert len(set(names)) == len(names)
    for k, step in enumerate(steps):
        assert set(step.needs) <= set(names[:k])
    trained = [step.name for step in steps if isinstance(step, TrainingStep)]
    stories = [step for step in steps if step.name.startswith(tuple(f"0{k}" for k in range(1, 9)))]
    assert trained == [v.name for v in select(variants)]
    told = [name for name in trained if get(name).family in plan.NOTEBOOK_OF]
    assert sorted(",".join(step.parameters["variants"] for step in stories).split(",")) == sorted(told)
    if variants == "all":
        assert len(select(variants)) == len(all_variants())
    for step in steps:
        if isinstance(step, TrainingStep):
            assert step.chain == tuple(lineage(step.name))
            assert set(step.needs) == {PREPROCESS, *(v.name for v in step.chain[:-1])}


def test_a_family_without_a_notebook_is_trained_and_scored_all_the_same():
    own = dataclasses.replace(get("mk1"), name="my_own", family="mine", init_from="mk1")
    steps = plan.plan([get("mk1"), own], workspace("smoke"), plan.load_parameters("smoke"))
    (step,) = [step for step in steps if step.name == "my_own"]
    assert [variant.name for variant in step.chain] == ["mk1", "my_own"]
    assert [s.name for s in steps if "my_own" in s.needs] == [EVALUATION, REPORT, SYNTHESIS]
    assert plan.wanted_steps(steps, plan.chosen_notebooks(steps, "")) == steps
    assert "my_own" not in {s.name for s in plan.wanted_steps(steps, plan.chosen_notebooks(steps, "02"))}


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("", {PREPROCESS, "mk2", "mk3_1_2_v4_50", "mk6_0_1", "03", "04", "05", "09", "10", "11"}),
        ("00", {PREPROCESS}),
        ("00, 09_evaluation", {PREPROCESS, "09"}),
        ("03_pix2pix_mk2", {"mk2", "03"}),
        ("04", {"mk3_1_2_v4_50", "04"}),
        ("05", {"mk3_1_2_v4_50", "mk6_0_1", "05"}),  # what it starts from belongs to notebook 04
        ("0", {PREPROCESS, "mk2", "mk3_1_2_v4_50", "mk6_0_1", "03", "04", "05", "09"}),
    ],
)
def test_only_some_notebooks_and_the_trainings_they_tell_of(only, expected):
    steps = steps_of("mk2,mk6_0_1")
    wanted = plan.wanted_steps(steps, plan.chosen_notebooks(steps, only))
    assert {s.name if isinstance(s, TrainingStep) or s.name == PREPROCESS else s.name[:2] for s in wanted} == expected


@pytest.mark.parametrize("only", ["06", "00,05", "00,", "09_evalution", "mk1"])
def test_only_an_unknown_notebook_lists_what_there_is(only):
    with pytest.raises(MrictError, match=r"unknown notebook '.*allowed: 00_preprocess_and_mask, 02_pix2pix_mk1"):
        plan.chosen_notebooks(steps_of("mk1"), only)


# ------------------------------------------------------------------------------------------------------ when is it done


@pytest.fixture
def copied(tmp_path, monkeypatch) -> Path:
    """Copies of the notebooks that may be changed."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    monkeypatch.setattr(plan, "NOTEBOOKS", tmp_path / "notebooks")
    return tmp_path / "notebooks"


def keys_of(steps: list[Step], space: Workspace) -> dict[str, str]:
    keys: dict[str, str] = {}
    for step in steps:
        keys[step.name] = plan.step_key(step, keys, space)
    return keys


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """Return what changed: trainings by their names, notebooks by their numbers."""
    return {name[:2] if name[0].isdigit() else name for name in before if before[name] != after[name]}


def test_keys_change_with_notebook_parameters_experiment_and_code(copied, monkeypatch):
    space = workspace("smoke")
    steps = steps_of("mk1,mk6_0_1", space)
    before = keys_of(steps, space)
    assert keys_of(steps_of("mk1,mk6_0_1", space), space) == before

    with (copied / "02_pix2pix.ipynb").open("a") as file:
        file.write("\n")
    assert changed(before, keys_of(steps, space)) == {"02", "04"}  # nobody reads what they write

    before = keys_of(steps, space)
    by_name = {step.name: step for step in steps}
    other_seed = by_name["mk1"].parameters | {"seed": 43}
    others = [dataclasses.replace(s, parameters=other_seed) if s.name == "mk1" else s for s in steps]
    assert changed(before, keys_of(others, space)) == {"mk1", "02", "09", "10", "11"}

    parent = with_values(by_name["mk6_0_1"].chain[0], {"method.gradient_penalty": 1.0})
    chains = {"mk3_1_2_v4_50": (parent,), "mk6_0_1": (parent, by_name["mk6_0_1"].chain[1])}
    others = [dataclasses.replace(s, chain=chains[s.name]) if s.name in chains else s for s in steps]
    assert changed(before, keys_of(others, space)) == {"mk3_1_2_v4_50", "mk6_0_1", "04", "05", "09", "10", "11"}

    monkeypatch.setattr(plan, "code_hash", lambda: "other code")
    assert changed(before, keys_of(steps, space)) == {name[:2] if name[0].isdigit() else name for name in before}


def test_minutes_belong_to_the_key_of_every_training():
    space = workspace("smoke")

    def keys(minutes: float | None) -> dict[str, str]:
        return keys_of(plan.plan(select("mk1"), space, plan.load_parameters("smoke"), minutes=minutes), space)

    assert keys(None) == keys_of(plan.plan(select("mk1"), space, plan.load_parameters("smoke")), space)
    assert changed(keys(None), keys(2.0)) == changed(keys(2.0), keys(3.0)) == {"mk1", "02", "09", "10", "11"}


def test_tables_are_made_again_where_evaluate_changed_the_scores_they_tell_of(fresh_space):
    steps = steps_of("mk1", fresh_space)

    def hashes(mae: str) -> dict[str, str]:
        write_csv(fresh_space.metrics / "mk1.csv", pd.DataFrame({"patient": ["1BA001"], "mae_hu": [mae]}))
        return {step.name: plan.scores_hash(step, steps, fresh_space) for step in steps}

    first = hashes("403.8")
    assert hashes("403.8") == first
    assert changed(first, hashes("449.0")) == {"02", "09", "10", "11"}


@pytest.mark.parametrize("change", ["voxels", "another patient", "one patient less"])
@pytest.mark.parametrize("linked", [False, True], ids=["folders", "links"])
def test_keys_change_with_the_data(cohort, tmp_path, change, linked):
    """Patients may be links to folders elsewhere."""
    source, folder = tmp_path / "source", tmp_path / "patients"
    shutil.copytree(cohort / "Task1" / "brain", source)
    patients = sorted(source.iterdir())[:4]
    folder.mkdir()
    for patient in patients[:3]:
        (folder / patient.name).symlink_to(patient) if linked else shutil.copytree(patient, folder / patient.name)
    space = workspace("smoke", folder)
    steps = steps_of("mk1", space)
    before = keys_of(steps, space)
    (folder / ".cache").write_text("not data")
    assert keys_of(steps, space) == before
    if change == "voxels":
        shutil.copy(patients[1] / "ct.nii.gz", folder / patients[0].name / "ct.nii.gz")
    elif change == "another patient":
        (folder / patients[3].name).symlink_to(patients[3])
    else:
        place = folder / patients[0].name
        place.unlink() if linked else shutil.rmtree(place)
    assert changed(before, keys_of(steps, space)) == {"00", "mk1", "02", "09", "10", "11"}


def test_misspelt_parameter_is_refused():
    plan.check_parameters(PREPROCESS, ["profile", "data_dir", "strict"])
    with pytest.raises(MrictError, match=r"unknown parameter of 00_preprocess_and_mask 'sed': did you mean 'seed'\?"):
        plan.check_parameters(PREPROCESS, ["profile", "sed"])


def test_suite_checks_its_parameters_before_it_runs(copied, fresh_space):
    path = copied / "02_pix2pix.ipynb"
    path.write_text(path.read_text().replace("protocol: str", "protokol: str"))
    with pytest.raises(MrictError, match="did you mean 'protokol'"):
        suite.run_suite("smoke", str(fresh_space.data_dir), variants="mk1", say=lambda line: None)
    assert not fresh_space.executed.exists()


@pytest.mark.parametrize(
    ("profile", "data", "gpu", "expected", "why"),
    [
        ("", "", False, "demo", ""),
        ("", "", True, "demo", ""),
        ("", "{data}", False, "cpu", " (there is no GPU)"),
        ("", "{data}", True, "full", " (there is a GPU)"),
        ("smoke", "{data}", True, "smoke", ""),
    ],
)
def test_profile_and_variants_by_data_and_machine(fresh_space, monkeypatch, profile, data, gpu, expected, why):
    """With a preparation that ends the run, so that only the plan is made."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(suite, "run_in_order", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    planned, lines = [], []
    monkeypatch.setattr(
        suite, "plan", lambda found, *rest, **more: planned.extend(found) or plan.plan(found, *rest, **more)
    )
    with pytest.raises(KeyboardInterrupt):
        suite.run_suite(profile, data.format(data=fresh_space.data_dir), say=lines.append)
    assert lines[0].startswith(f"MRICT suite: profile {expected}{why}, {len(planned)} trainings, ")
    assert ("budget: 20 minutes for each training" in lines) == (expected == "cpu")
    own = suite.BEST
    small = expected in ("demo", "smoke")
    others = select(f"readme,{own},{suite.NEWER}" if small else f"{own},pix2pix_paper,unet_l1")
    assert {v.name for v in planned} == {v.name for v in others}


def test_profile_without_a_parameter_file_says_which():
    with pytest.raises(MrictError, match=r"params/none\.yaml: not found"):
        plan.load_parameters("none")


# ------------------------------------------------------------------------------------------------------------- in order


def step(name: str, *needs: str) -> Step:
    return Step(name, name, {}, needs, ())


@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_steps_wait_for_what_they_need(jobs):
    steps = [step("a"), step("b"), step("c", "a"), step("d", "a", "b"), step("e", "d", "c")]
    done: list[str] = []
    missing: list[str] = []

    def run(item: Step) -> None:
        missing.extend(set(item.needs) - set(done))
        time.sleep(0.01)
        done.append(item.name)

    execute.run_in_order(steps, run, jobs)
    assert sorted(done) == list("abcde")
    assert missing == []


def test_needs_outside_the_chosen_steps_do_not_block():
    done: list[str] = []
    execute.run_in_order([step("b", "a")], lambda item: done.append(item.name), 2)
    assert done == ["b"]


def test_a_step_waits_for_what_the_steps_left_out_would_have_needed():
    steps = plan._all_needs([step("a"), step("b", "a"), step("c", "b"), step("d", "c", "a")])
    assert [set(s.needs) for s in steps] == [set(), {"a"}, {"a", "b"}, {"a", "b", "c"}]
    done: list[str] = []
    execute.run_in_order([s for s in steps if s.name in "ad"], lambda item: done.append(item.name), 2)
    assert done == ["a", "d"]


def test_up_to_jobs_steps_run_at_a_time():
    together = threading.Barrier(2, timeout=10)  # passed by two at once only
    running: list[str] = []
    most: list[int] = []

    def run(item: Step) -> None:
        running.append(item.name)
        together.wait()
        most.append(len(running))
        running.remove(item.name)

    execute.run_in_order([step(name) for name in "abcdef"], run, 2)
    assert len(most) == 6
    assert max(most) == 2


def test_long_trainings_start_before_others():
    steps = [s for s in steps_of("mk1,mk2,mk7_0,cyclegan_mk1") if isinstance(s, TrainingStep)]
    done: list[str] = []
    execute.run_in_order(steps, lambda item: done.append(item.name), 1)
    assert done == ["mk7_0", "mk1", "mk2", "cyclegan_mk1"]


def test_longest_chains_run_first():
    done: list[str] = []
    steps = [step("a"), step("b"), step("c", "b"), step("d", "c")]
    assert execute.chain_lengths(steps) == {"a": 1, "b": 3, "c": 2, "d": 1}
    execute.run_in_order(steps, lambda item: done.append(item.name), 1)
    assert done == ["b", "c", "a", "d"]


def test_first_failure_stops_what_has_not_begun():
    both, failed = threading.Barrier(2, timeout=10), threading.Event()
    done: list[str] = []

    def run(item: Step) -> None:
        if item.name in "ab":
            both.wait()
        if item.name == "a":
            failed.set()
            raise MrictError("a went wrong")
        assert failed.wait(10)
        done.append(item.name)

    with pytest.raises(MrictError, match="a went wrong"):
        execute.run_in_order([step("a"), step("b"), step("c", "a"), step("d"), step("e")], run, 2)
    assert done == ["b"]


# ------------------------------------------------------------------------------------------------ one notebook for real


def tiny_notebook(folder: Path, code: str) -> None:
    cells = [nbformat.v4.new_code_cell('word: str = "unset"\nforce: bool = False'), nbformat.v4.new_code_cell(code)]
    cells[0].metadata["tags"] = ["parameters"]
    like = nbformat.read(ROOT / "notebooks" / f"{EVALUATION}.ipynb", 4).metadata
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=like), folder / "tiny.ipynb")


def run_tiny(folder: Path, code: str, monkeypatch) -> Path:
    monkeypatch.setattr(plan, "NOTEBOOKS", folder)
    tiny_notebook(folder, code)
    target = folder / "out" / "tiny__one.ipynb"
    try:
        execute.execute(Step("tiny__one", "tiny", {"word": "given"}, (), ()), target, force=True)
    finally:
        assert [p.name for p in (folder / "out").iterdir() if p != target] == []
    return target


def test_notebook_is_executed_with_its_parameters(tmp_path, monkeypatch):
    folder = tmp_path / "with {braces}"
    folder.mkdir()
    target = run_tiny(folder, "import os\nprint(word, force, os.getcwd())", monkeypatch)
    text = "".join(output.text for output in nbformat.read(target, 4).cells[-1].outputs)
    assert text.splitlines()[-1] == f"given True {ROOT}"


def test_failing_notebook_names_step_cell_and_error(tmp_path, monkeypatch):
    code = "print('before')\nraise ValueError('too few slices\\nsecond line')"
    with pytest.raises(MrictError) as caught:
        run_tiny(tmp_path, code, monkeypatch)
    target = tmp_path / "out" / "tiny__one.ipynb"
    assert str(caught.value) == (
        f"tiny__one: cell [3] failed with ValueError: too few slices (executed copy: {target})"
    )
    (cell,) = (cell for cell in nbformat.read(target, 4).cells if cell.get("execution_count") == 3)
    assert [output.output_type for output in cell.outputs] == ["stream", "error"]
    assert cell.outputs[1].evalue == "too few slices\nsecond line"


def test_notebook_whose_process_dies_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(MrictError, match=r"^tiny__one: its process was killed, .*memory.*--jobs 1") as caught:
        run_tiny(tmp_path, "import os\nos.kill(os.getpid(), 9)", monkeypatch)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "out" / "tiny__one.ipynb").is_file()


def test_interrupted_notebook_is_put_away(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        run_tiny(tmp_path, "raise KeyboardInterrupt", monkeypatch)
    assert not (tmp_path / "out" / "tiny__one.ipynb").exists()


def test_executed_copies_of_former_notebooks_are_removed_and_named(tmp_path):
    """Trainings have a stamp and no notebook; a notebook without a stamp is the user's own."""
    kept = {f"{PREPROCESS}.ipynb", f"{PREPROCESS}.json", "mk1.json", "06_mine.ipynb"}
    kept |= {"03_pix2pix_mk2.ipynb", "03_pix2pix_mk2.json"}  # of the notebook that tells three stages
    for name in (*kept, "06_evaluation.ipynb", "06_evaluation.json"):
        (tmp_path / name).touch()
    said: list[str] = []
    execute.remove_former(tmp_path, said.append)
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert [line.partition(": ")[0].rpartition("/")[2] for line in said] == ["06_evaluation.ipynb"]


def wait_for(path: Path) -> str:
    """Return the text of a file that another process writes, once it is there."""
    until = time.monotonic() + 120
    while not path.is_file() or not path.read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
    return path.read_text()


def test_ctrl_c_ends_a_running_cell(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "NOTEBOOKS", tmp_path)
    tiny_notebook(tmp_path, f"import time\nopen({str(tmp_path / 'begun')!r}, 'w').write('yes')\ntime.sleep(60)")
    target, begun = tmp_path / "out" / "tiny.ipynb", []

    def press() -> None:
        wait_for(tmp_path / "begun")
        begun.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    with pytest.raises(KeyboardInterrupt):
        execute.run_in_order([step("tiny"), step("after", "tiny")], lambda s: execute.execute(s, target), 2)
    assert time.monotonic() - begun[0] < 15
    assert list(target.parent.iterdir()) == []


KILLED = """
import importlib, sys
from pathlib import Path
execute, plan = (importlib.import_module(f"mrict_core.suite.{name}") for name in ("execute", "plan"))
plan.NOTEBOOKS = Path(sys.argv[1])
execute.execute(plan.Step("tiny", "tiny", {}, (), ()), Path(sys.argv[1]) / "out" / "tiny.ipynb")
"""


def test_kill_9_of_the_suite_ends_its_kernels_and_their_workers(tmp_path):
    tiny_notebook(
        tmp_path,
        "import os, time\nfrom concurrent.futures import ProcessPoolExecutor\nfrom multiprocessing import get_context\n"
        "from mrict_core.machine import end_with_parent\n"
        "pool = ProcessPoolExecutor(1, mp_context=get_context('spawn'), initializer=end_with_parent)\n"
        f"pool.submit(pow, 1, 1).result()\nopen({str(tmp_path / 'begun')!r}, 'w').write('yes')\ntime.sleep(60)",
    )
    process = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], cwd=ROOT, start_new_session=True)
    try:
        wait_for(tmp_path / "begun")
        children = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
        process.wait()
    assert len(children) >= 2  # a kernel and its worker
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert all(path.name.startswith(".new-tiny") for path in (tmp_path / "out").iterdir())


def test_output_that_cannot_be_written_is_one_line(fresh_space, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MRICT_REPORTS", str(tmp_path / "file" / "below"))
    with pytest.raises(MrictError, match=r"executed.*: cannot be written \(Not a directory\)"):
        suite.run_suite("smoke", str(fresh_space.data_dir), variants="mk1", say=lambda line: None)


@pytest.mark.parametrize(("rows", "status"), [([], 0), ([{"patient": "=1BA001", "reason": "CT not in HU"}], 1)])
def test_data_left_out_are_said_in_the_last_line_and_by_the_status(fresh_space, monkeypatch, rows, status):
    write_csv(fresh_space.reports / "skipped.csv", pd.DataFrame(rows, columns=["patient", "reason"]))
    monkeypatch.setattr(suite, "run_suite", lambda *_, **__: fresh_space)
    done = CliRunner().invoke(cli.app, ["suite", "--profile", "smoke", "--data", str(fresh_space.data_dir)])
    assert done.exit_code == status
    assert (done.output.splitlines()[-1:] or [""])[0].startswith("left out:    1 of the data" if rows else "")
    assert ("skipped.csv" in done.output) == bool(rows)


# ------------------------------------------------------------------------------------------------------ the whole suite

STEPS = (
    *(PREPROCESS, "mk3_1_2_v4_50", "mk6_0_1", "04_pix2pix_mk3", "05_pix2pix_mk6"),
    *(EVALUATION, REPORT, SYNTHESIS),
)


def leftovers(root: Path) -> list[str]:
    """Hidden files and folders under `root`; lock files stay by intent, they are free when nobody holds them."""
    return [str(p.relative_to(root)) for p in root.rglob("*") if p.name.startswith(".") and p.name != ".lock"]


def times(root: Path) -> dict[str, int]:
    return {str(p.relative_to(root)): p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}


class Suite:
    """The suite on a cohort: interrupted in its first training, then run again to its end."""

    def __init__(self, root: Path, cohort: Path) -> None:
        self.root, self.cohort = root, cohort
        self.space = workspace("smoke", str(cohort))
        self.interrupt()
        self.lines = self.run()

    def run(self, **options: object) -> list[str]:
        said: list[str] = []
        suite.run_suite("smoke", str(self.cohort), variants="mk6_0_1", jobs=1, say=said.append, **options)
        return said

    def interrupt(self) -> None:
        command = [sys.executable, "-m", "mrict_core", "suite", "--profile", "smoke"]
        command += ["--data", str(self.cohort), "--variants", "mk6_0_1"]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.begun = []
        try:
            for line in process.stdout:
                self.begun.append(line.strip())
                if " epoch 1/1" in line:
                    break
            self.kernels = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
            started = time.monotonic()
            self.output, self.errors = process.communicate(timeout=60)
            self.seconds = time.monotonic() - started
        finally:
            process.kill()
        self.code = process.returncode
        self.survivors = psutil.wait_procs(self.kernels, timeout=10)[1]
        self.left = leftovers(self.root)
        self.executed = sorted(p.name for p in self.space.executed.iterdir() if p.name != ".lock")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cohort) -> Suite:
    root = tmp_path_factory.mktemp("suite")
    with pytest.MonkeyPatch.context() as patch:
        for name in ROOTS:
            patch.setenv(name, str(root / name.lower()))
        yield Suite(root, cohort)


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_half_written(finished):
    assert finished.code == 130
    assert "Traceback" not in finished.errors
    assert "interrupted; finished results are kept" in finished.errors
    assert finished.kernels
    assert finished.survivors == []
    assert finished.left == []
    assert finished.executed == [f"{PREPROCESS}.ipynb", f"{PREPROCESS}.json"]
    assert finished.seconds < 15


@pytest.mark.slow
def test_the_run_after_it_completes(finished):
    space = finished.space
    steps = [re.sub(r"^\[ ?\d+/8\] ", "", line) for line in finished.lines if line.startswith("[")]
    assert steps[0] == f"{PREPROCESS}: unchanged"
    assert [line.split(":")[0] for line in steps if ": done in" in line][:2] == list(STEPS[1:3])
    assert {line.split(":")[0] for line in steps if ": done in" in line} == set(STEPS[1:])
    board = pd.read_csv(space.reports / "leaderboard.csv")
    trained = board[board["kind"] == "variant"]
    assert set(trained["name"]) == {"mk3_1_2_v4_50", "mk6_0_1"}
    assert trained["mae_hu"].between(0, 4024).all()
    assert (board["kind"] == "baseline").sum() == 3
    assert set(board["label"]) == {"smoke test"}
    for name in ("mk3_1_2_v4_50", "mk6_0_1"):
        record = read_json(space.metrics / f"{name}.json")
        assert len(record["patients"]) == record["context"]["test_patients"]
        assert len(pd.read_csv(space.metrics / f"{name}.csv")) == len(record["patients"])
        assert (space.figures / f"{name}_samples.png").stat().st_size > 10_000
        assert (space.figures / f"{name}_curves.png").is_file()
    assert (space.reports / "leaderboard.md").is_file()
    prefixes = {p.name[:3] for p in space.figures.glob("*.png") if p.name[0].isdigit()}
    assert prefixes == {"00_", "05_", "09_", "10_", "11_"}
    assert '<section id="leaderboard"' in (space.reports / "index.html").read_text(encoding="utf-8")
    assert {p.stem for p in space.figures.glob("*.pdf")} == {p.stem for p in space.figures.glob("*.png")}
    tables = ("summary", "comparisons", "centres", "leave_out", "predecessor", "controls")
    assert all(len(pd.read_csv(space.reports / f"{name}.csv")) for name in tables)
    record = read_json(space.metrics / "mk6_0_1.json")
    assert record["predecessor"]["networks"] == {"fid": "demo_features", "vgg": "demo_features"}
    assert all(score["value"] is None and "downloads nothing" in score["reason"] for score in record["features"])
    for name in STEPS:
        assert read_json(space.executed / f"{name}.json")["key"]
    assert sorted(p.stem for p in space.executed.glob("*.ipynb")) == sorted(s for s in STEPS if s[0].isdigit())
    for name in (step for step in STEPS if step[0].isdigit()):
        for cell in nbformat.read(space.executed / f"{name}.ipynb", 4).cells:
            assert cell.cell_type != "code" or cell.execution_count
    assert leftovers(finished.root) == []


@pytest.mark.slow
def test_second_run_finds_everything_done(finished):
    before = times(finished.root)
    lines = [line for line in finished.run() if line.startswith("[")]
    assert sorted(lines) == [f"[{k:2d}/8] {name}: unchanged" for k, name in enumerate(STEPS, start=1)]
    assert times(finished.root) == before


@pytest.mark.slow
def test_missing_table_is_made_again_from_the_checkpoint(finished):
    """Nothing that the other steps depend on has changed, so they stay as they are; training is not repeated."""
    path = finished.space.metrics / "mk6_0_1.json"
    before, record = times(finished.root), read_json(path)
    path.unlink()
    lines = [line for line in finished.run() if line.startswith("[")]
    finished_anew = [line.split(": done in")[0] for line in lines if ": done in" in line]
    assert finished_anew == [f"[ 3/8] {STEPS[2]}"]
    assert sum("unchanged" in line for line in lines) == 7
    assert read_json(path) == record
    after = times(finished.root)
    written = {name for name in after if after[name] != before[name]}
    assert {Path(name).stem for name in written} == {"mk6_0_1"}  # its record, table and stamp; its seed's is reused
    assert not [name for name in written if name.endswith(".pt")]


@pytest.mark.slow
def test_a_single_variant_through_its_notebook(fresh_space):
    """What it starts from is trained too, also where it belongs to another notebook."""
    said: list[str] = []
    suite.run_suite("smoke", str(fresh_space.data_dir), variants="mk6_2_1", only="05", say=said.append)
    done = [re.search(r"\] (\w+): done in", line) for line in said]
    assert [match[1] for match in done if match] == ["mk3_1_2_v4_50", "mk6_1_1", "mk6_2_1", "05_pix2pix_mk6"]
    for name in ("mk6_2_1.json", "mk6_2_1.csv"):
        assert (fresh_space.metrics / name).is_file()
    for name in ("mk6_2_1_curves.png", "mk6_2_1_samples.png"):
        assert (fresh_space.figures / name).is_file()
    assert [p.name for p in fresh_space.executed.glob("*.ipynb")] == ["05_pix2pix_mk6.ipynb"]
    assert not (fresh_space.reports / "leaderboard.csv").exists()


@pytest.mark.slow
def test_one_patient_is_prepared_and_then_clearly_too_few(tmp_path, monkeypatch):
    for name in ROOTS:
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    write_patient(tmp_path / "one" / "1BA001", seed=1)
    said: list[str] = []
    with pytest.raises(MrictError, match=r"one: too few usable patients .*; add patients and run again$") as caught:
        suite.run_suite("smoke", str(tmp_path / "one"), variants="mk1", say=said.append)
    assert "\n" not in str(caught.value)
    space = workspace("smoke", tmp_path / "one")
    assert (space.executed / f"{PREPROCESS}.ipynb").is_file()
    assert (space.figures / "00_pairs.png").is_file()
    assert not any("mk1" in line for line in said)
    cells = nbformat.read(space.executed / f"{PREPROCESS}.ipynb", 4).cells
    printed = [output.get("text", "") for cell in cells for output in cell.get("outputs", [])]
    assert any(
        "no split: 1 usable patient(s); training, validation and test need at least 3" in text for text in printed
    )
