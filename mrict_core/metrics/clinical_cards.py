"""Cards of the clinical panel."""

from __future__ import annotations

from mrict_core.metrics.cards import MetricCard
from mrict_core.metrics.clinical import AIR_BELOW_HU, BONE_ABOVE_HU, DICE_THRESHOLDS_HU

_MASK = "the data set's own mask, mask > 0, on the original grid"
_RAW = "HU as they are, no clipping"
_CASES = "one value per case; mean over the cases that have one; SD with ddof 1"
_BEAMS = "over straight beams every 15 degrees in the axial plane through the mask's centre of mass; " + _CASES
_SURROGATE = "a surrogate for dose, not dose; HU to relative stopping power by matRad's default table, piecewise linear"
TISSUES = {
    "air": f"CT is below {AIR_BELOW_HU:g} HU",
    "soft": f"CT lies from {AIR_BELOW_HU:g} to {BONE_ABOVE_HU:g} HU",
    "bone": f"CT is above {BONE_ABOVE_HU:g} HU",
}


def _card(name: str, unit: str, better: str, note: str, **other: str) -> MetricCard:
    fields = {"range": _RAW, "mask": _MASK, "dimensionality": "3D", "aggregation": _CASES, "weights": "none"} | other
    return MetricCard(name=name, unit=unit, better=better, note=note, **fields)


def _within(where: str) -> dict[str, str]:
    return {"mask": f"{_MASK}, where the {where}", "absent": f"nowhere inside the mask the {where}"}


CLINICAL_CARDS = (
    _card("me_hu", "HU", "zero", "bias: mean of sCT - CT over the mask; errors of opposite sign cancel"),
    *(
        card
        for tissue, where in TISSUES.items()
        for card in (
            _card(f"mae_{tissue}_hu", "HU", "lower", f"MAE where the {where}", **_within(where)),
            _card(f"me_{tissue}_hu", "HU", "zero", f"bias where the {where}", **_within(where)),
        )
    ),
    *(
        _card(
            f"dice_bone_{threshold}",
            "1",
            "higher",
            f"Dice of CT > {threshold} HU and sCT > {threshold} HU; none where neither has such a voxel",
            range=f"threshold {threshold} HU",
            absent="neither image has a voxel above the threshold inside the mask",
        )
        for threshold in DICE_THRESHOLDS_HU
    ),
    _card(
        "wepl_mae_mm",
        "mm",
        "lower",
        f"water-equivalent path length, mean |sCT - CT| over the beams of a case; {_SURROGATE}",
        dimensionality="1D",
        aggregation=_BEAMS,
    ),
    _card(
        "wepl_max_mm",
        "mm",
        "lower",
        f"water-equivalent path length, largest |sCT - CT| of a case; {_SURROGATE}",
        dimensionality="1D",
        aggregation=_BEAMS,
    ),
    _card(
        "wepl_me_mm",
        "mm",
        "zero",
        f"water-equivalent path length, mean of sCT - CT over the beams of a case; {_SURROGATE}",
        dimensionality="1D",
        aggregation=_BEAMS,
    ),
    _card(
        "continuity",
        "1",
        "one",
        "mean |difference of neighbouring slices| of the sCT over that of the CT, both voxels inside the mask; above 1 "
        "the sCT jumps from slice to slice",
        absent="no two neighbouring slices inside the mask, or a CT that does not change between them",
    ),
    _card(
        "continuity_bone_edge",
        "1",
        "one",
        f"continuity at the border of CT > {BONE_ABOVE_HU:g} HU, one voxel to either side",
        absent=f"no border of CT > {BONE_ABOVE_HU:g} HU inside the mask",
    ),
    _card(
        "mae_core_hu",
        "HU",
        "lower",
        "MAE without the mask's outermost 3 voxels, where outlines and registration disagree",
        mask=f"{_MASK}, eroded by 3 voxels; image faces are no boundary",
        absent="the mask is thinner than the shell of 3 voxels",
    ),
    _card(
        "mae_shift_hu",
        "HU",
        "lower",
        "the lowest MAE over all shifts of the sCT by up to 2 voxels along each axis; far below the MAE: misplaced",
    ),
    _card("shift_mm", "mm", "none", "length of the shift at which mae_shift_hu is reached"),
)
