"""The slice browser's data: whole slices of a few patients, small enough to travel inside the page.

HU are rounded to 2 HU and cropped to the body; each (patient, variant) is one gzipped block in base64, unpacked by the
browser when it is asked for. What does not fit the budget is thinned, and the page says how.
"""

from __future__ import annotations

import base64
import dataclasses
import gzip
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mrict_core.reporting.page.data import BrowserPatient

STEP_HU = 2
MAX_BYTES = 8_000_000  # of all blocks, in base64
SIDE_MAX = 160  # pixels
SLICES_MIN = 12
MARGIN = 3
AIR_HU = -1024


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Blocks by id, what the script needs to know of them, and what was left out."""

    blocks: dict[str, str]
    patients: list[dict[str, Any]]
    notes: list[str]


def encode(patients: Sequence[BrowserPatient], variants: Sequence[str], max_bytes: int = MAX_BYTES) -> Encoded:
    """Return the blocks of every patient and of the variants, best first, within `max_bytes`."""
    notes: list[str] = []
    names = [name for name in variants if all(name in p.scts for p in patients)]
    cropped, names = _within([_cropped(patient) for patient in patients], names, max_bytes, notes)
    blocks: dict[str, str] = {}
    facts = []
    for number, patient in enumerate(cropped):
        mr = np.rint((np.clip(patient.mr, -1, 1) + 1) * 127.5).astype(np.uint8)
        blocks[f"p{number}-mr"] = _packed(mr.tobytes())
        blocks[f"p{number}-mask"] = _packed(patient.mask.astype(np.uint8).tobytes())
        blocks[f"p{number}-ct"] = _packed_hu(patient.ct)
        for place, name in enumerate(names):
            blocks[f"p{number}-v{place}"] = _packed_hu(patient.scts[name])
        count, rows, columns = patient.ct.shape
        facts.append(
            {
                "patient": patient.patient,
                "centre": patient.centre,
                "count": count,
                "rows": rows,
                "columns": columns,
                "z": [int(z) for z in patient.z],
                "spacing": [float(s) for s in patient.spacing_mm],
                "variants": names,
                "mae": {name: _mae_hu(patients[number], patient.z, name) for name in names},
            }
        )
    return Encoded(blocks, facts, notes)


def _mae_hu(patient: BrowserPatient, z: np.ndarray, name: str) -> list[float | None]:
    """Return the masked MAE of the slices at `z`, from the values as they are; None where a slice has no mask."""
    found: list[float | None] = []
    for place in np.flatnonzero(np.isin(patient.z, z)):
        inside = patient.mask[place]
        error = np.abs(patient.scts[name][place] - patient.ct[place])[inside]
        found.append(round(float(error.mean()), 1) if error.size else None)
    return found


def _within(
    patients: list[BrowserPatient], names: list[str], max_bytes: int, notes: list[str]
) -> tuple[list[BrowserPatient], list[str]]:
    """Thin slices first (to no fewer than 12), then average pixels, then leave the last variants out, until it fits."""
    if not patients or not names:
        return patients, names
    trial = patients[0].scts[names[0]]
    per_voxel = len(_packed_hu(trial)) / trial.size

    def estimate(kept: int) -> float:
        return sum(p.ct.size for p in patients) * per_voxel * (kept + 1.6)  # CT, MR and mask cost about 1.6 variants

    stride = max(1, math.ceil(estimate(len(names)) / max_bytes))
    stride = min(stride, max(1, min(len(p.z) for p in patients) // SLICES_MIN))
    if stride > 1:
        patients = [_every(p, stride) for p in patients]
        notes.append(f"every {stride}. slice")
    factor = math.ceil(max(max(p.ct.shape[1:]) for p in patients) / SIDE_MAX)
    if factor > 1 and estimate(len(names)) > max_bytes:
        patients = [_averaged(patient, factor) for patient in patients]
        notes.append(f"pixels averaged {factor} × {factor}, which hides fine noise")
    kept = len(names)
    while kept > 1 and estimate(kept) > max_bytes:
        kept -= 1
    if kept < len(names):
        notes.append(f"the best {kept} of {len(names)} variants")
    return patients, names[:kept]


def _cropped(patient: BrowserPatient) -> BrowserPatient:
    """Return the patient cut to where there is body or mask, with a margin; air outside both."""
    body = patient.mask | (patient.mr > -1)
    box = []
    for axis in (1, 2):
        used = np.flatnonzero(body.any(axis=tuple(a for a in range(3) if a != axis)))
        first, last = (used[0], used[-1] + 1) if used.size else (0, body.shape[axis])
        box.append(slice(max(0, int(first) - MARGIN), int(last) + MARGIN))
    cut = (slice(None), *box)
    keep = body[cut]

    def hu(volume: np.ndarray) -> np.ndarray:
        return np.where(keep, volume[cut], AIR_HU).astype(np.float32)

    scts = {name: hu(volume) for name, volume in patient.scts.items()}
    return dataclasses.replace(patient, mr=patient.mr[cut], ct=hu(patient.ct), mask=patient.mask[cut], scts=scts)


def _averaged(patient: BrowserPatient, factor: int) -> BrowserPatient:
    def mean(volume: np.ndarray) -> np.ndarray:
        rows, columns = (n // factor * factor for n in volume.shape[1:])
        blocks = volume[:, :rows, :columns].astype(np.float32)
        return blocks.reshape(len(volume), rows // factor, factor, columns // factor, factor).mean(axis=(2, 4))

    return dataclasses.replace(
        patient,
        spacing_mm=tuple(s * factor for s in patient.spacing_mm),
        mr=mean(patient.mr),
        ct=mean(patient.ct),
        mask=mean(patient.mask) >= 0.5,
        scts={name: mean(volume) for name, volume in patient.scts.items()},
    )


def _every(patient: BrowserPatient, stride: int) -> BrowserPatient:
    part = slice(stride // 2, None, stride)
    scts = {name: volume[part] for name, volume in patient.scts.items()}
    return dataclasses.replace(
        patient, z=patient.z[part], mr=patient.mr[part], ct=patient.ct[part], mask=patient.mask[part], scts=scts
    )


def _packed_hu(volume: np.ndarray) -> str:
    """Pack HU as int16 in steps of 2 HU, all low bytes first: neighbours' high bytes are alike and compress well."""
    steps = np.rint(np.asarray(volume, np.float32) / STEP_HU).clip(-32768, 32767).astype("<i2")
    planes = steps.view(np.uint8).reshape(-1, 2)
    return _packed(np.ascontiguousarray(planes.T).tobytes())


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode("ascii")
