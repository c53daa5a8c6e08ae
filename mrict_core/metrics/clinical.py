"""The clinical panel: where in the body the errors are, and their effect. One value per 3-D case.

Volumes are HU, one 3-D shape, file order; inside is mask > 0. Tissues are defined on the *reference* CT.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mrict_core.hu import AIR_BELOW_HU, BONE_ABOVE_HU, CALIBRATION_EDGES_HU, DICE_THRESHOLDS_HU
from mrict_core.metrics.alignment import alignment, continuity
from mrict_core.metrics.case import checked_volumes
from mrict_core.metrics.metric import Metric
from mrict_core.metrics.path_length import Wepl, wepl_errors

if TYPE_CHECKING:
    from mrict_core.metrics.case import Case

TISSUES = {  # tissue => where it is
    "air": f"CT is below {AIR_BELOW_HU:g} HU",
    "soft": f"CT is from {AIR_BELOW_HU:g} to {BONE_ABOVE_HU:g} HU",
    "bone": f"CT is above {BONE_ABOVE_HU:g} HU",
}
SPANS = {  # the same, short, for axes
    "air": f"< {AIR_BELOW_HU:g} HU",
    "soft": f"{AIR_BELOW_HU:g}…{BONE_ABOVE_HU:g} HU",
    "bone": f"> {BONE_ABOVE_HU:g} HU",
}


def tissue_errors(ct: np.ndarray, sct: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Return MAE, ME (mean of sCT - CT) and voxel count of air, soft tissue and bone, and `me_hu` of the whole mask.

    Air: CT < -200 HU inside the mask; soft: -200 to 250; bone: above 250. Keys `mae_air_hu`, `me_air_hu`, `n_air` …; a
    tissue without voxels has NaN and 0.
    """
    ct, sct, inside = checked_volumes(ct, sct, mask)
    real, difference = ct[inside], (sct[inside] - ct[inside]).astype(np.float64)
    tissues = {
        "air": real < AIR_BELOW_HU,
        "soft": (real >= AIR_BELOW_HU) & (real <= BONE_ABOVE_HU),
        "bone": real > BONE_ABOVE_HU,
    }
    found: dict[str, float] = {"me_hu": float(difference.mean())}
    for name, chosen in tissues.items():
        part = difference[chosen]
        found[f"mae_{name}_hu"] = float(np.abs(part).mean()) if part.size else float("nan")
        found[f"me_{name}_hu"] = float(part.mean()) if part.size else float("nan")
        found[f"n_{name}"] = int(part.size)
    return found


def bone_dice(
    ct: np.ndarray, sct: np.ndarray, mask: np.ndarray, thresholds_hu: tuple[int, ...] = DICE_THRESHOLDS_HU
) -> dict[str, float]:
    """Return the Dice coefficient of (CT > t) and (sCT > t) inside the mask for every threshold, e.g. `dice_bone_250`.

    NaN if neither has a voxel, 0 if only one does.
    """
    ct, sct, inside = checked_volumes(ct, sct, mask)
    real, fake = ct[inside], sct[inside]
    found = {}
    for threshold in thresholds_hu:
        a, b = real > threshold, fake > threshold
        total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
        found[f"dice_bone_{threshold}"] = 2 * int(np.count_nonzero(a & b)) / total if total else float("nan")
    return found


@dataclass(frozen=True)
class Calibration:
    """HU calibration: bins of the CT, with count, mean and SD (ddof 0) of the sCT in them."""

    edges_hu: tuple[float, ...]  # B + 1
    count: np.ndarray  # (B,) int
    mean_hu: np.ndarray  # (B,), NaN in empty bins
    sd_hu: np.ndarray  # (B,), NaN in empty bins


def calibration(
    ct: np.ndarray, sct: np.ndarray, mask: np.ndarray, edges_hu: tuple[float, ...] = CALIBRATION_EDGES_HU
) -> Calibration:
    """Return the HU calibration curve: mean and SD of the sCT over the voxels in each bin of the CT.

    A bin includes its lower edge. CT values beyond the outer edges count in the end bins.
    """
    ct, sct, inside = checked_volumes(ct, sct, mask)
    bins = np.clip(np.searchsorted(edges_hu, ct[inside], side="right") - 1, 0, len(edges_hu) - 2)
    fake = sct[inside].astype(np.float64)
    size = len(edges_hu) - 1
    count = np.bincount(bins, minlength=size)
    with np.errstate(invalid="ignore"):  # 0 / 0 in empty bins gives the intended NaN
        mean = np.bincount(bins, fake, size) / count
        variance = np.bincount(bins, np.square(fake - mean[bins]), size) / count
    return Calibration(tuple(edges_hu), count, mean, np.sqrt(variance))


def counts(case: Case) -> dict[str, int]:
    """Return the number of voxels of each tissue inside the mask, e.g. `n_bone`."""
    return {f"n_{tissue}": case.once(tissue_errors)[f"n_{tissue}"] for tissue in TISSUES}


def curves(case: Case) -> dict[str, Any]:
    """Return the curves behind the numbers, ready for json: HU calibration, and path length by the beam's angle."""
    curve, wepl = calibration(*case.volumes), _wepl(case)
    return {
        "calibration": {
            "edges_hu": list(curve.edges_hu),
            "count": curve.count.tolist(),
            "mean_hu": curve.mean_hu.tolist(),
            "sd_hu": curve.sd_hu.tolist(),
        },
        "wepl": {"angles_deg": list(wepl.angles_deg), "ct_mm": list(wepl.ct_mm), "error_mm": list(wepl.error_mm)},
    }


def _wepl(case: Case) -> Wepl:
    return case.once(wepl_errors, case.affine)


def _continuity(case: Case) -> dict[str, float]:
    return case.once(continuity, case.axis)


_MASK = "the data set's own mask, mask > 0, on the original grid"
_CASES = "one value per case; mean over the cases that have one; SD with ddof 1"
_SURROGATE = "a surrogate for dose, not dose; HU to relative stopping power by matRad's default table, piecewise linear"
_TOP = ("clinical", "leaderboard", "controls")  # shown with the challenge's metrics
_row = partial(
    Metric,
    panels=("clinical",),
    range="HU without clipping",
    mask=_MASK,
    dimensionality="3D",
    aggregation=_CASES,
)


def _tissue_rows(tissue: str) -> tuple[Metric, Metric]:
    where, word = TISSUES[tissue], {"soft": "soft tissue"}.get(tissue, tissue)
    mae, me = f"mae_{tissue}_hu", f"me_{tissue}_hu"
    held = {
        "mask": f"{_MASK}, where the {where}",
        "absent": f"no voxel in the mask where the {where}",
    }
    panels = {"bone": (*_TOP, "compare", "model_card"), "soft": ("clinical", "model_card")}.get(tissue, ("clinical",))
    return (
        _row(
            *(mae, f"{tissue} MAE (HU)", f"mean absolute error in {word}", "HU", 1, "lower"),
            panels=panels,
            note=f"MAE where the {where}",
            value=lambda case: case.once(tissue_errors)[mae],
            **held,
        ),
        _row(
            *(me, f"{tissue} bias (HU)", f"mean error in {word}", "HU", 1, "zero"),
            note=f"bias where the {where}",
            value=lambda case: case.once(tissue_errors)[me],
            **held,
        ),
    )


def _dice_row(threshold: int) -> Metric:
    key, main = f"dice_bone_{threshold}", threshold == BONE_ABOVE_HU
    return _row(
        *(key, "bone Dice" if main else f"bone Dice > {threshold}", f"overlap of bone above {threshold} HU"),
        *("1", 3, "higher"),
        panels=(*_TOP, "model_card") if main else ("clinical",),
        note=f"Dice of CT > {threshold} HU and sCT > {threshold} HU; none if neither has such a voxel",
        range=f"threshold {threshold} HU",
        absent="neither image has a voxel above the threshold inside the mask",
        value=lambda case: case.once(bone_dice)[key],
    )


_beam_row = partial(
    _row,
    dimensionality="1D",
    aggregation="over straight beams every 15 degrees in the axial plane through the mask's centre of mass; " + _CASES,
)

METRICS = (
    _row(
        *("me_hu", "bias (HU)", "mean error (bias)", "HU", 1, "zero"),
        panels=(*_TOP, "model_card"),
        note="bias: mean of sCT - CT over the mask; errors of opposite sign cancel",
        value=lambda case: case.once(tissue_errors)["me_hu"],
    ),
    *(row for tissue in TISSUES for row in _tissue_rows(tissue)),
    *map(_dice_row, DICE_THRESHOLDS_HU),
    _beam_row(
        *("wepl_mae_mm", "WEPL error (mm)", "path-length error along beams, a surrogate for dose", "mm", 2, "lower"),
        panels=(*_TOP, "compare", "dots"),
        note=f"water-equivalent path length, mean |sCT - CT| over the beams of a case; {_SURROGATE}",
        value=lambda case: _wepl(case).wepl_mae_mm,
    ),
    _beam_row(
        *("wepl_max_mm", "WEPL, worst (mm)", "largest path-length error of a beam", "mm", 2, "lower"),
        note=f"water-equivalent path length, largest |sCT - CT| of a case; {_SURROGATE}",
        value=lambda case: _wepl(case).wepl_max_mm,
    ),
    _beam_row(
        *("wepl_me_mm", "WEPL bias (mm)", "bias of the path length along beams", "mm", 2, "zero"),
        note=f"water-equivalent path length, mean of sCT - CT over the beams of a case; {_SURROGATE}",
        value=lambda case: _wepl(case).wepl_me_mm,
    ),
    _row(
        *("continuity", "continuity", "through-plane continuity", "1", 2, "one"),
        panels=(*_TOP, "dots"),
        note="mean |difference of neighbouring slices| of the sCT over that of the CT, both voxels inside the mask; "
        "above 1 the sCT jumps from slice to slice",
        absent="no two neighbouring slices inside the mask, or no change of the CT between them",
        value=lambda case: _continuity(case)["continuity"],
    ),
    _row(
        *(
            "continuity_bone_edge",
            "continuity at bone",
            "through-plane continuity at the border of bone",
            "1",
            2,
            "one",
        ),
        note=f"continuity at the border of CT > {BONE_ABOVE_HU:g} HU, one voxel on either side",
        absent=f"no border of CT > {BONE_ABOVE_HU:g} HU inside the mask",
        value=lambda case: _continuity(case)["continuity_bone_edge"],
    ),
    _row(
        *("mae_core_hu", "MAE, core (HU)", "mean absolute error away from the outline", "HU", 1, "lower"),
        note="MAE without the mask's outermost 3 voxels, where outlines and registration disagree",
        mask=f"{_MASK}, eroded by 3 voxels; image faces are no boundary",
        absent="the mask is thinner than the shell of 3 voxels",
        value=lambda case: case.once(alignment).mae_core_hu,
    ),
    _row(
        *("mae_shift_hu", "MAE, best shift (HU)", "mean absolute error at the best shift", "HU", 1, "lower"),
        panels=("clinical", "controls"),
        note="the lowest MAE over all shifts of the sCT by up to 2 voxels along each axis; far below the MAE for a "
        "misplaced sCT",
        value=lambda case: case.once(alignment).mae_shift_hu,
    ),
    _row(
        *("shift_mm", "best shift (mm)", "length of the best shift", "mm", 1, "none"),
        note="length of the shift at which mae_shift_hu is reached",
        value=lambda case: float(np.linalg.norm(np.array(case.once(alignment).shift_voxels) * case.spacing_mm)),
    ),
)
