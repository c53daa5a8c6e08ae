"""Doses of the test patients: one plan for every model, kept results, outdated ones, the options of `evaluate`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import write_patient
from dose_cases import needs_pyradplan
from typer.testing import CliRunner

from mrict_core.cli import app
from mrict_core.dose import engine
from mrict_core.dose.study import DoseSettings
from mrict_core.errors import MrictError, UnavailableError
from mrict_core.experiments.profiles import get_profile
from mrict_core.files import read_csv, read_json, write_json
from mrict_core.pipeline import evaluate_baselines, model_doses, prepare_data
from mrict_core.pipeline.dose_runs import RECORD
from mrict_core.reporting.dose_text import dose_text

QUICK = DoseSettings(("protons",), grid_mm=5.0, targets=1)
WATER, MEAN = model_doses.BASELINES


@pytest.fixture(scope="module")
def tall(tmp_path_factory):
    """Three patients tall enough for a target, prepared; the scored baselines."""
    root = tmp_path_factory.mktemp("tall")
    for k in range(3):
        write_patient(root / "Task1" / "brain" / f"1BA{k:03d}", seed=k, shape=(30, 32, 22))
    space = prepare_data("smoke", str(root)).workspace
    records = model_doses.with_baselines([], evaluate_baselines(get_profile("smoke"), space))
    return space, records


def test_only_the_two_baselines_are_compared(tall):
    assert {record["name"] for record in tall[1]} == {WATER, MEAN}


@pytest.fixture(scope="module")
def computed(tall):
    space, records = tall
    said = []
    found = model_doses.evaluate_dose(space, records, QUICK, say=said.append)
    return space, records, found, said


@needs_pyradplan
def test_one_plan_serves_every_model(computed):
    space, _, found, said = computed
    assert sum("plan on the CT" in line for line in said) == 1  # one test patient, one modality
    assert sum("dose on baseline" in line for line in said) == 2
    assert sorted(found.rows["model"]) == sorted([WATER, MEAN])
    folder = model_doses.folder_of(space)
    assert {path.name for path in folder.iterdir()} >= {"dose.csv", "summary.json", "means.csv", "ranks.csv"}
    (record,) = (read_json(path) for path in folder.glob(f"*/{RECORD}"))
    assert set(record["measures"]) == {WATER, MEAN}
    assert (folder / record["case"] / "index.html").is_file()
    assert list(read_csv(folder / "means.csv")["name"]) == list(found.maes)
    assert "not for clinical use" in dose_text(found)


@needs_pyradplan
def test_what_is_there_is_kept_and_other_models_stay(computed):
    space, records, found, _ = computed
    said: list[str] = []
    again = model_doses.evaluate_dose(space, records[:1], QUICK, say=said.append)  # the other stays in the comparison
    assert set(again.maes) == set(found.maes)
    assert said == []


@needs_pyradplan
def test_doses_of_other_weights_or_data_are_not_shown(computed):
    space, records, _, _ = computed
    path = model_doses.folder_of(space) / model_doses.SUMMARY
    whole = read_json(path)
    try:
        write_json(path, whole | {"weights": {WATER: "other", MEAN: ""}})
        found = model_doses.read_doses(space, records)
        assert list(found.maes) == [MEAN]
        assert any(f"{WATER}: doses of other weights" in line for line in found.remarks)
        write_json(path, whole | {"data": ["other", "split"]})
        assert model_doses.read_doses(space, records) is None
        write_json(path, {"rows": 1})
        with pytest.raises(MrictError, match="not a summary of doses"):
            model_doses.read_doses(space, records)
    finally:
        write_json(path, whole)


def test_without_results_there_is_nothing_to_read(fresh_space):
    assert model_doses.read_doses(fresh_space, []) is None


def error_of(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["evaluate", "mk1", "--profile", "smoke", *arguments])
    assert isinstance(result.exception, MrictError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


@pytest.mark.parametrize("option", [("--modality", "protons"), ("--grid-mm", "4")])
def test_options_of_plans_need_dose(option):
    assert "expected --dose" in error_of(*option)


@pytest.mark.parametrize(
    ("options", "said"), [(("--modality", "electrons"), "electrons"), (("--grid-mm", "0.1"), "grid_mm 0.1")]
)
def test_wrong_plans_are_refused_before_anything_is_scored(options, said):
    assert said in error_of("--dose", *options)


def test_without_pyradplan_one_line_says_how_to_get_it(monkeypatch):
    def absent() -> str:
        raise UnavailableError(f"dose needs {engine.PACKAGE}; install it: {engine.INSTALL}")

    monkeypatch.setattr(engine, "version", absent)
    assert engine.INSTALL in error_of("--dose")
    assert engine.INSTALL in model_doses.dose_missing()
    result = CliRunner().invoke(app, ["suite", "--dose"])
    assert isinstance(result.exception, UnavailableError)


def test_the_rest_of_the_suite_never_imports_it():
    code = "import sys, mrict_core.pipeline.report, mrict_core.cli, mrict_core.suite; print('pyRadPlan' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_summary_is_plain_json(tall):
    space, records = tall
    text = json.dumps(model_doses._summary(space, records, QUICK, []))
    assert "not for clinical use" in text
