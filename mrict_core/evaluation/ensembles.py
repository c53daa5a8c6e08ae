"""The mean of several models' synthetic CTs, scored like a model: its name, its members, its volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mrict_core.errors import MrictError
from mrict_core.evaluation.predictions import Predictions
from mrict_core.evaluation.records import seeds_of

if TYPE_CHECKING:
    from mrict_core.data.cache.store import SliceStore

MEMBERS = "members"  # of the context of a mean's record
BETWEEN = "+"  # names in a list of models are separated by commas


def mean_name(names: Sequence[str]) -> str:
    """Return the name of the record of a mean, such as mean(mk7_1+mk6_3_4)."""
    return f"mean({BETWEEN.join(names)})"


def is_mean(name: str) -> bool:
    return name.startswith("mean(")


def members_of(record: Mapping[str, Any]) -> list[str]:
    """Return the names of the models whose mean a record scores; none for any other record."""
    return [member["name"] for member in record["context"].get(MEMBERS, ())]


def mean_context(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the record of a mean says of its members: of each the seed whose predictions are taken, the first."""
    members = [
        {
            "name": record["name"],
            "seed": seeds_of(record)[0],
            "checkpoint_hash": record["context"].get("checkpoint_hash", "").split(" / ")[0],
        }
        for record in records
    ]
    seeds = {member["seed"] for member in members}
    stopped = [f"{record['name']}: {note}" for record in records if (note := record.get("note"))]
    return {
        MEMBERS: members,
        "seed": seeds.pop() if len(seeds) == 1 else "",
        "checkpoint_hash": BETWEEN.join(member["checkpoint_hash"] for member in members),
        "stopped": "; ".join(stopped),
    }


def mean_predictions(store: SliceStore, members: Sequence[Predictions]) -> Predictions:
    """Return the voxelwise mean in HU of the members' synthetic CTs; where all have air, it has air."""
    if len(members) < 2:
        raise MrictError(f"a mean of {len(members)} models: expected two or more; give others")

    def mean(_: SliceStore, patient: str) -> np.ndarray:
        total = np.zeros(store.slices(patient).ct.shape, np.float64)
        for member in members:
            total += member.slices(patient)
        return total / len(members)

    return Predictions(store, mean)
