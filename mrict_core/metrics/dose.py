"""What a synthetic CT changes in a plan's dose: SynthRAD's dose measures, dose-volume numbers, ranges of protons.

All are of one plan, made on the CT and recomputed on the sCT; doses in Gy on one grid. Definitions as SynthRAD2023 and
2025 where they exist; plans and machines differ from the challenge's, so the values cannot be compared with its tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import ndimage

from mrict_core.errors import MrictError
from mrict_core.metrics.gamma import CUT, Criterion
from mrict_core.metrics.metric import Metric
from mrict_core.metrics.path_length import relative_stopping_power

HIGH_SHARE = 0.9  # of the prescription: the voxels of the relative MAE
COVERED_SHARE = 0.95  # of the prescription: V95, conformity, and D98 of an acceptable plan
ORGANS = 3  # that the DVH measure judges, those with the most dose
FREE_SHARE = 0.01  # of the prescription: an organ whose D2 is less on the CT has no dose to compare
DISTAL_SHARE = 0.8  # of the prescription, where a proton beam's range ends
EPSILON = 1e-12
STEP_MM = 0.25
GAMMAS = {"gamma_2_2": Criterion(2, 2), "gamma_1_1": Criterion(1, 1)}


def dose_at(doses: np.ndarray, percent: float) -> float:
    """Return D_x in Gy: the dose that x percent of the voxels reach, linear in the sorted doses."""
    return float(np.quantile(doses, 1 - percent / 100))


def structure_doses(dose: np.ndarray, mask: np.ndarray, dose_gy: float) -> dict[str, float]:
    """Return D98, D95, D50, D2 and the mean in Gy, and V95 in percent, of a structure."""
    own = dose[mask]
    if not own.size:
        raise MrictError("a structure without voxels has no dose; expected at least one voxel; check its mask")
    found = {f"d{percent}_gy": dose_at(own, percent) for percent in (98, 95, 50, 2)}
    return found | {"mean_gy": float(own.mean()), "v95_percent": float(100 * (own >= COVERED_SHARE * dose_gy).mean())}


def conformity(dose: np.ndarray, target: np.ndarray, dose_gy: float) -> float:
    """Return the conformity index: covered target² / (target * covered volume); 0 if nothing is covered."""
    covered = dose >= COVERED_SHARE * dose_gy
    both = np.count_nonzero(covered & target)
    return both**2 / (np.count_nonzero(target) * np.count_nonzero(covered)) if both else 0.0


def target_mae(ct_dose: np.ndarray, sct_dose: np.ndarray, dose_gy: float) -> float:
    """Return SynthRAD's relative MAE in percent of the prescription, over voxels with at least 90 % of it on the CT.

    NaN if no voxel has so much: the plan does not reach its prescription.
    """
    high = ct_dose >= HIGH_SHARE * dose_gy
    return float(100 * np.abs(ct_dose[high] - sct_dose[high]).mean() / dose_gy) if high.any() else float("nan")


def dvh_measure(
    ct_dose: np.ndarray,
    sct_dose: np.ndarray,
    target: np.ndarray,
    organs: Mapping[str, np.ndarray],
    dose_gy: float,
    *,
    official: bool = False,
) -> float:
    """Return SynthRAD's DVH measure: rel(D98) and rel(conformity) of the target, mean rel(D2) and rel(Dmean) of organs.

    Judged are the three organs with the highest (D5 + Dmean)/2 on the CT. Organs without dose are left out, because two
    doses of 0 count as a difference of 100 % in the official code; `official` counts them so. NaN without organs.
    """
    of_organs = {name: ct_dose[mask] for name, mask in organs.items() if mask.any()}
    if not official:
        of_organs = {name: own for name, own in of_organs.items() if dose_at(own, 2) >= FREE_SHARE * dose_gy}
    if not of_organs:
        return float("nan")
    most = sorted(of_organs, key=lambda name: -(dose_at(of_organs[name], 5) + of_organs[name].mean()))[:ORGANS]
    terms = [
        _relative(dose_at(ct_dose[target], 98), dose_at(sct_dose[target], 98)),
        _relative(conformity(ct_dose, target, dose_gy), conformity(sct_dose, target, dose_gy)),
    ]
    pairs = [(ct_dose[organs[name]], sct_dose[organs[name]]) for name in most]
    terms.append(float(np.mean([_relative(dose_at(a, 2), dose_at(b, 2)) for a, b in pairs])))
    terms.append(float(np.mean([_relative(float(a.mean()), float(b.mean())) for a, b in pairs])))
    return float(sum(terms))


def _relative(ct: float, sct: float) -> float:
    """As the challenge's code writes it: 1, not 0, for two zeros."""
    return abs(ct - sct + EPSILON) / (ct + EPSILON)


def changes(ct: Mapping[str, float], sct: Mapping[str, float], dose_gy: float) -> dict[str, float]:
    """Return what changes in the target, in percent of the prescription (V95: percentage points), sCT - CT."""
    found = {f"target_{name}": 100 * (sct[f"{name}_gy"] - ct[f"{name}_gy"]) / dose_gy for name in ("d98", "d2", "mean")}
    return found | {"target_v95": sct["v95_percent"] - ct["v95_percent"]}


def beam_range(
    doses: Mapping[str, np.ndarray],
    images: Mapping[str, np.ndarray],
    inside: np.ndarray,
    affine: np.ndarray,
    through: np.ndarray,
    gantry_deg: float,
    dose_gy: float,
) -> dict[str, Any]:
    """Return where a proton beam ends on CT and sCT along its central line, and what the path length says of it.

    doses (Gy), images (HU) with the keys ct and sct, inside (body), affine (voxel -> RAS mm) on one grid; through: a
    point of the line, RAS mm. Ranges are distances from the skin to the distal 80 % of the prescription, in mm; WEPL is
    that of the line from the skin to the CT's range. NaN where the line's dose stays below 80 %, or the beam leaves the
    body with more.
    """
    angle = np.radians(gantry_deg)
    direction = np.array([np.sin(angle), -np.cos(angle), 0.0])  # RAS; 0: from anterior, 90: from the patient's left
    reach = float(np.linalg.norm(np.linalg.norm(affine[:3, :3], axis=0) * inside.shape))
    along = np.arange(-reach, reach, STEP_MM)
    points = (np.asarray(through) + along[:, None] * direction - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    share = _sampled(inside.astype(np.float32), points)
    body, whole = share >= 0.5, share >= 1 - 1e-6
    if not body.any():
        return dict.fromkeys(("ct_mm", "sct_mm", "range_mm", "wepl_mm"), float("nan"))
    start = int(np.argmax(body))
    ends = {
        role: _distal(_sampled(dose, points)[start:], DISTAL_SHARE * dose_gy, whole[start:])
        for role, dose in doses.items()
    }
    wepl = float("nan")
    if np.isfinite(ends["ct"]):
        steps = slice(start, start + round(ends["ct"] / STEP_MM) + 1)
        rsp = {
            role: _sampled(np.where(inside, relative_stopping_power(image), 0.0), points[steps])
            for role, image in images.items()
        }
        wepl = float((rsp["sct"] - rsp["ct"]).sum() * STEP_MM)
    return {"ct_mm": ends["ct"], "sct_mm": ends["sct"], "range_mm": ends["sct"] - ends["ct"], "wepl_mm": wepl}


def _sampled(volume: np.ndarray, points: np.ndarray) -> np.ndarray:
    return ndimage.map_coordinates(volume, points.T, order=1, mode="constant", cval=0.0)


def _distal(doses: np.ndarray, level: float, whole: np.ndarray) -> float:
    """Return where doses along a line fall below a level for the last time, in mm from its start.

    NaN if that is where voxels are not wholly in the body: doses end there, and the beam does not.
    """
    above = np.flatnonzero(doses >= level)
    if not above.size or above[-1] == len(doses) - 1 or not whole[above[-1] + 1]:
        return float("nan")
    last = above[-1]
    return float(STEP_MM * (last + (doses[last] - level) / (doses[last] - doses[last + 1])))


_COMMON: dict[str, Any] = {
    "panels": ("dose",),
    "dimensionality": "3D",
    "aggregation": "per plan, then mean over a case's plans and over cases; plans that are not acceptable are left out",
    "range": "Gy of one fraction; HU cut to the machine's table",
}
_PLAN = "same beams, energies and fluence on CT and sCT, generic machine, not commissioned"
_CHANGE = f"sCT - CT, in percent of the prescription; {_PLAN}"
METRICS = (
    Metric(
        "dose_mae",
        "dose MAE %",
        "mean absolute difference of dose where it is high",
        "%",
        2,
        "lower",
        mask="voxels of the body with at least 90 % of the prescription on the CT",
        note=f"percent of the prescription; SynthRAD’s MAE of the target dose; {_PLAN}",
        absent="no voxel reaches 90 % of the prescription",
        **_COMMON,
    ),
    *(
        Metric(
            key,
            f"γ {criterion}",
            f"gamma pass rate, {criterion}",
            "%",
            2,
            "higher",
            mask=f"points of the dose grid with more than {CUT:.0%} of the prescription on the CT",
            note="global (percent of the prescription), linear interpolation, search in tenths of the distance, passes "
            f"at <= 1; 2 %/2 mm hardly tells models of the head apart; {_PLAN}",
            **_COMMON,
        )
        for key, criterion in GAMMAS.items()
    ),
    Metric(
        "dvh",
        "DVH",
        "SynthRAD’s DVH measure",
        "1",
        3,
        "lower",
        mask="target and the three organs with the most dose",
        note="relative differences of target D98 and conformity, and of organs’ D2 and mean; organs without dose are "
        f"left out; {_PLAN}",
        absent="no organ is given, or none has dose",
        **_COMMON,
    ),
    *(
        Metric(
            f"target_{name}",
            f"target {label} %",
            f"change of the target’s {label}",
            "%",
            2,
            "zero",
            mask="target",
            note=_CHANGE if name != "v95" else f"sCT - CT, percentage points; {_PLAN}",
            **_COMMON,
        )
        for name, label in (("d98", "D98"), ("v95", "V95"), ("d2", "D2"), ("mean", "mean dose"))
    ),
    Metric(
        "range_mm",
        "range mm",
        "change of a proton beam’s range",
        "mm",
        2,
        "zero",
        mask="central line of each beam",
        note=f"sCT - CT of the distal 80 % of the prescription; protons only; {_PLAN}",
        absent="photons have no range, or the line’s dose stays below 80 %",
        **(_COMMON | {"dimensionality": "1D"}),
    ),
    Metric(
        "range_mae_mm",
        "|range| mm",
        "mean absolute change of the proton beams’ ranges",
        "mm",
        2,
        "lower",
        mask="central line of each beam",
        note=f"of the distal 80 % of the prescription; protons only; {_PLAN}",
        absent="photons have no range, or the line’s dose stays below 80 %",
        **(_COMMON | {"dimensionality": "1D"}),
    ),
)
