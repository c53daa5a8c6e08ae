"""The slices shown in figures: chosen by position only, so the same for every variant and never the best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mrict_core.data.augment import JointTransform
from mrict_core.data.batches import in_turns
from mrict_core.evaluation.predictions import Predictions

if TYPE_CHECKING:
    from mrict_core.data.cache.store import SliceStore

LEVELS = (0.45, 0.6, 0.75)  # of the slices from inferior to superior
PATIENTS = 3


def sample_rows(
    store: SliceStore, patients: Sequence[str], predictions: Predictions | None = None
) -> list[dict[str, Any]]:
    """Return one row per level: patient, z, spacing_mm (rows, columns), mr, ct, body, mask; with `predictions` sct too.

    The first patients of each centre in turn, up to three, show one level each; fewer patients show several. Images are
    (S, S), `mr` in [-1, 1], `ct` and `sct` in HU.
    """
    chosen = in_turns(patients, store)[:PATIENTS]
    rows = []
    for k, level in enumerate(LEVELS):
        patient = chosen[k % len(chosen)]
        slices = store.slices(patient)
        position = min(len(slices.z) - 1, round(level * (len(slices.z) - 1)))
        row = {
            "patient": patient,
            "z": int(slices.z[position]),
            "spacing_mm": tuple(store.meta(patient)["spacing_mm"][1:]),
        }
        for role in ("mr", "ct", "body", "mask"):
            row[role] = np.asarray(getattr(slices, role)[position], np.float32)
        if predictions is not None:
            row["sct"] = predictions.slices(patient)[position]
        rows.append(row)
    return rows


def augmented_rows(store: SliceStore, patients: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """Return the rows of `sample_rows` after the training augmentation, as the networks see them."""
    rows = sample_rows(store, patients)
    images = [
        np.stack([store.window.to_unit(r["ct"]) if k == "ct" else r[k] for r in rows]) for k in ("mr", "ct", "mask")
    ]
    transform = JointTransform(generator=torch.Generator().manual_seed(seed))
    real_A, real_B, mask = transform(*(torch.from_numpy(np.asarray(i, np.float32))[:, None] for i in images))
    for k, row in enumerate(rows):
        row |= {"mr": real_A[k, 0].numpy(), "ct": store.window.to_hu(real_B[k, 0]).numpy(), "mask": mask[k, 0].numpy()}
        row["body"] = row["mr"] > -1
    return rows
