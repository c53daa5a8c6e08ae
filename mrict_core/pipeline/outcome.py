"""A variant trained and scored: made by the suite's workers, shown by notebooks 01 to 06."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mrict_core.errors import Interrupted
from mrict_core.evaluation.samples import sample_rows
from mrict_core.experiments import Experiment
from mrict_core.experiments.profiles import Profile
from mrict_core.inference.synthesizer import load_synthesizer, merged
from mrict_core.paths import Workspace, shown
from mrict_core.pipeline.evaluate import evaluate_variant, predictions_of
from mrict_core.pipeline.preparation import open_data, train_variant
from mrict_core.training.loop import Report, TrainResult
from mrict_core.training.progress import Progress, automatic
from mrict_core.training.run import TrainSettings


@dataclass(frozen=True)
class Outcome:
    """Training and scores of a variant."""

    variant: Experiment
    training: TrainResult
    record: dict[str, Any]  # held-out scores

    @property
    def name(self) -> str:
        return self.variant.name


def train_and_evaluate(
    variant: Experiment,
    profile: Profile,
    space: Workspace,
    settings: TrainSettings = TrainSettings(),
    *,
    ancestors: Sequence[Experiment] = (),
    retrain: bool = False,
    report: Report = print,
    progress: Progress = automatic,
) -> Outcome:
    """Train a variant (`train_variant`) and score it on the held-out patients (`evaluate_variant`).

    A finished training and its record are reused; reused ancestors are not reported.
    """
    open_data(space, settings.seed)  # prepares the embedded patients if needed
    reused = tuple(f"{ancestor.name}: unchanged" for ancestor in ancestors)

    def say(line: str) -> None:
        if not line.startswith(reused):
            report(line)

    training = train_variant(
        variant, profile, space, settings, ancestors=ancestors, retrain=retrain, report=say, progress=progress
    )
    try:
        record, _ = evaluate_variant(variant, profile, space, like=training.run, device=settings.device, report=report)
    except KeyboardInterrupt:
        what = f"its training is saved in {shown(training.run.folder)}"
        raise Interrupted(
            f"{variant.name}: interrupted while it was scored; {what}; the same command, or this cell run again, "
            "scores it from the start"
        ) from None
    return Outcome(variant, training, record)


def held_out_rows(outcome: Outcome, space: Workspace, device: str = "auto") -> list[dict[str, Any]]:
    """Return the slices of the test patients shown in figures (`evaluation.samples`), with the synthetic CT."""
    store, split = open_data(space)
    return sample_rows(store, split.test, predictions_of(space, outcome.record, device))


def predictions_by_plane(
    outcome: Outcome, space: Workspace, patient: str, device: str = "auto"
) -> dict[str, np.ndarray]:
    """Return a patient's synthetic CT from each plane alone and, of several planes, "merged".  # (N, S, S) HU each"""
    store, model = open_data(space)[0], load_synthesizer(outcome.training.best, outcome.name, device)
    planes = model.facts.all_planes
    alone = {plane: replace(model, facts=replace(model.facts, planes=[plane]))(store, patient) for plane in planes}
    return alone | ({"merged": merged(list(alone.values()))} if len(planes) > 1 else {})
