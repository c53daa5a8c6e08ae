"""Publish a trained and evaluated model."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrict_core import metrics
from mrict_core.data.cache.store import SliceStore
from mrict_core.data.images.orders import PLANES
from mrict_core.data.splits import PREDECESSOR_KIND, SETS, Split
from mrict_core.data.subjects import people_of
from mrict_core.methods import METHODS
from mrict_core.metrics import statistics
from mrict_core.models.about import About, about_of
from mrict_core.models.folder import (
    SAMPLE,
    Networks,
    load_discriminators,
    load_facts_and_weights,
    read_model,
    read_scores,
    write_model,
)
from mrict_core.paths import Workspace, checkpoints_root
from mrict_core.training.facts import ModelFacts

FOR_PATIENTS = ("cpu", "full")  # profiles of models for patient images; others are demos
SCORES = ("label", "note", "n", "summary", "cards", "context")  # published part of a record: no single patients


def publish(
    space: Workspace,
    data: tuple[SliceStore, Split],
    facts: ModelFacts,
    networks: Networks,
    record: Mapping[str, Any],
    baseline: Mapping[str, Any] | None = None,
    sample: bytes | None = None,
) -> tuple[Path, bool]:
    """Publish a finished training with the record of its evaluation; return the model's folder and whether it is new.

    facts, networks: of the scored checkpoint. data: what it was trained and scored on. baseline: name and mae_hu of the
    best trivial predictor on the same patients, None if none was scored. sample: a picture of one held-out patient. If
    the model exists, only scores and sample are updated.
    """
    scores: dict[str, Any] = {key: record[key] for key in SCORES}
    if planes := by_plane(data[0], record):
        scores["summary"] = {**scores["summary"], "planes": planes}
    return write_model(
        checkpoints_root(),
        facts,
        networks,
        kind="trained",
        label=record["label"],
        demo=space.embedded or facts.profile.name not in FOR_PATIENTS,
        generator=METHODS[facts.experiment.method.name].mr_to_ct,
        data=describe_data(space, *data),
        scores=scores | {"baseline": dict(baseline) if baseline else None},
        sample=sample,
    )


def publish_again(model: Path, *, about: About, half: bool, folder: Path | None) -> tuple[Path, bool]:
    """Publish a published model in another form; return its folder and whether it is new.

    about: replaces what the model says of itself, unless empty. half: store the weights in half precision; a model that
    has them stays so. folder: to write, None: under the model's variant. Facts, scores and sample picture are kept.
    """
    description = read_model(model)
    facts, networks = load_facts_and_weights(model)
    picture = model / SAMPLE
    return write_model(
        checkpoints_root(),
        facts,
        networks | load_discriminators(model),
        **{key: description[key] for key in ("kind", "label", "demo", "generator", "data")},
        scores=read_scores(model),
        sample=picture.read_bytes() if picture.is_file() else None,
        about=about if about.as_plain() else about_of(description),
        half=half or bool(description["weights"].get("half_precision")),
        folder=folder,
    )


def by_plane(store: SliceStore, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return {plane: {metric: statistics}} of the record's patients, {} if all are of one plane."""
    rows: dict[str, list[Mapping[str, Any]]] = {plane: [] for plane in PLANES}
    for row in record["patients"]:
        rows[store.plane(row["patient"])].append(row)
    planes = {plane: own for plane, own in rows.items() if own}
    names = [name for name in metrics.keys("model_card") if name in record["summary"]["all"]]
    if len(planes) < 2:
        return {}
    return {
        plane: {
            name: dataclasses.asdict(found)
            for name, found in zip(names, statistics.summarise([[row[n] for n in names] for row in own]), strict=True)
        }
        for plane, own in planes.items()
    }


def describe_data(space: Workspace, store: SliceStore, split: Split) -> dict[str, Any]:
    """Return the training data of the workspace's models in numbers of patients and slices, without ids or paths."""
    counts, sets = store.counts(), {}
    for name in SETS:
        patients = getattr(split, name)
        people = dict(zip(people_of(patients), patients, strict=True))
        centres = Counter(store.centre(patient) for patient in people.values())
        slices = sum(counts[patient] for patient in patients)
        sets[name] = {"patients": len(people), "slices": slices, "centres": dict(sorted(centres.items()))}
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
