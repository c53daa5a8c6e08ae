"""The fingerprint of the training MR: features of a model's inputs, kept in its checkpoint.

Features are computed from prepared slices, of the dataset cache or of `prepare_mr`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from mrict_core.data.cache.patient import prepare_mr
from mrict_core.data.cache.store import SliceStore, layout
from mrict_core.data.images.volumes import Volume
from mrict_core.hu import DENSE_BONE_HU, SPONGY_BONE_HU
from mrict_core.modalities import MR, Modality

VERSION = 1
PROTOCOL = "patient"  # the other protocol's input needs the CT, which inference lacks
BINS = 16
LEVELS = 5  # heights from the body's lowest to its highest slice
RIM_MM = 10.0  # contains skin, fat and muscle
ACROSS = ("spacing_slices", "fov_slices", "body_volume", "body_extent_slices")  # mean nothing in a single slice
DIRECTIONS = ("slices", "rows", "cols")
SIDES = ("front", "back", "right", "left")

FEW_PATIENTS = 6  # with fewer, limits that fit the spread over patients are too wide
HARDLY_ANY = 4  # both as measured in docs/gate.md


def few_patients(patients: int) -> str:
    """Return a warning on a fingerprint of too few patients, else ""."""
    if patients >= FEW_PATIENTS:
        return ""
    catches = "next to nothing" if patients < HARDLY_ANY else "little"
    return (
        f"the model's gate learned from {patients} patient{'s' * (patients != 1)} and catches {catches} (expected at "
        f"least {FEW_PATIENTS}): that an MR passes it says little"
    )


def features(mr: np.ndarray, body: np.ndarray, spacing_mm: Sequence[float], stack: Sequence[int]) -> dict[str, float]:
    """Return the features of prepared slices (N, S, S): `mr` in [-1, 1], `body`, spacing and shape of the whole stack.

    Lengths in mm and volumes in ml are natural logarithms, so that a factor counts alike up and down.
    """
    body = np.asarray(body, bool)
    held = body.any(axis=(1, 2))
    body, mr = body[held], np.asarray(mr)[held].astype(np.float16).astype(np.float32)  # rounded as in the cache
    found: dict[str, float] = {}
    for name, step, count in zip(DIRECTIONS, spacing_mm, stack, strict=True):
        found[f"spacing_{name}"] = np.log(step)
        found[f"fov_{name}"] = np.log(step * count)
    found |= _shape(body, spacing_mm)
    found |= _appearance(mr, body, spacing_mm)
    return {name: round(float(value), 5) for name, value in found.items()}


def _shape(body: np.ndarray, spacing_mm: Sequence[float]) -> dict[str, float]:
    """Size of the body, how its area changes with height, and how flat its four sides are."""
    area = body.sum(axis=(1, 2)).astype(float)
    found = {"body_volume": np.log(body.sum() * np.prod(spacing_mm) / 1000), "body_extent_slices": 0.0}
    found["body_extent_slices"] = np.log(len(body) * spacing_mm[0])
    found["body_area"] = np.log(area.max() * spacing_mm[1] * spacing_mm[2] / 100)  # cm², of the largest slice
    for axis, name in ((1, "rows"), (2, "cols")):
        span = np.flatnonzero(body.any(axis=tuple({0, 1, 2} - {axis})))
        found[f"body_extent_{name}"] = np.log((span[-1] - span[0] + 1) * spacing_mm[axis])
    found |= {f"area_{k}": part.mean() / area.max() for k, part in enumerate(_levels(area))}
    flat = np.array([_flatness(one) for one in body])
    return found | {f"flat_{name}": value for name, value in zip(SIDES, np.median(flat, axis=0), strict=True)}


def _levels(values: np.ndarray) -> list[np.ndarray]:
    """Split per-slice values into heights; with fewer slices than heights, slices repeat."""
    edges = np.linspace(0, len(values), LEVELS + 1)
    return [values[int(a) : max(int(np.ceil(b)), int(a) + 1)] for a, b in pairwise(edges)]


def _flatness(body: np.ndarray) -> list[float]:
    """Share of a slice's bounding box that the body touches at its four sides: small if round, large if cut."""
    rows, cols = np.flatnonzero(body.any(axis=1)), np.flatnonzero(body.any(axis=0))
    edges = (body[rows[0]], body[rows[-1]], body[:, cols[0]], body[:, cols[-1]])
    return [edge.sum() / length for edge, length in zip(edges, (len(cols),) * 2 + (len(rows),) * 2, strict=True)]


def _appearance(mr: np.ndarray, body: np.ndarray, spacing_mm: Sequence[float]) -> dict[str, float]:
    """Histogram, moments, rim against core, noise, and brightness by height, front and back."""
    inside = mr[body]
    spread = max(float(inside.std()), 1e-3)
    depth = np.stack([ndimage.distance_transform_edt(np.pad(one, 1), spacing_mm[1:])[1:-1, 1:-1] for one in body])
    rim, core = body & (depth <= RIM_MM), body & (depth > max(RIM_MM, depth.max() / 2))
    smooth = np.stack([ndimage.median_filter(one, 3) for one in mr])
    marks = (10, 25, 50, 75, 90)
    found = {f"percentile_{q}": v for q, v in zip(marks, np.percentile(inside, marks), strict=True)}
    found["skewness"] = ((inside - inside.mean()) ** 3).mean() / spread**3
    found["rim_minus_core"] = mr[rim].mean() - mr[core].mean() if core.any() and rim.any() else 0.0
    found["roughness"] = np.log(max(float(np.abs(mr - smooth)[body].mean()), 1e-4) / spread)
    found |= {f"brightness_{k}": part.mean() for k, part in enumerate(_levels(_means(mr, body)))}
    rows = np.arange(mr.shape[1])[None, :, None]
    middle = (np.argmax(body.any(axis=2), axis=1) + mr.shape[1] - 1 - np.argmax(body.any(axis=2)[:, ::-1], axis=1)) / 2
    front = body & (rows < middle[:, None, None])
    back = body & (rows > middle[:, None, None])
    found["front_minus_back"] = mr[front].mean() - mr[back].mean() if front.any() and back.any() else 0.0
    found["front_share"] = front.sum() / body.sum()
    counts = np.histogram(inside, BINS, (-1, 1))[0] / inside.size
    return found | {f"histogram_{k:02d}": value for k, value in enumerate(counts)}


def _means(mr: np.ndarray, body: np.ndarray) -> np.ndarray:
    return np.array([one[where].mean() for one, where in zip(mr, body, strict=True)])


def of_single_slices(fingerprint: Mapping[str, Any]) -> bool:
    """Return whether every training patient was one slice: its field of view across slices is its slice's thickness."""
    across, thickness = (fingerprint["features"].get(f"{name}_slices") for name in ("fov", "spacing"))
    return across is not None and across == thickness


def volume_features(
    volume: Volume, size: int, middle: bool = False, modality: Modality = MR
) -> tuple[dict[str, float], str]:
    """Return the features of a volume prepared on a canvas of `size` pixels, and its orientation code.

    middle: only of the middle axial slice of the body, without the features of `ACROSS`. Raises `MrictError` as
    `prepare_mr` does: no body, a constant image, values in HU.
    """
    prepared = prepare_mr(volume, size, modality=modality)
    spacing_mm = prepared.order.spacing_mm(volume.affine)
    mr, body, stack = prepared.mr, prepared.body, prepared.order.to_slices(volume.array).shape
    if not middle:
        return features(mr, body, spacing_mm, stack), orientation(volume.affine)
    held = np.flatnonzero(body.any(axis=(1, 2)))
    one = held[len(held) // 2 : len(held) // 2 + 1]
    found = features(mr[one], body[one], spacing_mm, (1, *stack[1:]))
    return {name: value for name, value in found.items() if name not in ACROSS}, orientation(volume.affine)


def patient_features(store: SliceStore, patient: str) -> tuple[dict[str, float], str]:
    """Return the same for a prepared patient."""
    meta, slices = store.meta(patient), store.slices(patient)
    order, crop = layout(meta)
    stack = (meta["shape"][order.axes[0]], crop.rows, crop.cols)
    return features(slices.mr, slices.body, meta["spacing_mm"], stack), orientation(np.array(meta["affine"]))


def orientation(affine: np.ndarray) -> str:
    """Return the nearest axis code of an affine, such as LPS."""
    return "".join(nib.orientations.aff2axcodes(affine))


def fingerprint(store: SliceStore, patients: Sequence[str]) -> dict[str, Any]:
    """Return the distribution of the patients' features as plain json values; no features for other protocols.

    Features are of axial slices, as those of an MR to be checked are: patients prepared in another plane count only
    where there is no axial one.
    """
    slices = map(store.slices, sorted(patients))
    bone: dict[str, Any] = {"modality": store.modality.name} if store.modality != MR else {}
    bone |= {"bone": bone_range([bone_shares(one.ct, one.body) for one in slices])}
    if store.protocol != PROTOCOL:
        facts = {"version": VERSION, "protocol": store.protocol, "size": store.size, "patients": 0, "features": {}}
        return facts | bone
    axial = [patient for patient in sorted(patients) if store.plane(patient) == "axial"]
    found = {patient: patient_features(store, patient) for patient in axial or sorted(patients)}
    centres = {patient: store.centre(patient) for patient in found}
    codes = sorted({code for _, code in found.values()})
    facts = summarise([one for one, _ in found.values()], store.size, codes, list(centres.values()))
    return facts | {"region": store.region} | bone


def bone_shares(hu: np.ndarray, body: np.ndarray) -> dict[str, float]:
    """Return {"above_300_hu": share of the body's voxels, "above_700_hu": ...} of a CT of any shape."""
    inside = hu[np.asarray(body, bool)]
    return {
        f"above_{level}_hu": float(np.mean(inside > level)) if inside.size else 0.0
        for level in (SPONGY_BONE_HU, DENSE_BONE_HU)
    }


def bone_range(rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Return {"patients", "above_300_hu": {"centre", "low", "high"}, ...} of the shares of several patients."""
    table = {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
    shares = {
        name: {"centre": float(np.median(values)), "low": min(values), "high": max(values)}
        for name, values in table.items()
    }
    return {"patients": len(rows), **shares}


def summarise(
    rows: Sequence[dict[str, float]], size: int, codes: Sequence[str] = (), centres: Sequence[str] = ()
) -> dict[str, Any]:
    """Return centre (median), spread (standard deviation), lowest and highest of every feature over the patients."""
    table: dict[str, Any] = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        entry: dict[str, Any] = {
            "centre": round(float(np.median(values)), 5),
            "spread": round(float(values.std(ddof=1)) if len(values) > 1 else 0.0, 5),
            "low": float(values.min()),
            "high": float(values.max()),
        }
        if len(set(centres)) > 1:
            kept = np.array(centres)
            entry["by_centre"] = {c: round(float(np.median(values[kept == c])), 5) for c in sorted(set(centres))}
        table[name] = entry
    facts = {"version": VERSION, "protocol": PROTOCOL, "size": size, "patients": len(rows)}
    return facts | {"orientations": list(codes), "features": table}
