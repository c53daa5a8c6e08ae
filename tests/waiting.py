"""Declared experiments of which a part is still missing: their tests are skipped and name it."""

from __future__ import annotations

import pytest

from mrict_core.experiments import Experiment
from mrict_core.losses import LOSSES
from mrict_core.methods import METHODS
from mrict_core.methods.checks import SCHEDULES
from mrict_core.parts import arguments


def skip_if_waiting(variant: Experiment, *, schedule: bool = True) -> None:
    """Skip a test of an experiment that cannot be built yet or, for `schedule`, not be trained."""
    if variant.method.name not in METHODS:
        pytest.skip(f"waits for the method {variant.method.name}")
    if schedule and (missing := {o.schedule.kind for o in variant.optimizer.values()} - SCHEDULES.keys()):
        pytest.skip(f"waits for the schedule {', '.join(missing)}")
    for name, term in variant.loss.items():
        if "masked" in term.options and "masked" not in arguments(LOSSES[term.function or name]):
            pytest.skip(f"waits for loss.{name}.masked")
