"""A variant trained and scored: what the suite's workers make and notebooks 01 to 05 tell."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mrict_core.errors import MrictError
from mrict_core.evaluation import is_current, read_record
from mrict_core.evaluation.samples import sample_rows
from mrict_core.inference import load_synthesizer
from mrict_core.paths import Workspace
from mrict_core.pipeline.evaluate import evaluate_variant
from mrict_core.pipeline.prepare import open_data, train_variant
from mrict_core.profiles import Profile
from mrict_core.runtime import code_hash, hash_file
from mrict_core.training.loop import Progress, Report, TrainResult
from mrict_core.training.run import TrainSettings
from mrict_core.variant import Variant


@dataclass(frozen=True)
class Outcome:
    """What became of a variant."""

    variant: Variant
    training: TrainResult
    record: dict[str, Any]  # held-out scores

    @property
    def name(self) -> str:
        return self.variant.name


def train_and_evaluate(
    variant: Variant,
    profile: Profile,
    space: Workspace,
    settings: TrainSettings = TrainSettings(),
    *,
    ancestors: Sequence[Variant] = (),
    retrain: bool = False,
    report: Report = print,
    progress: Progress | None = None,
) -> Outcome:
    """Train a variant, see `train_variant`, and score it on the held-out patients, see `evaluate_variant`.

    A finished training is reused, and so is the record that today's code made of it; `report` does not hear of
    ancestors that are reused.
    """
    open_data(space, settings.seed)  # makes the embedded patients where they are not there yet
    reused = tuple(f"{ancestor.name}: unchanged" for ancestor in ancestors)

    def say(line: str) -> None:
        if not line.startswith(reused):
            report(line)

    training = train_variant(
        variant, profile, space, settings, ancestors=ancestors, retrain=retrain, report=say, progress=progress
    )
    record = _todays_record(space, training)
    if record is None:
        record, _ = evaluate_variant(variant, profile, space, like=training.run, device=settings.device, report=report)
    return Outcome(variant, training, record)


def _todays_record(space: Workspace, training: TrainResult) -> dict[str, Any] | None:
    """Return the variant's record where it is of these very weights and data, by today's code and metrics."""
    record = None
    with contextlib.suppress(MrictError):  # a damaged record is made again
        record = read_record(space.metrics, training.variant)
    if record is None or not is_current(record):
        return None
    store, split = open_data(space)
    of = record["context"]
    same = (of.get("store_key"), of.get("split_hash"), of.get("code_hash")) == (store.key, split.hash, code_hash())
    weights = record.get("seeds", {}).get("checkpoints", [])
    return record if same and hash_file(training.best) in weights else None


def held_out_rows(outcome: Outcome, space: Workspace, device: str = "auto") -> list[dict[str, Any]]:
    """Return the slices of the test patients that figures show (`evaluation.samples`), with the synthetic CT."""
    store, split = open_data(space)
    return sample_rows(store, split.test, load_synthesizer(outcome.training.best, outcome.name, device))
