"""Tables of the cohort: facts of each patient, and how the two masks agree."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mrict_core.data.cache.store import SliceStore
from mrict_core.data.splits import SETS, Split
from mrict_core.hu import AIR_BELOW_HU


def cohort_table(store: SliceStore, split: Split | None = None) -> pd.DataFrame:
    """Return one row per patient: subject (if one has several patients), centre, set, slices, shape and voxel size (mm)
    of its files, voxels of the scoring mask and how many the canvas cuts off, the CT's air in the MR's body and its
    tissue outside it (per cent), and warnings about its files."""
    subjects = store.subjects()
    shared = any(subject != patient for patient, subject in subjects.items())
    sets = {patient: name for name in SETS for patient in getattr(split, name, ())}
    rows, warnings = [], store.warnings()
    for patient in store.patients:
        meta = store.meta(patient)
        rows.append(
            {
                "patient": patient,
                **({"subject": subjects[patient]} if shared else {}),
                "centre": store.centre(patient),
                "set": sets.get(patient, "none"),
                "slices": store.counts()[patient],
                "shape": " x ".join(map(str, meta["shape"])),
                "spacing_mm": " x ".join(f"{v:.2f}" for v in meta["spacing_mm"]),
                "mask_voxels": meta["mask_voxels"],
                "mask_voxels_cropped": meta["mask_voxels_cropped"],
                "air_in_body_percent": 100 * meta.get("air_in_body", np.nan),
                "tissue_outside_body_percent": 100 * meta.get("tissue_outside_body", np.nan),
                "warnings": "; ".join(warnings.get(patient, [])),
            }
        )
    return pd.DataFrame(rows)


def mask_agreement(store: SliceStore) -> pd.DataFrame:
    """Return one row per centre: patients, mean and lowest Dice of the two masks, and the percentage of scored bone and
    soft tissue (CT above -200 HU inside the mask) outside the body mask."""
    rows = []
    for patient in store.patients:
        slices = store.slices(patient)
        body, mask = np.asarray(slices.body) > 0, np.asarray(slices.mask) > 0
        tissue = mask & (np.asarray(slices.ct) > AIR_BELOW_HU)
        overlap = 2 * np.count_nonzero(body & mask) / max(1, np.count_nonzero(body) + np.count_nonzero(mask))
        lost = np.count_nonzero(tissue & ~body) / max(1, np.count_nonzero(tissue))
        rows.append({"centre": store.centre(patient), "dice": overlap, "lost": 100 * lost})
    grouped = pd.DataFrame(rows).groupby("centre", sort=True)
    return grouped.agg(
        patients=("dice", "size"),
        dice_mean=("dice", "mean"),
        dice_lowest=("dice", "min"),
        tissue_lost_percent=("lost", "mean"),
    ).reset_index()
