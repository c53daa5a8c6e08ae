"""Through-plane continuity, and errors that account for misalignment."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mrict_core.errors import MrictError
from mrict_core.hu import BONE_ABOVE_HU
from mrict_core.machine import cpu_count
from mrict_core.metrics.case import checked_volumes

REACH_VOXELS = 2
SHELL_VOXELS = 3


def continuity(ct: np.ndarray, sct: np.ndarray, mask: np.ndarray, axis: int) -> dict[str, float]:
    """Return how much rougher the sCT is than the CT from slice to slice: the mean |d sCT| over the mean |d CT|.

    Differences of neighbouring voxels along `axis`, both inside the mask. `continuity`: all of them;
    `continuity_bone_edge`: those with one of the two in the two-voxel zone around the border of CT > 250 HU. Above 1
    the sCT jumps where the CT does not; below 1 it is smoother. NaN without a pair, or with a constant CT.
    """
    ct, sct, inside = checked_volumes(ct, sct, mask)
    if axis not in range(-3, 3):
        raise MrictError(f"axis {axis}: expected 0, 1 or 2, the slice axis")
    bone = ct > BONE_ABOVE_HU
    edge = ndimage.binary_dilation(bone) & ~ndimage.binary_erosion(bone, border_value=1)
    ct, sct, inside, edge = (np.moveaxis(volume, axis, 0) for volume in (ct, sct, inside, edge))
    pairs = inside[1:] & inside[:-1]
    steps = [np.abs(np.diff(volume, axis=0)) for volume in (ct, sct)]
    return {
        "continuity": _ratio(*(step[pairs] for step in steps)),
        "continuity_bone_edge": _ratio(*(step[pairs & (edge[1:] | edge[:-1])] for step in steps)),
    }


def _ratio(real: np.ndarray, fake: np.ndarray) -> float:
    below = float(real.mean(dtype=np.float64)) if real.size else 0.0
    return float(fake.mean(dtype=np.float64)) / below if below else float("nan")


@dataclass(frozen=True)
class Alignment:
    """Errors that, next to the plain MAE, separate misplaced from wrong HU."""

    mae_shift_hu: float  # the lowest MAE over all small shifts of the sCT
    shift_voxels: tuple[int, int, int]  # moving the sCT by this many voxels along the file axes reaches it
    mae_core_hu: float  # without the shell of the mask; NaN if nothing is left


def alignment(
    ct: np.ndarray,
    sct: np.ndarray,
    mask: np.ndarray,
    reach_voxels: int = REACH_VOXELS,
    shell_voxels: int = SHELL_VOXELS,
) -> Alignment:
    """Return the MAE under the best shift of the sCT, and the MAE without the mask's outermost voxels.

    Shifts are whole voxels up to `reach_voxels` along every axis longer than that; the mask is fixed to the CT, and the
    sCT is padded with its edge values. Of equal errors the smallest shift wins. The shell is `shell_voxels` thick and
    removed at the mask's border, not at the image's; axes of length 1 have none.
    """
    ct, sct, inside = checked_volumes(ct, sct, mask)
    shift, best = _best_shift(ct, sct, inside, reach_voxels)
    core = inside
    if shell_voxels:
        structure = ndimage.generate_binary_structure(3, 1)
        for axis in (a for a in range(3) if ct.shape[a] == 1):
            structure[tuple(slice(None) if a != axis else [0, 2] for a in range(3))] = False
        core = ndimage.binary_erosion(inside, structure, iterations=shell_voxels, border_value=1)
    error = np.abs(ct[core] - sct[core])
    return Alignment(best, shift, float(error.mean(dtype=np.float64)) if error.size else float("nan"))


def _best_shift(ct: np.ndarray, sct: np.ndarray, inside: np.ndarray, reach: int) -> tuple[tuple[int, int, int], float]:
    """Return (shift, its MAE); the sCT shifted by s has at voxel v its value of v - s."""
    # With padding no index is out of range; with flat indices every shift is one offset.
    padded = np.pad(sct, reach, mode="edge").ravel()
    strides = np.array([(ct.shape[1] + 2 * reach) * (ct.shape[2] + 2 * reach), ct.shape[2] + 2 * reach, 1])
    places = (np.argwhere(inside) + reach) @ strides
    real = ct[inside]
    reaches = [range(-reach, reach + 1) if length > reach else (0,) for length in ct.shape]
    shifts = sorted(itertools.product(*reaches), key=lambda s: sum(v * v for v in s))

    def mae(shift: tuple[int, ...]) -> float:
        return float(np.abs(padded[places - int(np.dot(shift, strides))] - real).mean(dtype=np.float64))

    with ThreadPoolExecutor(cpu_count()) as pool:
        errors = list(pool.map(mae, shifts))
    best = int(np.argmin(errors))  # the first of equal errors: the smallest shift
    return tuple(int(v) for v in shifts[best]), errors[best]
