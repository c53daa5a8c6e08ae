"""How long a training takes: passes over the data, or a budget of steps or minutes in as many rounds.

A round ends with a validation. Round r of R stands for the fraction r/R to (r+1)/R of the training, whatever its steps
take, so learning rates follow the fraction of the budget that is spent, and the history alone decides the next round.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from mrict_core import ranks
from mrict_core.errors import MrictError
from mrict_core.machine import pick_device
from mrict_core.training.distributed import together
from mrict_core.training.run import Run

FEW_STEPS = 100  # trainings of no more steps are not measured
MEASURED_S = 3.0  # enough time for measuring steps
SAID_S = 180.0  # trainings shorter than this are not announced
LONG_S = 12 * 3600.0  # of longer ones the user is warned


def steps_of_round(run: Run, history: Sequence[Mapping[str, Any]], pace: float = 0.0) -> int | None:
    """Return the steps of the round after `history`; None: a pass over the data.

    pace: seconds a step, for the first round of a budget in minutes. Validation counts as time spent.
    """
    done, rounds = len(history), run.epochs
    if run.steps:
        return run.steps * (done + 1) // rounds - run.steps * done // rounds
    if not run.settings.minutes:
        return None
    spent = sum(row["seconds"] for row in history)
    validation = history[-1]["seconds"] - history[-1]["train_seconds"] if history else 0.0
    pace = history[-1]["train_seconds"] / history[-1]["steps"] if history else pace
    return max(1, round((60 * run.settings.minutes * (done + 1) / rounds - spent - validation) / pace))


def planned_steps(run: Run) -> int:
    """Return the steps of a training that has no budget in minutes."""
    return run.steps or run.epochs * run.steps_per_epoch


def pace_of(run: Run) -> float:
    """Return the seconds of a step, measured before the training; 0 for a training of a few steps."""
    return seconds_per_step(run) if run.settings.minutes or planned_steps(run) > FEW_STEPS else 0.0


def seconds_per_step(run: Run, batches: int = 3) -> float:
    """Return the time of a step, measured on up to `batches` of the data with networks of their own.

    Call it before the training seeds its random states. Raises MrictError if a budget in minutes is shorter.
    """
    import torch

    generators = {name: torch.Generator().manual_seed(0) for name in ("shuffle", "augment")}
    method = run.method()
    together(method)
    method.begin_epoch(0)
    times = []
    for batch in run.batches(generators, method.paired, batches):
        started = time.perf_counter()
        logs = method.train_step(batch)
        float(logs["loss_g"])  # waits for a GPU
        times.append(time.perf_counter() - started)
        if ranks.of_first(lambda: sum(times) > MEASURED_S):
            break
    pace = ranks.of_first(lambda: min(times))
    if run.settings.minutes and 60 * run.settings.minutes < pace:
        raise MrictError(
            f"{run.variant.name}: {run.settings.minutes:g} minutes are less than one step, {pace:.1f} s here; "
            "give more minutes, or a smaller profile"
        )
    return pace


def expected(run: Run, pace: float, history: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return a line on the time that a training still needs, with a warning for a very long one; "" for a short one.

    pace: seconds a step. Validation is part of a budget in minutes only.
    """
    minutes, device = run.settings.minutes, pick_device(run.settings.device).type
    spent = sum(row["seconds"] for row in history)
    left = 60 * minutes - spent if minutes else planned_steps(run) * (1 - len(history) / run.epochs) * pace
    if left < SAID_S:
        return ""
    where = "this CPU" if device == "cpu" else "this GPU"
    text = f"{run.variant.name}: about {duration(left)}, {left / pace:.0f} steps of {pace:.2g} s on {where}"
    text += " with validation" if minutes else " and validation"
    if left < LONG_S:
        return text
    others = ", --profile cpu or a GPU (--device cuda)" if device == "cpu" else ""
    budget = "a budget (--minutes; of the suite --minutes-per-variant)"
    return f"{text}; more than {LONG_S / 3600:.0f} hours: to shorten it, give {budget}{others}"


def duration(seconds: float) -> str:
    """Return a time in words."""
    hours = seconds / 3600
    count, unit = (hours / 24, "days") if hours > 72 else (hours, "hours") if hours > 2 else (60 * hours, "minutes")
    return f"{count:.0f} {unit}"
