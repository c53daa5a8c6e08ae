"""Publish a trained and evaluated model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrict_core.data.cache.store import SliceStore
from mrict_core.data.splits import PREDECESSOR_KIND, SETS, Split
from mrict_core.methods import METHODS
from mrict_core.models.folder import Networks, write_model
from mrict_core.paths import Workspace, checkpoints_root
from mrict_core.training.facts import ModelFacts

FULL = "full"  # the profile of models for patient images; others are demos
SCORES = ("label", "note", "n", "summary", "cards", "context")  # published part of a record: no single patients


def publish(
    space: Workspace,
    data: tuple[SliceStore, Split],
    facts: ModelFacts,
    networks: Networks,
    record: Mapping[str, Any],
    baseline: Mapping[str, Any] | None = None,
) -> tuple[Path, bool]:
    """Publish a finished training with the record of its evaluation; return the model's folder and whether it is new.

    facts, networks: of the scored checkpoint. data: what it was trained and scored on. baseline: name and mae_hu of the
    best trivial predictor on the same patients, None if none was scored. If the model exists, only its scores are
    updated.
    """
    return write_model(
        checkpoints_root(),
        facts,
        networks,
        kind="trained",
        label=record["label"],
        demo=space.embedded or facts.profile.name != FULL,
        generator=METHODS[facts.experiment.method.name].mr_to_ct,
        data=describe_data(space, *data),
        scores={key: record[key] for key in SCORES} | {"baseline": dict(baseline) if baseline else None},
    )


def describe_data(space: Workspace, store: SliceStore, split: Split) -> dict[str, Any]:
    """Return the training data of the workspace's models in numbers of patients and slices, without ids or paths."""
    counts, sets = store.counts(), {}
    for name in SETS:
        patients = getattr(split, name)
        centres = Counter(store.centre(patient) for patient in patients)
        slices = sum(counts[patient] for patient in patients)
        sets[name] = {"patients": len(patients), "slices": slices, "centres": dict(sorted(centres.items()))}
    caveats = (
        (space.embedded, "Trained on digital phantoms: it has never seen a patient."),
        (
            split.kind.startswith(PREDECESSOR_KIND),
            "Its epoch was chosen on slices of the training patients (the predecessor's split); the held-out patients "
            "are others.",
        ),
    )
    return {
        "name": space.data_name,
        "region": store.region,
        "split": split.kind,
        "sets": sets,
        "caveats": [text for applies, text in caveats if applies],
    }
