"""The clinical panel: where in the body the errors are, and what they would do. One value per 3-D case.

Volumes are HU, one 3-D shape, file order; inside is mask > 0. The tissues are told apart on the *reference* CT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mrict_core.metrics.alignment import alignment, continuity
from mrict_core.metrics.path_length import wepl_errors
from mrict_core.metrics.synthrad import checked_volumes

AIR_BELOW_HU = -200.0
BONE_ABOVE_HU = 250.0
DICE_THRESHOLDS_HU = (150, 250, 350, 500)
# 50 HU steps, from below air to dense bone; what lies beyond counts in the bin at its end
CALIBRATION_EDGES_HU = tuple(float(edge) for edge in range(-1050, 2051, 50))


def tissue_errors(ct: np.ndarray, sct: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Return MAE, ME (mean of sCT - CT) and voxel count of air, soft tissue and bone, and `me_hu` of the whole mask.

    Air: CT < -200 HU inside the mask; soft: -200 to 250; bone: above 250. Keys `mae_air_hu`, `me_air_hu`, `n_air` …; a
    tissue without a voxel has NaN and 0.
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
    """Return the Dice coefficient of (CT > t) and (sCT > t) inside the mask for every threshold, `dice_bone_250` say.

    NaN where neither holds a voxel, 0 where only one does.
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
    """The sCT at each value of the CT: bins of the CT, and count, mean and SD (ddof 0) of the sCT in them."""

    edges_hu: tuple[float, ...]  # B + 1
    count: np.ndarray  # (B,) int
    mean_hu: np.ndarray  # (B,), NaN in empty bins
    sd_hu: np.ndarray  # (B,), NaN in empty bins


def calibration(
    ct: np.ndarray, sct: np.ndarray, mask: np.ndarray, edges_hu: tuple[float, ...] = CALIBRATION_EDGES_HU
) -> Calibration:
    """Return the HU calibration curve: the mean sCT, and its spread, of the voxels whose CT falls into a bin.

    A bin holds its lower edge. CT values beyond the outer edges count in the bin at that end.
    """
    ct, sct, inside = checked_volumes(ct, sct, mask)
    bins = np.clip(np.searchsorted(edges_hu, ct[inside], side="right") - 1, 0, len(edges_hu) - 2)
    fake = sct[inside].astype(np.float64)
    size = len(edges_hu) - 1
    count = np.bincount(bins, minlength=size)
    with np.errstate(invalid="ignore"):  # 0 / 0 in empty bins is the NaN that is wanted
        mean = np.bincount(bins, fake, size) / count
        variance = np.bincount(bins, np.square(fake - mean[bins]), size) / count
    return Calibration(tuple(edges_hu), count, mean, np.sqrt(variance))


def clinical_panel(
    ct: np.ndarray, sct: np.ndarray, mask: np.ndarray, affine: np.ndarray, axis: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return (scalars, details) of one case: every number of this panel by name, and the curves, ready for json.

    affine: voxel -> RAS mm, 4x4; axis: the file axis along which slices follow each other.
    """
    ct, sct, inside = checked_volumes(ct, sct, mask)
    wepl = wepl_errors(ct, sct, inside, affine)
    aligned = alignment(ct, sct, inside)
    spacing = np.linalg.norm(np.asarray(affine, np.float64)[:3, :3], axis=0)
    scalars = {
        **tissue_errors(ct, sct, inside),
        **bone_dice(ct, sct, inside),
        "wepl_mae_mm": wepl.wepl_mae_mm,
        "wepl_max_mm": wepl.wepl_max_mm,
        "wepl_me_mm": wepl.wepl_me_mm,
        **continuity(ct, sct, inside, axis),
        "mae_core_hu": aligned.mae_core_hu,
        "mae_shift_hu": aligned.mae_shift_hu,
        "shift_mm": float(np.linalg.norm(np.array(aligned.shift_voxels) * spacing)),
    }
    curve = calibration(ct, sct, inside)
    details = {
        "calibration": {
            "edges_hu": list(curve.edges_hu),
            "count": curve.count.tolist(),
            "mean_hu": curve.mean_hu.tolist(),
            "sd_hu": curve.sd_hu.tolist(),
        },
        "wepl": {"angles_deg": list(wepl.angles_deg), "ct_mm": list(wepl.ct_mm), "error_mm": list(wepl.error_mm)},
    }
    return scalars, details
