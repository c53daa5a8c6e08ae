"""Budgets as a user meets them: given by a command, said before a training, shown afterwards; profile cpu."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mrict_core import cli, machine
from mrict_core.errors import MrictError
from mrict_core.experiments import get
from mrict_core.experiments.profiles import MINUTES, PROFILES, get_profile
from mrict_core.files import read_json
from mrict_core.models.card import card_text
from mrict_core.models.catalogue import find
from mrict_core.models.folder import read_model
from mrict_core.paths import Workspace
from mrict_core.pipeline import evaluate_variant
from mrict_core.training import budget
from mrict_core.training.loop import train
from mrict_core.training.run import TrainSettings, prepare_run, spread
from mrict_core.training.runs import all_runs, table
from mrict_core.training.runs import budget as budget_of

SMOKE = get_profile("smoke")
THREE = dataclasses.replace(SMOKE, epoch_fraction=1.0, epochs_max=3)
MK1 = get("mk1")
FEW = TrainSettings(max_pairs=17, device="cpu")
QUIET = {"report": lambda line: None}


def invoke(*arguments: str):
    return CliRunner().invoke(cli.app, arguments)


def written(space: Workspace) -> list[Path]:
    return [path for path in (space.checkpoints, space.reports) if path.exists()]


TRAIN = ("train", "mk1", "--profile", "smoke", "--data", "{data}")
LEAVE = ("leave-one-centre-out", "mk1", "--profile", "smoke", "--data", "{data}")
SUITE = ("suite", "--profile", "smoke", "--data", "{data}", "--variants", "mk1")


@pytest.mark.parametrize("command", [TRAIN, (*TRAIN, "--lineage"), LEAVE], ids=" ".join)
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--minutes 1 --steps 5", "5 steps and 1 minutes: expected one budget; leave one out"),
        ("--steps 0", "a budget of 0 steps: expected at least 1; give more, or leave it out"),
        ("--minutes 0", "a budget of 0 minutes: expected more than 0, and finite; change or leave it out"),
        ("--minutes 1e308", "a budget of 1e+308 minutes: expected more than 0, and finite"),
        ("--minutes 1e-9", "1e-09 minutes are less than one step"),
    ],
)
def test_an_impossible_budget_is_one_line_and_nothing_is_written(fresh_space, command, given, expected):
    result = invoke(*(word.format(data=fresh_space.data_dir) for word in command), *given.split())
    assert isinstance(result.exception, MrictError), result.output
    assert expected in str(result.exception)
    assert "\n" not in str(result.exception)
    assert written(fresh_space) == []


def test_an_impossible_budget_of_the_suite_is_one_line(fresh_space):
    words = [word.format(data=fresh_space.data_dir) for word in SUITE]
    result = invoke(*words, "--minutes-per-variant", "0")
    assert isinstance(result.exception, MrictError), result.output
    assert "a budget of 0 minutes" in str(result.exception)
    assert written(fresh_space) == []


@pytest.mark.parametrize("given", ["--minutes ten", "--steps 1.5", "--steps ten"])
def test_what_is_no_number_is_a_usage_error(given):
    result = invoke(*TRAIN, *given.split())
    assert result.exit_code == 2
    assert given.split()[0] in result.stderr


def test_a_budget_is_kept_and_shown(fresh_space):
    words = [word.format(data=fresh_space.data_dir) for word in TRAIN]
    for given in ("--steps 3", "--minutes 0.02"):
        result = invoke(*words, "--max-pairs", "17", *given.split())
        assert result.exit_code == 0, result.output
    assert sorted(map(budget_of, (run.trained for run in all_runs()))) == ["0.02 minutes", "3 steps"]
    assert sorted(table(all_runs())["budget"]) == ["0.02 minutes", "3 steps"]
    assert "0.02 minutes" in invoke("runs").stdout
    record, _ = evaluate_variant(MK1, SMOKE, fresh_space, device="cpu", **QUIET)
    assert record["context"]["budget"] == "0.02 minutes"
    description = read_model(find("mk1"))
    assert "| `budget of the training` | 0.02 minutes |" in card_text(description, None)


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        ({}, ""),
        ({"settings": {"seed": 1}}, ""),
        ({"settings": {"steps": 7}}, "7 steps"),
        ({"settings": {"minutes": 2.5}}, "2.5 minutes"),
        ({"settings": {"minutes": 20.0}, "steps": 600}, "20 minutes"),
        ({"settings": {}, "steps": 600}, "600 steps"),
    ],
)
def test_a_budget_in_words(trained, expected):
    assert budget_of(trained) == expected


# ------------------------------------------------------------------------------------------------------ minutes for all


def test_the_profiles_minutes_are_those_of_a_training_without_a_budget(fresh_space):
    timed = dataclasses.replace(SMOKE, minutes=20.0)
    found = {
        "none": prepare_run(MK1, SMOKE, fresh_space, FEW),
        "profile": prepare_run(MK1, timed, fresh_space, FEW),
        "given": prepare_run(MK1, SMOKE, fresh_space, dataclasses.replace(FEW, minutes=20.0)),
        "steps": prepare_run(MK1, timed, fresh_space, dataclasses.replace(FEW, steps=5)),
        "steps alone": prepare_run(MK1, SMOKE, fresh_space, dataclasses.replace(FEW, steps=5)),
    }
    assert found["profile"].id == found["given"].id
    assert found["steps"].id == found["steps alone"].id
    assert len({run.id for run in found.values()}) == 3


@pytest.mark.parametrize(("text", "expected"), [("7.5", 7.5), ("", None)])
def test_minutes_in_the_environment_reach_every_process(monkeypatch, text, expected):
    monkeypatch.setenv(MINUTES, text)
    assert get_profile("smoke").minutes == expected
    assert get_profile("smoke").length(MK1) == ("7.5 minutes" if expected else "1 epoch")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("ten", "MRICT_MINUTES=ten: expected a number"), ("0", "MRICT_MINUTES=0: a budget of 0 minutes")],
)
def test_impossible_minutes_in_the_environment_are_one_line(monkeypatch, text, expected):
    monkeypatch.setenv(MINUTES, text)
    with pytest.raises(MrictError, match=expected):
        get_profile("smoke")


# -------------------------------------------------------------------------------------------------------- expected time


def planned(pace: float, history: int = 0, **settings: object) -> str:
    """Return the line on a training of 1000 steps in 10 epochs, after `history` epochs of 60 s."""
    run = SimpleNamespace(variant=MK1, steps=1000, epochs=10, settings=TrainSettings(device="cpu", **settings))
    return budget.expected(run, pace, [{"seconds": 60.0}] * history)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (planned(0.1), ""),
        (planned(0.0), ""),
        (planned(0.5), "mk1: about 8 minutes, 1000 steps of 0.5 s on this CPU and validation"),
        (planned(0.5, history=4), "mk1: about 5 minutes, 600 steps of 0.5 s on this CPU and validation"),
        (planned(0.5, history=7), ""),
        (planned(0.5, minutes=30), "mk1: about 30 minutes, 3600 steps of 0.5 s on this CPU with validation"),
        (planned(0.5, history=5, minutes=30), "mk1: about 25 minutes, 3000 steps of 0.5 s on this CPU with validation"),
        (planned(7.2), "mk1: about 120 minutes, 1000 steps of 7.2 s on this CPU and validation"),
        (planned(36.0), "mk1: about 10 hours, 1000 steps of 36 s on this CPU and validation"),
    ],
)
def test_what_a_training_takes(line, expected):
    assert line == expected


def test_a_very_long_training_is_warned_of():
    assert planned(360.0) == (
        "mk1: about 4 days, 1000 steps of 3.6e+02 s on this CPU and validation; more than 12 hours: to shorten it, "
        "give a budget (--minutes; of the suite --minutes-per-variant), --profile cpu or a GPU (--device cuda)"
    )


def test_it_is_said_before_the_first_epoch_and_changes_nothing(fresh_space, monkeypatch):
    plain = train(MK1, THREE, fresh_space, FEW, **QUIET)
    monkeypatch.setattr(budget, "FEW_STEPS", 0)
    monkeypatch.setattr(budget, "SAID_S", 0.0)
    lines: list[str] = []
    said = train(MK1, THREE, fresh_space, FEW, retrain=True, report=lines.append)
    assert lines[0].startswith("mk1: about 0 minutes, 6 steps of ")
    assert lines[1].startswith("mk1 epoch 1/3")
    weights = [torch.load(result.last, weights_only=True)["networks"]["G"] for result in (plain, said)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_measuring_ends_in_time(fresh_space, monkeypatch):
    run = prepare_run(MK1, SMOKE, fresh_space, FEW)
    steps: list[int] = []
    method = run.method()
    step = method.train_step
    monkeypatch.setattr(method, "train_step", lambda batch: (steps.append(1), step(batch))[1])
    monkeypatch.setattr(run, "method", lambda: method)
    monkeypatch.setattr(budget, "MEASURED_S", 0.0)
    assert budget.seconds_per_step(run) > 0
    assert len(steps) == 1


# ---------------------------------------------------------------------------------------------------------- profile cpu


def test_profile_cpu_gives_every_training_the_same_time():
    profile = PROFILES["cpu"]
    lengths = {name: profile.length(get(name)) for name in ("mk7_2", "pix2pix_paper", "unet_l1")}
    assert set(lengths.values()) == {"20 minutes"}
    assert 3 * profile.minutes == 60
    assert all(profile.epochs(get(name)) == 10 for name in lengths)


@pytest.mark.parametrize(("shape", "side"), [((60, 50), 64), ((180, 224), 224), ((181, 225), 256), ((512, 512), 256)])
def test_canvas_of_profile_cpu_is_what_the_data_need_up_to_256(shape, side):
    assert PROFILES["cpu"].canvas([(40, 40), shape]) == side


@pytest.mark.parametrize(
    ("name", "capabilities", "expected"),
    [
        ("native", {"avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ("native", {"amx_bf16": True}, torch.bfloat16),
        ("native", {"avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ("native", {}, torch.float32),
        ("auto", {"avx512_bf16": True}, torch.float32),
        ("bfloat16", {}, torch.bfloat16),
        ("float32", {"avx512_bf16": True}, torch.float32),
    ],
)
def test_precision_of_a_cpu(monkeypatch, name, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert machine.pick_precision(name, torch.device("cpu")) == expected


@pytest.mark.parametrize(
    ("own", "given", "expected"),
    [
        ("auto", "auto", "float32"),
        ("native", "auto", "bfloat16"),
        ("native", "float32", "float32"),
        ("auto", "bfloat16", "bfloat16"),
    ],
)
def test_the_profile_chooses_where_the_training_does_not(fresh_space, monkeypatch, own, given, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    profile = dataclasses.replace(SMOKE, precision=own)
    settings = dataclasses.replace(FEW, precision=given)
    method = prepare_run(MK1, profile, fresh_space, settings).method()
    assert str(method.setup.precision) == f"torch.{expected}"


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(3, 4, [0, 1, 2]), (4, 4, [0, 1, 2, 3]), (10, 2, [2, 7]), (9, 3, [1, 4, 7]), (1, 16, [0])],
)
def test_slices_are_spread_evenly(count, most, expected):
    assert spread(count, most).tolist() == expected


def test_validation_on_some_slices_of_each_patient(fresh_space):
    few = dataclasses.replace(SMOKE, validation_slices=2)
    every, some = (prepare_run(MK1, profile, fresh_space, FEW) for profile in (SMOKE, few))
    assert all(len(dataset) > 2 for dataset in every.validation_sets())
    assert [len(dataset) for dataset in some.validation_sets()] == [2] * len(every.validation_sets())
    assert every.id != some.id
    assert np.isfinite(read_json(train(MK1, few, fresh_space, FEW, **QUIET).run.folder / "run.json")["val_mae_hu"])
