"""The ablation benchmark: its people, its budgets, the arithmetic of its table, and going on after an interruption."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import typer
from click.testing import Result
from conftest import write_slice
from typer.testing import CliRunner

from benchmarks import quality
from benchmarks.__main__ import main
from benchmarks.quality import AXIAL, BASE, PHANTOM_ROWS, REFERENCES, ROWS, Row, Study, table
from mrict_core.data.images.orders import PLANES
from mrict_core.data.splits import load_split
from mrict_core.errors import MrictError
from mrict_core.experiments import lineage
from mrict_core.experiments.profiles import get_profile
from mrict_core.experiments.schema import differing
from mrict_core.methods import check
from mrict_core.paths import workspace

PEOPLE = [f"1B{centre}{number:03d}" for centre in "ABC" for number in range(1, 5)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """The middle slices of twelve people in two planes."""
    root = tmp_path_factory.mktemp("slices")
    for plane in ("axial", "coronal"):
        for seed, person in enumerate(PEOPLE):
            write_slice(root / plane / "Task1" / "brain" / person, plane, seed)
    return [root / "axial", root / "coronal"]


@pytest.fixture
def study(folders, tmp_path, monkeypatch) -> Study:
    """Three rows on these people, in folders of their own."""
    for name in quality.FOLDERS:
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    profile = dataclasses.replace(quality.REAL, widths={"residual_unet": 4}, epochs_max=2, batch_size=4)
    rows = (Row(BASE), Row("axial slices only", images=AXIAL), Row("test-time flips", flips=True))
    return Study("slices", profile, workspace("quality", folders), rows, (0,), 0.01, "float32")


@pytest.mark.parametrize(
    "row", [row for row in (*REFERENCES, *ROWS, *PHANTOM_ROWS) if row.trained], ids=lambda row: row.name
)
def test_every_row_can_be_trained_and_changes_what_it_says(row):
    for experiment in lineage(row.experiment):
        check(experiment)
    changed = differing(row.experiment, quality.get(row.of))
    paths = [path for path in changed if not any(path.startswith(w.removesuffix("weight")) for w in row.changes)]
    assert paths == []
    assert bool(changed) == bool(row.changes)


def test_rows_have_names_and_files_of_their_own():
    for rows in (REFERENCES, ROWS, PHANTOM_ROWS):
        assert len({row.file for row in rows}) == len(rows)
    assert {row.name for row in (*REFERENCES, *ROWS, *PHANTOM_ROWS)}.issuperset(quality.QUICK)


def test_the_people_kept_out_are_in_no_training(study):
    store = study.prepare()
    every, axial = (load_split(study.place(row).split_file) for row in study.rows[:2])
    assert axial.test == every.test
    assert {store.plane(p) for p in (*axial.train, *axial.val)} == {"axial"}
    assert set(axial.train) == {p for p in every.train if store.plane(p) == "axial"}
    people = [{store.subjects()[p] for p in part} for part in (every.train, every.val, every.test)]
    assert sorted(person for part in people for person in part) == PEOPLE  # each in one part
    assert {person[2] for person in people[2]} <= set("ABC")


def test_144_people_give_29_to_test():
    centres = {f"1B{centre}{k:03d}": centre for centre in "ABC" for k in range(48)}
    split = quality.make_split(centres, quality.SPLIT_SEED, fractions=quality.FRACTIONS)
    assert [len(part) for part in (split.train, split.val, split.test)] == [101, 14, 29]
    assert split.test == quality.make_split(centres, quality.SPLIT_SEED).test  # of the suite's default split


def test_a_row_that_exists_is_not_trained_again_and_an_interrupted_one_goes_on(study, monkeypatch):
    study.prepare()
    study.measure()
    paces = (study.space.checkpoints / "pace.json").read_text()
    real_train = quality.train
    monkeypatch.setattr(quality, "train", lambda *a, **k: real_train(*a, **k, stop_after=1))
    interrupted = quality.trained(study, study.base, 0)
    monkeypatch.setattr(quality, "train", real_train)
    histories = list(study.space.checkpoints.glob("*/seed0-*/history.csv"))
    assert [len(path.read_text().splitlines()) for path in histories] == [2]  # heading, one round
    base = quality.results(study, (study.base, study.rows[2]), 0)
    assert [len(path.read_text().splitlines()) for path in histories] == [3]
    assert base[BASE]["steps"] == study.steps(study.base)[0][1] == interrupted[2]["steps"]
    assert base[BASE]["images"] != base["test-time flips"]["images"]
    assert {image["plane"] for image in base[BASE]["images"]} == {"axial", "coronal"}

    def no_more(*_, **__):
        raise AssertionError("was to be reused")

    monkeypatch.setattr(quality, "score_patients", no_more)
    monkeypatch.setattr(quality, "_cost", no_more)
    study.measure()
    assert quality.results(study, (study.base, study.rows[2]), 0) == base
    assert (study.space.checkpoints / "pace.json").read_text() == paces


def test_a_chain_shares_one_budget(study, monkeypatch):
    monkeypatch.setattr(Study, "pace", lambda *_: {"step_s": 0.5, "before_s": 0.0})
    row = Row("mk6_3_4", of="mk6_3_4")
    steps = dataclasses.replace(study, minutes=10).steps(row)
    assert [experiment.name for experiment, _ in steps] == [one.name for one in lineage("mk6_3_4")]
    assert sum(count for _, count in steps) == pytest.approx(1200, abs=len(steps))
    assert steps[0][1] / steps[-1][1] == pytest.approx(steps[0][0].epochs / steps[-1][0].epochs, rel=0.02)


def test_what_a_loss_learns_first_counts(study, monkeypatch):
    monkeypatch.setattr(Study, "pace", lambda *_: {"step_s": 1.0, "before_s": 20.0})
    assert [count for _, count in dataclasses.replace(study, minutes=1).steps(study.base)] == [40]
    with pytest.raises(MrictError, match="give more --minutes"):
        dataclasses.replace(study, minutes=0.3).steps(study.base)
    study.prepare()
    found = quality.result(dataclasses.replace(study, minutes=0.3), study.base, 0)
    assert "mk7_0" in found["problem"]


# ----------------------------------------------------------------------------------------------------------- the table


def images(**errors: tuple[float, float]) -> dict:
    """Return a result with an axial and a coronal image of each person."""
    return {
        "steps": 7,
        "cpu_minutes": 1.0,
        "cpu_s_per_step": 0.5,
        "images": [
            {"person": person, "plane": plane, "mae_hu": hu, "dice_bone_250": 0.5, "ssim": 0.9, "psnr_db": 30.0}
            for person, pair in errors.items()
            for plane, hu in zip(("axial", "coronal"), pair, strict=True)
        ],
    }


def test_the_table_averages_planes_people_and_seeds(study):
    rows = table(
        dataclasses.replace(study, seeds=(0, 1)),
        {
            (BASE, 0): images(a=(10.0, 30.0), b=(40.0, 40.0)),  # people 20, 40
            (BASE, 1): images(a=(20.0, 40.0), b=(50.0, 50.0)),  # people 30, 50
            ("test-time flips", 1): images(a=(10.0, 30.0), b=(40.0, 40.0)),
        },
    )
    base, flips = rows
    assert (base["seeds"], flips["seeds"]) == (2, 1)
    assert base["mae_hu"] == 35
    assert base["mae_axial_hu"] == 30
    assert base["mae_hu_seeds_sd"] == pytest.approx(50**0.5)
    assert base["people_mae_hu"] == [25, 45]
    assert base["seeds_mae_hu"] == [30, 40]
    assert (base["mean_difference_hu"], base["p_holm"]) == (None, None)
    assert flips["mean_difference_hu"] == -10  # against the same seed alone
    assert flips["mae_hu_seeds_sd"] is None
    assert (base["steps"], base["cpu_s_per_step"], base["dice_bone_250"]) == (7, 0.5, 0.5)


def test_p_is_corrected_for_the_number_of_rows_and_told_in_words(study):
    people = [f"p{k}" for k in range(8)]
    rows = (Row(BASE), Row("worse"), Row("better"), Row("alike"), Row("water", of="baseline_water_body"))
    errors = {
        BASE: [50.0 + k for k in range(8)],
        "worse": [60.0 + 2 * k for k in range(8)],
        "better": [40.0 - k for k in range(8)],
        "alike": [50.0 + k + (k + 1) * (-1) ** k for k in range(8)],
        "water": [200.0 + 3 * k for k in range(8)],
    }
    found = {
        (name, seed): images(**{person: (hu, hu) for person, hu in zip(people, values, strict=True)})
        for name, values in errors.items()
        for seed in (0, 1)
        if name != "water" or seed == 0
    }
    made = table(dataclasses.replace(study, rows=rows, seeds=(0, 1)), found)
    p = {row["case"]: row["p_holm"] for row in made}
    assert p["worse"] == p["better"] == p["water"] == pytest.approx(4 * 2 / 2**8)
    assert p["alike"] > 0.5
    assert quality.notes(made) == [
        "**slices**, against mk7_0 (p below 0.05 counts). Less error: better. More error: worse, water. "
        "No difference found: alike."
    ]
    json.dumps(made, allow_nan=False)
    axis = quality.figure(made).axes[-1]
    assert [label.get_text() for label in axis.get_yticklabels()] == list(errors)


def test_a_training_that_fails_is_named(study):
    found = {(BASE, 0): images(a=(10.0, 30.0)), ("test-time flips", 0): {"problem": "collapsed in epoch 1"}}
    row = table(study, found)[1]
    assert row["problem"] == "seed 0: collapsed in epoch 1"
    assert (row["seeds"], row["mae_hu"], row["p_holm"]) == (0, None, None)


# ------------------------------------------------------------------------------------------------------------- the run


def run(*words: str) -> Result:
    """Run `python -m benchmarks` here; test_benchmarks.py starts it as a process."""
    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, words)


def test_the_quick_run_writes_table_and_figure(folders, tmp_path, monkeypatch):
    for name in quality.FOLDERS:
        monkeypatch.setenv(name, "replaced by --work")
    smoke = get_profile("smoke")  # narrow networks and small phantoms: steps of milliseconds
    scale = {"width": smoke.width, "widths": {"residual_unet": smoke.width}}
    scale |= {name: getattr(smoke, name) for name in ("phantom_in_plane_mm", "phantom_slice_mm")}
    for name in ("REAL", "PHANTOMS"):
        monkeypatch.setattr(quality, name, dataclasses.replace(getattr(quality, name), **scale))
    command = ["--only", "quality", "--quick", "--minutes", "0.05"]
    command += ["--work", str(tmp_path / "work"), "--output", str(tmp_path)]
    command += [part for folder in folders for part in ("--data", str(folder))]
    done = run(*command)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "quality_quick.json").read_text())
    assert [(row["data"].split(", ")[-1], row["case"]) for row in found["rows"]] == [
        *(("0.05 CPU minutes", name) for name in (BASE, "unet_l1", "water")),
        *(("0.005 CPU minutes", name) for name in (BASE, "slab of 5")),
        *(("0.005 CPU minutes", name) for name in (BASE, "no EMA")),
    ]
    assert [row["problem"] for row in found["rows"] if "problem" in row] == []
    assert all(row["mae_hu"] > 0 for row in found["rows"])
    text = (tmp_path / "quality_quick.md").read_text()
    assert "No difference found" in text
    assert (tmp_path / "quality_quick.png").stat().st_size > 10_000


def test_whole_volumes_are_refused(cohort, study):
    with pytest.raises(MrictError, match="10 slices; expected volumes one voxel thick"):
        dataclasses.replace(study, space=workspace("quality", cohort)).prepare()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "quality", "--minutes", "0", "--data", "tests"], "--minutes 0: expected CPU time above 0"),
        (["--only", "quality", "--data", "nowhere"], "no such folder"),
        (["--only", "scores", "--minutes", "3"], "--minutes: of the benchmark quality"),
    ],
)
def test_bad_options_are_one_line(arguments, message, tmp_path):
    done = run(*arguments, "--output", str(tmp_path))
    assert done.exit_code == 1
    assert message in done.stdout.strip().splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_without_data_it_says_how_to_give_some(monkeypatch, tmp_path):
    monkeypatch.setattr(quality, "SAMPLES", tmp_path)
    assert "--data FOLDER" in quality.missing()
    for plane in PLANES:
        (tmp_path / f"synthrad_brain_{plane}").mkdir()
    assert quality.missing() == ""
