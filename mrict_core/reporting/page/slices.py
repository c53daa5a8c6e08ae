"""The slice browser's data: the volumes of one test patient, small enough for a page.

HU are rounded to 2 HU and cropped to the body; each volume is one gzipped block in base64, unpacked by the browser on
demand. Data beyond the budget are thinned, and the page says how.
"""

from __future__ import annotations

import base64
import dataclasses
import gzip
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mrict_core.hu import AIR_FLOOR_HU
from mrict_core.reporting.page.data import BrowserPatient

STEP_HU = 2
MAX_BYTES = 8_000_000  # of a patient's blocks, in base64
SIDE_MAX = 160  # pixels
SLICES_MIN = 12
MARGIN = 3
ACROSS = {"S": "axial", "I": "axial", "A": "coronal", "P": "coronal", "R": "sagittal", "L": "sagittal"}
UNNAMED = ("slices", "across rows", "across columns")  # planes of slices whose orientation is unknown


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A patient's blocks by name ("mr", "mask", "ct", "0", "1", … of the models), and their description."""

    blocks: dict[str, str]
    facts: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _View:
    """How a patient's volumes are reduced: cut to body and mask, then thinned and averaged."""

    cut: tuple[slice, slice, slice]
    keep: np.ndarray  # bool, of the cut: body or mask; air outside
    stride: int = 1  # every stride-th slice is kept
    factor: int = 1  # pixels averaged along each side

    @property
    def slices(self) -> slice:
        return slice(self.stride // 2, None, self.stride)

    @property
    def voxels(self) -> int:
        rows, columns = (n // self.factor for n in self.keep.shape[1:])
        return len(self.keep[self.slices]) * rows * columns

    def of(self, volume: np.ndarray) -> np.ndarray:
        """Return a reduced volume.  # (N, H, W) => (n, h, w) float32"""
        return self._small(volume[self.cut])

    def hu(self, volume: np.ndarray) -> np.ndarray:
        """Return reduced HU, air outside the body."""
        return self._small(np.where(self.keep, volume[self.cut], AIR_FLOOR_HU))

    def _small(self, cut: np.ndarray) -> np.ndarray:
        volume, factor = cut[self.slices].astype(np.float32), self.factor
        rows, columns = (n // factor * factor for n in volume.shape[1:])
        blocks = volume[:, :rows, :columns].reshape(len(volume), rows // factor, factor, columns // factor, factor)
        return blocks.mean(axis=(2, 4)) if factor > 1 else volume


def encode(patient: BrowserPatient, ranked: Sequence[str], max_bytes: int = MAX_BYTES) -> Encoded:
    """Return a patient's blocks within `max_bytes`; of the models, the last of `ranked` are left out first."""
    notes = list(patient.notes)
    view, kept = _within(patient, _view(patient), [name for name in ranked if name in patient.scts], max_bytes, notes)
    names = [name for name in patient.scts if name in kept]
    mr, ct, body = view.of(patient.mr), view.hu(patient.ct), view.of(patient.mask) >= 0.5
    blocks = {
        "mr": _packed(np.rint((np.clip(mr, -1, 1) + 1) * 127.5).astype(np.uint8).tobytes()),
        "mask": _packed(body.astype(np.uint8).tobytes()),
        "ct": _packed_hu(ct),
        **{str(place): _packed_hu(view.hu(patient.scts[name])) for place, name in enumerate(names)},
    }
    slice_mm, row_mm, column_mm = patient.spacing_mm
    facts = {
        "size": ct.shape,
        "z": [int(z) for z in patient.z[view.slices]],
        "spacing": [slice_mm * view.stride, row_mm * view.factor, column_mm * view.factor],
        "sides": patient.sides,
        "planes": [ACROSS[patient.sides[place]] for place in (5, 2, 0)] if patient.sides else UNNAMED,
        "median_hu": round(float(np.median(ct[body]))) if body.any() else 0,
        "names": names,
        "mae": {name: _mae_hu(patient, view.slices, name) for name in names},
        "notes": notes,
    }
    return Encoded(blocks, facts)


def _mae_hu(patient: BrowserPatient, kept: slice, name: str) -> list[float | None]:
    """Return the masked MAE of the kept slices from the exact values; None for a slice without mask."""
    found: list[float | None] = []
    for sct, ct, mask in zip(patient.scts[name][kept], patient.ct[kept], patient.mask[kept], strict=True):
        error = np.abs(sct - ct)[mask]
        found.append(round(float(error.mean()), 1) if error.size else None)
    return found


def _within(
    patient: BrowserPatient, view: _View, names: list[str], max_bytes: int, notes: list[str]
) -> tuple[_View, list[str]]:
    """Thin slices first (to no fewer than 12), then average pixels, then leave the last models out, until it fits."""
    if not names:
        return view, names
    trial = view.hu(patient.scts[names[0]])
    per_voxel = len(_packed_hu(trial)) / trial.size

    def estimate(kept: int) -> float:
        return view.voxels * per_voxel * (kept + 1.6)  # CT, MR and mask cost about 1.6 models

    stride = max(1, math.ceil(estimate(len(names)) / max_bytes))
    stride = min(stride, max(1, len(patient.z) // SLICES_MIN))
    if stride > 1:
        view = dataclasses.replace(view, stride=stride)
        notes.append(f"one slice in {stride} is shown")
    factor = math.ceil(max(view.keep.shape[1:]) / SIDE_MAX)
    if factor > 1 and estimate(len(names)) > max_bytes:
        view = dataclasses.replace(view, factor=factor)
        notes.append(f"pixels are averaged {factor} × {factor}, which hides fine noise")
    kept = len(names)
    while kept > 1 and estimate(kept) > max_bytes:
        kept -= 1
    if kept < len(names):
        notes.append(f"only {kept} of {len(names)} models are shown")
    return view, names[:kept]


def _view(patient: BrowserPatient) -> _View:
    """Return the view cut to body and mask, with a margin."""
    body = patient.mask | (patient.mr > -1)
    box = []
    for axis in (1, 2):
        used = np.flatnonzero(body.any(axis=tuple(a for a in range(3) if a != axis)))
        first, last = (used[0], used[-1] + 1) if used.size else (0, body.shape[axis])
        box.append(slice(max(0, int(first) - MARGIN), int(last) + MARGIN))
    cut = (slice(None), *box)
    return _View(cut, body[cut])


def _packed_hu(volume: np.ndarray) -> str:
    """Pack HU as int16 in steps of 2 HU, all low bytes first: neighbours' high bytes are alike and compress well."""
    steps = np.rint(np.asarray(volume, np.float32) / STEP_HU).clip(-32768, 32767).astype("<i2")
    planes = steps.view(np.uint8).reshape(-1, 2)
    return _packed(np.ascontiguousarray(planes.T).tobytes())


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode("ascii")
