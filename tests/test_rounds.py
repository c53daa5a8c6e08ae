"""The rounds of a budget: steps and minutes for every method; learning rates that follow the fraction spent."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mrict_core.errors import MrictError
from mrict_core.experiments import get, with_values
from mrict_core.experiments.profiles import get_profile
from mrict_core.experiments.schema import Schedule
from mrict_core.files import read_json
from mrict_core.methods import METHODS
from mrict_core.training import budget, loop
from mrict_core.training.budget import steps_of_round
from mrict_core.training.checkpoint import load_checkpoint
from mrict_core.training.loop import train
from mrict_core.training.run import Run, TrainSettings, prepare_run
from mrict_core.training.schedules import ScheduleStepper, linear, warmup_cosine
from mrict_core.training.validation import Validator

SMOKE = get_profile("smoke")
FOUR = dataclasses.replace(SMOKE, epochs_min=4, epochs_max=4)
QUIET = {"report": lambda line: None}


# ------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "a budget of 0 steps: expected at least 1"),
        ({"steps": -3}, "a budget of -3 steps"),
        ({"minutes": 0}, "a budget of 0 minutes: expected more than 0"),
        ({"minutes": -1.5}, "a budget of -1.5 minutes"),
        ({"minutes": math.nan}, "a budget of nan minutes"),
        ({"minutes": math.inf}, "a budget of inf minutes"),
        ({"steps": 5, "minutes": 2.0}, "5 steps and 2 minutes: expected one budget; leave one out"),
    ],
)
def test_an_impossible_budget_is_refused(settings, message):
    with pytest.raises(MrictError, match=message):
        TrainSettings(**settings)


def test_a_budget_makes_another_training_and_none_the_one_of_before(space):
    runs = [prepare_run(get("mk1"), FOUR, space, TrainSettings(**own)) for own in ({}, {"steps": 9}, {"minutes": 1.0})]
    assert len({run.id for run in runs}) == 3
    assert not {"steps", "minutes"} & runs[0].trained["settings"].keys()
    assert "steps" not in runs[0].trained
    assert "widths" not in runs[0].trained["profile"]
    assert [run.steps for run in runs] == [None, 9, None]
    own = prepare_run(get("mk7_0"), FOUR, space, TrainSettings())
    assert (own.steps, own.trained["steps"]) == (4, 4), "MK7 counts in steps, here those of the profile"
    timed = prepare_run(get("mk7_0"), FOUR, space, TrainSettings(minutes=1.0))
    assert (timed.steps, timed.epochs, "steps" in timed.trained) == (None, 4, False)


def test_trainings_of_experiments_without_a_budget_keep_their_ids():
    """Those of profiles demo, full and smoke before there were budgets, views of planes and widths by network."""
    store, split = SimpleNamespace(key="store"), SimpleNamespace(hash="split")
    known = read_json(Path(__file__).parent / "data" / "ids.json")
    found = {
        name: [
            Run(get(name), get_profile(profile), None, TrainSettings(), store, split, None).id
            for profile in ("demo", "full", "smoke")
        ]
        for name in known
    }
    assert len(known) == 43
    assert found == known


# ---------------------------------------------------------------------------------------------------------------- steps


@pytest.mark.parametrize(
    ("name", "total", "rounds"),
    [
        *((name, 7, [1, 2, 2, 2]) for name in ("mk1", "pix2pix_paper", "cyclegan_paper")),
        *(("unet_l1", total, rounds) for total, rounds in ((8, [2] * 4), (3, [1] * 3), (1, [1]))),
    ],
)
def test_a_budget_of_steps_is_kept_exactly(name, total, rounds, fresh_space, monkeypatch):
    ended = []
    plain = ScheduleStepper.step
    monkeypatch.setattr(ScheduleStepper, "step", lambda self, row: ended.append(row["epoch"]) or plain(self, row))
    result = train(get(name), FOUR, fresh_space, TrainSettings(max_pairs=17, steps=total), **QUIET)
    assert result.complete
    assert result.history["steps"].tolist() == rounds
    assert result.history["epoch"].tolist() == list(range(1, len(rounds) + 1)), "a validation ends every round"
    optimizers = load_checkpoint(result.last)["optimizers"]
    per_batch = get(name).method.options.get("generator_steps", 1)
    for role, state in optimizers.items():
        taken = {int(entry["step"]) for entry in state["state"].values()}
        assert taken == {total * (per_batch if role == "G" else 1)}
    assert ended == [epoch for epoch in range(1, len(rounds) + 1) for _ in optimizers], "schedules follow the rounds"


def test_a_plateau_counts_rounds(fresh_space, monkeypatch):
    plain = Validator.scores
    monkeypatch.setattr(Validator, "scores", lambda self, method: plain(self, method) | {"val_mae_hu": 100.0})
    plateau = Schedule("plateau", watch="val_mae_hu", factor=0.5, patience=0)
    variant = with_values(get("unet_l1"), {"optimizer.G.schedule": plateau})
    result = train(variant, FOUR, fresh_space, TrainSettings(max_pairs=17, steps=9), **QUIET)
    rate = variant.optimizer["G"].lr
    assert result.history["lr_G"].tolist() == pytest.approx([rate, rate, rate / 2, rate / 4])


@pytest.mark.parametrize(
    ("schedule", "value", "settings"),
    [
        (Schedule("linear", decay_from=0.25), linear, {"steps": 9}),
        (Schedule("warmup_cosine", warmup=0.3, eta_min=1e-5), warmup_cosine, {"steps": 9}),
        (Schedule("linear"), linear, {}),
    ],
)
def test_every_step_has_the_rate_of_its_fraction_of_the_training(schedule, value, settings, fresh_space, monkeypatch):
    """In rounds of 2, 2, 2 and 3 steps, and in epochs of two (the seventeenth slice is dropped), with a pause."""
    variant = with_values(get("unet_l1"), {"optimizer.G.schedule": schedule})
    kind, seen = METHODS["regression"], []
    plain = kind.train_step
    monkeypatch.setattr(
        kind, "train_step", lambda self, b: seen.append(self.optimizers["G"].param_groups[0]["lr"]) or plain(self, b)
    )
    settings = TrainSettings(max_pairs=17, **settings)
    train(variant, FOUR, fresh_space, settings, stop_after=2, **QUIET)
    train(variant, FOUR, fresh_space, settings, **QUIET)
    rounds = [2, 2, 2, 3] if settings.steps else [2, 2, 2, 2]
    fractions = [(r + k / steps) / 4 for r, steps in enumerate(rounds) for k in range(steps)]
    rate = variant.optimizer["G"].lr
    assert seen == pytest.approx([value(schedule, fraction, rate) for fraction in fractions])


@pytest.mark.parametrize(
    ("schedule", "value", "expected"),
    [
        (Schedule("linear"), linear, {0: 2, 0.25: 2, 0.5: 2, 0.75: 1, 0.875: 0.5, 1: 0}),
        (Schedule("linear", decay_from=0.0), linear, {0: 2, 0.25: 1.5, 1: 0}),
        (
            Schedule("warmup_cosine", warmup=0.2, eta_min=1.0),
            warmup_cosine,
            {0: 0.02, 0.001: 0.02, 0.1: 1, 0.2: 2, 0.6: 1.5, 1: 1},
        ),
        (Schedule("warmup_cosine"), warmup_cosine, {0: 2, 0.5: 1, 2 / 3: 0.5, 1: 0}),
    ],
)
def test_rates_by_hand(schedule, value, expected):
    """Of a rate of 2: constant and then a line; a line up and then half a cosine."""
    found = {fraction: value(schedule, fraction, 2.0) for fraction in expected}
    assert found == pytest.approx(expected, abs=1e-12)


# -------------------------------------------------------------------------------------------------------------- minutes


def run_with(minutes: float, rounds: int = 4) -> SimpleNamespace:
    return SimpleNamespace(epochs=rounds, steps=None, settings=SimpleNamespace(minutes=minutes))


@pytest.mark.parametrize(
    ("history", "pace", "steps"),
    [
        ([], 0.5, 30),  # a quarter of 60 s
        ([(30, 15, 18)], 9.9, 18),  # 30 - 18 - 3 s at 0.5 s a step; the pace measured before does not count any more
        ([(30, 15, 18), (10, 20, 23)], 9.9, 1),  # 45 - 41 - 3 s at 2 s a step: half a step
        ([(30, 15, 18), (10, 40, 50)], 9.9, 1),  # too late: one step and no less
    ],
)
def test_the_next_round_of_a_budget_in_minutes_comes_from_the_history(history, pace, steps):
    rows = [dict(zip(("steps", "train_seconds", "seconds"), row, strict=True)) for row in history]
    assert steps_of_round(run_with(1.0), rows, pace) == steps


class Clock:
    """Time that passes in steps and validations alone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step_s: float, validation_s: float) -> None:
        self.now, self.steps = 0.0, 0
        kind = METHODS["regression"]
        plain_step, plain_scores = kind.train_step, Validator.scores

        def step(method, batch):
            self.now += step_s
            self.steps += 1
            return plain_step(method, batch)

        def scores(validator, method):
            self.now += validation_s
            return plain_scores(validator, method)

        monkeypatch.setattr(kind, "train_step", step)
        monkeypatch.setattr(Validator, "scores", scores)
        for module in (budget, loop):
            monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: self.now))


MINUTE = TrainSettings(max_pairs=17, minutes=1.0)


@pytest.mark.parametrize("name", ["unet_l1", "mk7_0"])
def test_minutes_are_kept_and_a_resumed_training_spends_what_is_left(name, fresh_space, monkeypatch):
    clock = Clock(monkeypatch, step_s=3.0, validation_s=2.0)
    whole = train(get(name), FOUR, fresh_space, MINUTE, **QUIET)
    expected = load_checkpoint(whole.last)
    measured = clock.steps - int(whole.history["steps"].sum())
    assert 1 <= measured <= 3, "the pace is measured before"
    assert whole.history["steps"].tolist() == [5, 4, 4, 4]
    assert whole.history["seconds"].sum() == pytest.approx(60, abs=3.0)
    assert (whole.complete, whole.stopped) == (True, "")
    shutil.rmtree(fresh_space.checkpoints)
    train(get(name), FOUR, fresh_space, MINUTE, stop_after=2, **QUIET)
    clock.now += 1e6  # the machine was off
    resumed = train(get(name), FOUR, fresh_space, MINUTE, **QUIET)
    found = load_checkpoint(resumed.last)
    assert found["history"] == expected["history"]
    for part in ("networks", "method_state"):  # with averaging, the state holds the weights that are optimised
        torch.testing.assert_close(found[part], expected[part], rtol=0, atol=0)


def test_a_training_whose_validation_eats_the_budget_stops_and_says_so(fresh_space, monkeypatch):
    Clock(monkeypatch, step_s=3.0, validation_s=25.0)
    lines: list[str] = []
    result = train(get("unet_l1"), FOUR, fresh_space, MINUTE, report=lines.append)
    assert (result.complete, result.epochs) == (True, 2)
    assert result.stopped == "stopped after round 2 of 4: its 1 minutes are spent, 74% of them on validation"
    assert any(result.stopped in line for line in lines)
    assert train(get("unet_l1"), FOUR, fresh_space, MINUTE, **QUIET).reused


def test_less_than_one_step_is_refused_before_anything_is_written(fresh_space, monkeypatch):
    Clock(monkeypatch, step_s=61.0, validation_s=1.0)
    with pytest.raises(MrictError, match=r"unet_l1: 1 minutes are less than one step, 61\.0 s here") as caught:
        train(get("unet_l1"), FOUR, fresh_space, MINUTE, **QUIET)
    assert "\n" not in str(caught.value)
    assert not fresh_space.checkpoints.exists()
