"""The slices shown in figures: chosen by position only, so the same for every variant and never the best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mrict_core.data.augment import JointTransform
from mrict_core.data.batches import PairedSlices, Slice, in_turns
from mrict_core.data.planes import Cut
from mrict_core.evaluation.predictions import Predictions
from mrict_core.hu import AIR_FLOOR_HU

if TYPE_CHECKING:
    from mrict_core.data.cache.store import SliceStore

LEVELS = (0.45, 0.6, 0.75)  # of the slices from inferior to superior
PATIENTS = 3


def sample_rows(
    store: SliceStore, patients: Sequence[str], predictions: Predictions | None = None
) -> list[dict[str, Any]]:
    """Return one row per level: patient, z, plane, input (in a word), spacing_mm (rows, columns), mr, ct, body, mask;
    with `predictions` sct too.

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
            "plane": store.plane(patient),
            "spacing_mm": tuple(store.meta(patient)["spacing_mm"][1:]),
            "input": store.modality.word,
        }
        for role in ("mr", "ct", "body", "mask"):
            row[role] = np.asarray(getattr(slices, role)[position], np.float32)
        if predictions is not None:
            row["sct"] = predictions.slices(patient)[position]
        rows.append(row)
    return rows


def plane_rows(
    store: SliceStore, patient: str, planes: Sequence[str], sct: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Return one row per plane through the middle of a patient, as a network of several planes sees it: square pixels.

    The rows are those of `sample_rows`, z counts the plane's slices. sct: synthetic CT of the patient's slices,
    (N, S, S) HU. A patient of a single slice has one row.
    """
    dataset, slices = PairedSlices(store, [patient], view=Slice(planes=tuple(planes))), store.slices(patient)
    rows = []
    for plane in dict.fromkeys(plane for _, plane, _ in dataset.index):
        items = [item for item, (_, own, _) in enumerate(dataset.index) if own == plane]
        item = items[len(items) // 2]
        batch, cut, z = dataset[item], dataset.cuts.get((patient, plane)), dataset.index[item][2]
        row = {"patient": f"{patient} {plane}", "z": z, "plane": plane, "input": store.modality.word}
        row["spacing_mm"] = store.spacing_mm(patient)[1:] if cut is None else (cut.pixel_mm, cut.pixel_mm)
        row |= {"mr": batch.real_A[0, 0].numpy(), "ct": store.window.to_hu(batch.real_B[0, 0]).numpy()}
        row |= {"mask": batch.mask[0, 0].numpy(), "body": _cut(slices.body, cut, z, store.size, 0)}
        if sct is not None:
            row["sct"] = _cut(sct, cut, z, store.size, AIR_FLOOR_HU)
        rows.append(row)
    return rows


def _cut(stack: np.ndarray, cut: Cut | None, position: int, size: int, fill: float) -> np.ndarray:
    """Return a slice of a stack of a patient's slices, or one of the plane that `cut` makes.  # (N, S, S) => (S, S)"""
    if cut is None:
        return np.asarray(stack[position], np.float32)
    return cut.canvas(cut.stack(stack)[position : position + 1], size, fill, nearest=fill == 0)[0]


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
