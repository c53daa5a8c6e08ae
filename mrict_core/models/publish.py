"""Publish what was trained and evaluated here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrict_core.data.splits import PREDECESSOR_KIND, SETS, load_split
from mrict_core.data.store import SliceStore
from mrict_core.methods import METHODS
from mrict_core.models.folder import load_facts_and_weights, write_model
from mrict_core.paths import Workspace, checkpoints_root
from mrict_core.training.checkpoint import checkpoint_path
from mrict_core.variant import Variant

FULL = "full"  # the profile whose models are meant for images of patients
SCORES = ("label", "note", "n", "summary", "cards", "context")  # of a record: nothing of single patients


def publish(
    space: Workspace, variant: Variant, record: Mapping[str, Any], baseline: Mapping[str, Any] | None = None
) -> tuple[Path, bool]:
    """Publish the variant's best checkpoint with the record of its evaluation; return its folder and whether it is new.

    baseline: name and mae_hu of the best trivial predictor on the same patients, None where none was scored.
    The same weights and facts are the same model: nothing but changed scores is written again.
    """
    facts, networks = load_facts_and_weights(checkpoint_path(space, variant.name, "best"), variant.name)
    return write_model(
        checkpoints_root(),
        facts,
        networks,
        kind="trained",
        label=record["label"],
        demo=space.embedded or facts["profile"]["name"] != FULL,
        generator=METHODS[variant.method].mr_to_ct,
        data=describe_data(space),
        scores={key: record[key] for key in SCORES} | {"baseline": dict(baseline) if baseline else None},
    )


def describe_data(space: Workspace) -> dict[str, Any]:
    """Return what the workspace's models are trained on, in numbers of patients and slices; no ids, no paths."""
    store, split = SliceStore(space.store), load_split(space.split_file)
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
        "name": "embedded phantoms" if space.embedded else space.data_dir.name,
        "region": store.region,
        "split": split.kind,
        "sets": sets,
        "caveats": [text for applies, text in caveats if applies],
    }
